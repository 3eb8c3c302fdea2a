// The runner: sends a sample, and shows what comes back while it comes.

import { announce, copyButton, events, h, request } from "/web/plain.js";

const LONGEST_RAW = 200000;

export class Runner {
  /** `ask` gives `{method, path, body}`, or throws an error that says what is missing. */
  constructor(ask, onAnswer = () => {}) {
    this.ask = ask;
    this.onAnswer = onAnswer;
    this.button = h("button", { type: "button", class: "primary", onclick: () => (this.stopping ? this.stopping.abort() : this.run()) }, "Run");
    this.line = h("p", { class: "outcome", role: "status" });
    this.thought = h("p", { class: "thought" });
    this.said = h("p", { class: "said" });
    this.raw = h("pre", { tabindex: "0" });
    this.rawBox = h("details", { class: "raw" }, h("summary", {}, "What was sent back"), this.raw);
    this.result = h("div", { class: "result", hidden: true },
      h("div", { class: "result-head" }, this.line, copyButton(() => this.raw.textContent, "Copy the answer")),
      this.thought, this.said, this.rawBox);
  }

  async run() {
    let asked;
    try {
      asked = this.ask();
    } catch (error) {
      return this.fail(error.message);
    }
    this.clear();
    this.stopping = new AbortController();
    this.button.textContent = "Stop";
    const began = performance.now();
    try {
      const answer = await request(asked.path, {
        method: asked.method,
        body: asked.body && JSON.stringify(asked.body),
        signal: this.stopping.signal,
      });
      await this.read(answer, began);
    } catch (error) {
      this.fail(error.name === "AbortError" ? "Stopped." : "The server cannot be reached.");
    } finally {
      this.stopping = null;
      this.button.textContent = "Run";
    }
  }

  clear() {
    this.result.hidden = false;
    this.line.textContent = "Waiting for the answer …";
    this.line.classList.remove("bad");
    for (const each of [this.thought, this.said, this.raw]) each.textContent = "";
    this.rawBox.open = false;
  }

  fail(sentence) {
    this.result.hidden = false;
    this.line.classList.add("bad");
    this.line.textContent = sentence;
  }

  async read(answer, began) {
    const isStream = answer.headers.get("content-type")?.startsWith("text/event-stream");
    let first = "";
    if (isStream) {
      for await (const { name, data } of events(answer)) {
        first ||= ` · first event after ${seconds(performance.now() - began)}`;
        this.hear(name, data);
      }
    } else {
      this.show(await answer.text());
    }
    this.line.classList.toggle("bad", !answer.ok);
    this.line.textContent = `${answer.status} · ${seconds(performance.now() - began)}${first}`;
    announce(`Answered with ${answer.status}`);
    if (!this.said.textContent || !answer.ok) this.rawBox.open = true;
  }

  hear(name, data) {
    if (this.raw.textContent.length < LONGEST_RAW) this.raw.append(`${name === "message" ? "" : `event: ${name}\n`}data: ${data}\n\n`);
    if (data === "[DONE]") return;
    const told = JSON.parse(data);
    for (const choice of told.choices ?? []) this.tell(choice.delta);
    if (told.type === "response.output_text.delta") this.tell({ content: told.delta });
    if (told.type?.startsWith("response.reasoning") && told.type.endsWith(".delta")) this.tell({ reasoning: told.delta });
    this.onAnswer(told.response ?? told);
  }

  tell({ content, reasoning, tool_calls: calls } = {}) {
    if (reasoning) this.thought.append(reasoning);
    if (content) this.said.append(content);
    for (const call of calls ?? []) this.said.append(`${call.function?.name ?? ""}${call.function?.arguments ?? ""}`);
  }

  show(text) {
    try {
      const told = JSON.parse(text);
      this.raw.textContent = JSON.stringify(told, null, 2);
      for (const choice of told.choices ?? []) this.tell(choice.message);
      for (const item of told.output ?? []) for (const part of item.content ?? []) this.tell({ [item.type === "message" ? "content" : "reasoning"]: part.text });
      this.onAnswer(told);
    } catch {
      this.raw.textContent = text.slice(0, LONGEST_RAW);
    }
  }
}

const seconds = (milliseconds) => `${(milliseconds / 1000).toFixed(2)} s`;
