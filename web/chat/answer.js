// An answer on the page: thoughts, text and calls as they come, and a line that says how it went.

import { announce, copyButton, h, icon, iconButton } from "./dom.js";
import { Markdown, render } from "./markdown.js";
import { textOf, thoughtOf } from "./conversation.js";

export class Answer {
  constructor({ onflush, actions }) {
    this.body = h("div", { class: "answer-body" });
    this.state = h("p", { class: "state" });
    this.bar = h("progress", {
      class: "bar",
      max: "1",
      value: "0",
      "aria-label": "Reading the prompt",
      hidden: true,
    });
    this.foot = h("footer", { class: "foot" });
    this.element = h("div", { class: "answer" }, this.body, this.state, this.bar, this.foot);
    this.onflush = onflush;
    this.actions = actions;
    this.items = new Map();
    this.began = performance.now();
    this.first = null;
  }

  /** Name what is going on. */
  say(text, kind = "") {
    if (this.state.textContent === text) return;
    this.state.textContent = text;
    this.state.className = `state ${kind}`;
    if (!/\d/.test(text)) announce(text);
  }

  // While it streams

  take(event) {
    switch (event.type) {
      case "response.created":
      case "response.in_progress":
        if (!this.items.size) this.say("Reading", "live");
        break;
      case "response.queued":
        this.say("Queued", "live");
        break;
      case "response.progress":
        this.progress(event);
        break;
      case "response.output_item.added":
        this.open(event.item);
        break;
      case "response.reasoning_summary_text.delta":
      case "response.output_text.delta":
      case "response.function_call_arguments.delta":
      case "response.custom_tool_call_input.delta":
        this.first ??= performance.now();
        this.items.get(event.item_id)?.write(event.delta);
        break;
      case "response.output_item.done":
        this.items.get(event.item.id)?.close(event.item);
        break;
    }
  }

  progress({ stage, num_ahead, processed, total }) {
    if (stage === "waking") {
      this.say("Waking the model", "live");
    } else if (stage === "waiting") {
      this.say(num_ahead ? `Queued, ${num_ahead} ahead` : "Queued, next", "live");
    } else if (total) {
      this.say(`Reading ${Math.floor((100 * processed) / total)} %`, "live");
      this.bar.value = processed / total;
      this.bar.hidden = false;
    }
  }

  open(item) {
    this.first ??= performance.now();
    this.bar.hidden = true;
    const view = viewOf(item, this.onflush);
    if (!view) return;
    this.say(view.verb, "live");
    // The thought itself says so, where one can see it.
    this.element.classList.toggle("is-thinking", view.verb === "Thinking");
    this.items.set(item.id, view);
    this.body.append(view.element);
  }

  // When it is over

  /** Show a response that has ended; `isLive` when it was streamed to this page just now. */
  finish(turn, isLive) {
    const { response } = turn;
    this.bar.hidden = true;
    this.element.classList.remove("is-thinking");
    for (const view of this.items.values()) view.close();
    if (isLive) turn.timings = this.timings(response);
    const { timings } = turn;
    if (timings?.thinking_s)
      this.element
        .querySelector(".thought")
        ?.dispatchEvent(new CustomEvent("timed", { detail: timings.thinking_s }));
    const thought = response?.usage?.output_tokens_details?.reasoning_tokens;
    if (thought)
      this.element
        .querySelector(".thought")
        ?.dispatchEvent(new CustomEvent("counted", { detail: thought }));
    this.say(outcome(response), response?.status === "failed" ? "failed" : "");
    this.state.hidden = !this.state.textContent;
    this.foot.replaceChildren(this.measures(response, timings), this.buttons(turn));
    if (isLive) announce(`${this.state.textContent || "Answered"}. ${turn.answer.slice(0, 400)}`);
  }

  /** As this page saw it; the server says it of answers that are there already. */
  timings(response) {
    const now = performance.now();
    const tokens = response?.usage?.output_tokens ?? 0;
    if (this.first === null) return null;
    const thought = [...this.items.values()].reduce((sum, view) => sum + (view.seconds ?? 0), 0);
    return {
      first_token_s: (this.first - this.began) / 1000,
      tokens_per_s: tokens > 1 ? ((tokens - 1) * 1000) / (now - this.first) : null,
      thinking_s: thought,
    };
  }

  measures(response, timings) {
    const { usage } = response ?? {};
    const shown = [];
    if (usage)
      shown.push([count(usage.output_tokens, "token"), "Tokens of the answer, thinking included"]);
    const rate = timings?.tokens_per_s;
    if (usage && rate)
      shown.push([
        `${rate.toFixed(rate < 10 ? 1 : 0)} tok/s`,
        "Tokens a second, from the first to the last",
      ]);
    if (typeof timings?.first_token_s === "number")
      shown.push([`first ${seconds(timings.first_token_s)}`, "Time to the first token"]);
    if (usage) shown.push([`read ${number(usage.input_tokens)}`, "Tokens of the prompt"]);
    if (usage?.input_tokens_details?.cached_tokens)
      shown.push([
        `${number(usage.input_tokens_details.cached_tokens)} cached`,
        "Tokens of the prompt that were not computed anew",
      ]);
    if (response) shown.push([REASONS[response.status] ?? response.status, "How it ended"]);
    return h(
      "p",
      { class: "measures" },
      shown.map(([text, title]) => h("span", { title }, text)),
    );
  }

  buttons(turn) {
    const { retry, branch, proceed, shorten } = this.actions;
    const all = [
      turn.answer ? copyButton("Copy the answer", () => turn.answer) : null,
      retry ? iconButton("retry", "Try again", retry) : null,
      turn.canContinue && branch ? iconButton("branch", "Branch from here", branch) : null,
    ];
    if (turn.status === "incomplete")
      all.push(h("button", { type: "button", class: "proceed", onclick: proceed }, "Continue"));
    if (turn.fault === "context_length_exceeded" && turn.parent)
      all.push(
        h(
          "button",
          { type: "button", class: "proceed", onclick: shorten },
          "Go on without the oldest turns",
        ),
      );
    return h("div", { class: "buttons" }, all);
  }
}

const REASONS = {
  completed: "finished",
  incomplete: "cut at the limit",
  cancelled: "stopped",
  failed: "failed",
};

function outcome(response) {
  if (!response) return "";
  if (response.status === "failed")
    return `Failed: ${response.error?.message ?? "the server does not say why."}`;
  if (response.status === "cancelled") return "Stopped";
  return "";
}

/** The items of an answer that is there already. */
export function showItems(answer, items) {
  for (const item of items) {
    const view = viewOf(item, () => {}, true);
    if (view) answer.body.append(view.element);
  }
}

function viewOf(item, onflush, isWhole = false) {
  switch (item.type) {
    case "message":
      return messageView(item, onflush, isWhole);
    case "reasoning":
      return isWhole && !thoughtOf(item) ? null : thoughtView(item, onflush, isWhole);
    case "function_call":
      return callView(item, "arguments", isWhole);
    case "custom_tool_call":
      return callView(item, "input", isWhole);
    default:
      return null;
  }
}

function messageView(item, onflush, isWhole) {
  const element = h("div", { class: "prose" });
  if (isWhole) {
    render(element, textOf(item));
    return { element };
  }
  const markdown = new Markdown(element);
  markdown.onflush = onflush;
  element.classList.add("writing");
  const close = () => {
    if (element.classList.replace("writing", "written")) markdown.end();
  };
  return { element, verb: "Writing", write: (text) => markdown.write(text), close };
}

function thoughtView(item, onflush, isWhole) {
  const began = performance.now();
  const label = h("span", {}, isWhole ? "Thought" : "Thinking");
  const detail = h("span", { class: "faint" });
  const text = h("div", { class: "thought-text" }, isWhole ? thoughtOf(item) : "");
  const element = h(
    "details",
    { class: "thought" },
    h("summary", {}, icon("spark"), label, detail),
    text,
  );
  const known = {};
  const tell = () => {
    detail.textContent = [
      known.time && seconds(known.time),
      known.tokens && count(known.tokens, "token"),
    ]
      .filter(Boolean)
      .join(" · ");
  };
  element.addEventListener("timed", (event) => {
    known.time = event.detail;
    tell();
  });
  element.addEventListener("counted", (event) => {
    known.tokens = event.detail;
    tell();
  });
  const view = { element, verb: "Thinking", seconds: null };
  if (isWhole) return view;
  element.classList.add("live");
  let waiting = "";
  let timer = 0;
  const flush = () => {
    clearTimeout(timer);
    timer = 0;
    text.append(waiting);
    waiting = "";
    onflush();
  };
  view.write = (more) => {
    waiting += more;
    timer ||= setTimeout(flush);
  };
  view.close = () => {
    if (view.seconds !== null) return;
    flush();
    view.seconds = (performance.now() - began) / 1000;
    label.textContent = "Thought";
    element.classList.remove("live");
    known.time = view.seconds;
    tell();
  };
  return view;
}

function callView(item, field, isWhole) {
  const code = h("code", {}, isWhole ? pretty(item[field]) : "");
  const element = h(
    "details",
    { class: "call", open: true },
    h("summary", {}, icon("tool"), h("span", {}, "Calls ", h("b", {}, item.name))),
    h("pre", { tabindex: "0" }, code),
  );
  return {
    element,
    verb: `Calling ${item.name}`,
    write: (text) => code.append(text),
    close: (done) => {
      if (done) code.textContent = pretty(done[field]);
    },
  };
}

/** The result of a call, which is part of the next question. */
export function resultView(item, name) {
  return h(
    "details",
    { class: "call result" },
    h("summary", {}, icon("check"), h("span", {}, `Result of ${name}`)),
    h("pre", { tabindex: "0" }, h("code", {}, pretty(textOf(item)))),
  );
}

function pretty(text) {
  try {
    const value = JSON.parse(text);
    return typeof value === "object" ? JSON.stringify(value, null, 2) : text;
  } catch {
    return text;
  }
}

// Numbers

const number = (value) => value.toLocaleString("en");
const count = (value, noun) => `${number(value)} ${noun}${value === 1 ? "" : "s"}`;
const seconds = (value) =>
  value < 10
    ? `${value.toFixed(1)} s`
    : value < 90
      ? `${Math.round(value)} s`
      : `${Math.round(value / 60)} min`;
