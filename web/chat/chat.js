// The chat: the open conversation on the page, and everything that can be done with it.

import { $, copyButton, h, icon, iconButton } from "./dom.js";
import { Answer, resultView, showItems } from "./answer.js";
import { Conversation, Turn, textOf } from "./conversation.js";
import { render } from "./markdown.js";
import { requestFields } from "./settings.js";
import { Failure, events, json, request } from "./wire.js";

const CONTINUE = "Continue exactly where you stopped.";
const PATIENCE_MS = 5000;
const AGAIN_MS = 300;
const NEAR = 80;

let numTurns = 0;

export class Chat {
  constructor({ onchange, onfault }) {
    this.thread = $("thread");
    this.scroller = $("scroller");
    this.onchange = onchange;
    this.onfault = onfault;
    this.live = new Set();
    this.follows = true;
    this.opening = 0;
    /** Whether another conversation is on its way: what is sent now would go to the wrong one. */
    this.isOpening = false;
    this.conversation = new Conversation();
    this.leaf = null;
    this.scroller.addEventListener("scroll", () => this.look(), { passive: true });
    $("to-bottom").addEventListener("click", () => this.toEnd(true));
  }

  // Which conversation is open

  begin() {
    this.opening++;
    this.isOpening = false;
    this.conversation = new Conversation();
    this.leaf = null;
    this.show();
  }

  /** Open a conversation at one of its responses. */
  async open(name) {
    const opening = ++this.opening;
    this.isOpening = true;
    try {
      await this.fetch(name, opening);
    } finally {
      if (opening === this.opening) this.isOpening = false;
    }
  }

  async fetch(name, opening) {
    const known = [this.conversation, ...this.live].find((each) => each.turns.has(name));
    const conversation = known ?? (await this.find(name, opening));
    if (opening !== this.opening) return;
    this.conversation = conversation;
    this.leaf = conversation.turns.get(name) ?? conversation.newest(conversation.last);
    this.show();
    this.toEnd(true);
  }

  /**
   * A conversation that the server keeps. One whose first answer is still being written is waited
   * for: a page that is reloaded asks before the server has heard that the old one left.
   */
  async find(name, opening) {
    const id = encodeURIComponent(name);
    for (let isOver = false; ; ) {
      try {
        return new Conversation(await json(`/conversations/${id}`));
      } catch (fault) {
        if (fault.status !== 404 || isOver || opening !== this.opening) throw fault;
        const response = await json(`/v1/responses/${id}`).catch(() => null);
        if (!response) throw fault;
        isOver = !isRunning(response);
        if (!isOver) await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
      }
    }
  }

  /** Keep what is open, though something else was on its way. */
  stay() {
    this.opening++;
    this.isOpening = false;
  }

  get run() {
    return this.leaf?.run ?? null;
  }

  /** The conversation that is open, by the server's name for it. */
  get id() {
    return this.leaf?.tree ?? this.conversation.id;
  }

  show() {
    const path = this.conversation.path(this.leaf);
    this.replace(path.map((turn) => this.viewOf(turn)));
    for (const turn of path) this.showSiblings(turn);
    const isNew = !path.length && !this.conversation.id;
    document.body.classList.toggle("is-new", isNew);
    $("title").textContent =
      this.conversation.title ||
      path[0]?.question.slice(0, 80) ||
      (isNew ? "New chat" : "Untitled");
    document.title = isNew ? "Chat" : $("title").textContent;
    this.onchange();
  }

  /** Put turns on the page. Whoever is in one with the keyboard stays there, or can write on. */
  replace(elements) {
    const focused = this.thread.querySelector(":focus-visible");
    const shown = [...this.thread.children];
    if (shown.length === elements.length && shown.every((each, place) => each === elements[place]))
      return;
    this.thread.replaceChildren(...elements);
    if (focused) (focused.isConnected ? focused : $("prompt")).focus({ preventScroll: true });
  }

  // Asking

  /** Ask after the open leaf, or after another turn. */
  async send(text, { after = this.leaf, items = null } = {}) {
    if (this.run) return;
    this.stay();
    const { conversation } = this;
    let fields;
    try {
      fields = requestFields();
    } catch {
      this.onfault(new Failure("The tools in the settings are not JSON."));
      return;
    }
    const { parent, said, again, body } = conversation.following(after);
    const asked = items ?? [{ type: "message", role: "user", content: text }];
    const turn = new Turn({
      id: `new-${++numTurns}`,
      parent,
      input: [...said, ...asked],
      response: { status: "queued" },
    });
    for (const each of again) each.isSuperseded = !each.children.length;
    conversation.add(turn);
    this.leaf = turn;
    turn.run = { controller: new AbortController() };
    this.live.add(conversation);
    this.show();
    this.toEnd(true);
    await this.answer(turn, conversation, {
      ...fields,
      ...(conversation.canForget ? { truncation: "auto" } : {}),
      ...body,
      input: turn.input,
      stream: true,
      return_progress: true,
    });
    delete turn.run;
    if (isKept(turn)) await this.forget(again, conversation);
    else for (const each of again) each.isSuperseded = false;
    if (![...conversation.turns.values()].some((each) => each.run)) this.live.delete(conversation);
    if (this.conversation === conversation) {
      this.show();
      this.follow();
    }
    this.onchange({ isOver: true });
  }

  /** Let go of turns that another has in its question now: they would be there twice. */
  async forget(turns, conversation) {
    for (const turn of turns.filter((each) => isKept(each) && each.isSuperseded)) {
      await request(`/v1/responses/${turn.id}`, { method: "DELETE" }).catch(() => {});
      conversation.remove(turn);
    }
  }

  async answer(turn, conversation, body) {
    const { answer } = turn.view;
    try {
      const { signal } = turn.run.controller;
      const reply = await request("/v1/responses", { method: "POST", body, signal });
      for await (const news of events(reply)) {
        for (const event of news) this.hear(event, turn, conversation);
      }
      if (isRunning(turn)) throw new Failure("The connection was lost.");
    } catch (fault) {
      if (isRunning(turn)) this.breakOff(turn, fault);
    }
    answer.finish(turn, true);
    this.showCalls(turn);
  }

  /** End a turn whose stream has not come to its end. */
  breakOff(turn, fault) {
    const isStopped = fault.name === "AbortError";
    const message = fault instanceof Failure ? fault.message : "The connection was lost.";
    turn.fault = fault.code ?? "";
    turn.response = {
      ...turn.response,
      status: isStopped ? "cancelled" : "failed",
      error: isStopped ? null : { message },
    };
    if (!(fault instanceof Failure) && !isStopped) console.warn(fault);
  }

  hear(event, turn, conversation) {
    turn.view.answer.take(event);
    if (event.type === "error") turn.fault = event.code;
    if (!event.response) return;
    turn.response = event.response;
    turn.output = event.response.output;
    if (event.type !== "response.created") return;
    conversation.rename(turn, event.response.id);
    if (this.leaf === turn && !this.isOpening) this.remember();
    if (turn.run.isStopping) this.cancel(turn);
    this.onchange();
  }

  /** Put the open leaf into the address, so that a reload finds it. */
  remember() {
    const address = `#${this.leaf.id}`;
    if (location.hash === address) return;
    if (location.hash) history.replaceState(null, "", address);
    else history.pushState(null, "", address);
  }

  /** Give the running answer up; what was written stays. */
  async stop() {
    const { leaf, run } = this;
    if (!run || run.isStopping) return;
    run.isStopping = true;
    leaf.view.answer.say("Stopping", "live");
    setTimeout(() => run.controller.abort(), PATIENCE_MS);
    // Before the server has given it an id there is nothing to cancel: it is done when it comes.
    if (isKept(leaf)) await this.cancel(leaf);
  }

  async cancel(turn) {
    const { controller } = turn.run;
    try {
      const response = await json(`/v1/responses/${turn.id}/cancel`, { method: "POST" });
      if (isRunning(turn)) Object.assign(turn, { response, output: response.output });
    } catch {
      controller.abort();
    }
  }

  retry(turn) {
    return this.send("", { after: turn.parent, items: turn.again() });
  }

  edit(turn, text) {
    return this.send("", { after: turn.parent, items: turn.again(text) });
  }

  /** Ask again what did not fit; from here on the oldest turns may be left out. */
  shorten(turn) {
    this.conversation.canForget = true;
    return this.retry(turn);
  }

  branch(turn) {
    this.stay();
    this.leaf = turn;
    this.show();
    this.remember();
    this.toEnd(true);
    $("prompt").focus();
  }

  /** Show another branch: the newest that follows from one of a turn's siblings. */
  choose(turn) {
    this.stay();
    this.leaf = this.conversation.newest(turn);
    this.show();
    if (isKept(this.leaf)) this.remember();
  }

  // Views

  viewOf(turn) {
    turn.view ??= this.makeView(turn);
    return turn.view.element;
  }

  makeView(turn) {
    const answer = new Answer({
      onflush: () => this.follow(),
      actions: {
        retry: turn.input.length ? () => this.retry(turn) : null,
        branch: () => this.branch(turn),
        proceed: () => this.send(CONTINUE, { after: turn }),
        shorten: () => this.shorten(turn),
      },
    });
    const siblings = h("span", { class: "siblings" });
    const asked = h(
      "div",
      { class: "asked" },
      heading("You"),
      turn.input.map((item) => askedView(item, this.conversation)),
      this.askedButtons(turn, siblings),
    );
    answer.element.prepend(heading("Answer"));
    const element = h("article", { class: "turn" }, asked, answer.element);
    const view = { element, answer, siblings, asked };
    if (!turn.run && turn.status !== "queued") {
      showItems(answer, turn.output);
      if (turn.response) answer.finish(turn, false);
      turn.view = view;
      this.showCalls(turn);
    } else {
      answer.say("Sending", "live");
    }
    return view;
  }

  askedButtons(turn, siblings) {
    if (!turn.input.length) return null;
    const edit = turn.question
      ? iconButton("pen", "Edit the message", () => this.startEditing(turn))
      : null;
    const copy = turn.question ? copyButton("Copy the message", () => turn.question) : null;
    return h("div", { class: "buttons" }, edit, copy, siblings);
  }

  showSiblings(turn) {
    const all = this.conversation.siblings(turn);
    const place = all.indexOf(turn);
    const step = (name, label, to) =>
      iconButton(name, label, () => this.choose(all[to]), { disabled: !all[to] });
    turn.view.siblings.replaceChildren(
      ...(all.length < 2
        ? []
        : [
            step("left", "The branch before", place - 1),
            h("span", {}, `${place + 1} / ${all.length}`),
            step("right", "The next branch", place + 1),
          ]),
    );
  }

  startEditing(turn) {
    const field = h("textarea", { "aria-label": "Edit the message", rows: "1" });
    field.value = turn.question;
    const { asked } = turn.view;
    const before = [...asked.childNodes];
    const end = () => {
      asked.replaceChildren(...before);
      asked.querySelector(".buttons button")?.focus({ preventScroll: true });
    };
    const send = () => {
      end();
      if (field.value.trim() && !this.run) this.edit(turn, field.value.trim());
    };
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        end();
      } else if (isSending(event)) {
        event.preventDefault();
        send();
      }
    });
    asked.replaceChildren(
      h(
        "div",
        { class: "editing" },
        field,
        h(
          "div",
          { class: "buttons" },
          h("button", { type: "button", onclick: end }, "Cancel"),
          h("button", { type: "button", class: "primary", onclick: send }, "Send"),
        ),
      ),
    );
    field.focus();
  }

  /** Fields for the results of the calls that an answer ended with. */
  showCalls(turn) {
    turn.view.element.querySelector(".results")?.remove();
    const calls = turn.openCalls;
    if (!calls.length || !turn.canContinue || turn.children.length) return;
    const fields = calls.map((call) =>
      h("label", {}, `Result of ${call.name}`, h("textarea", { rows: "2" })),
    );
    const form = h(
      "form",
      { class: "results" },
      fields,
      h("div", { class: "buttons" }, h("button", { class: "primary" }, "Give the results")),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const items = calls.map((call, place) => ({
        type: call.type === "function_call" ? "function_call_output" : "custom_tool_call_output",
        call_id: call.call_id,
        output: fields[place].querySelector("textarea").value,
      }));
      if (this.run) return;
      const isByKeyboard = form.querySelector(":focus-visible");
      form.remove();
      if (isByKeyboard) $("prompt").focus();
      this.send("", { after: turn, items });
    });
    turn.view.element.append(form);
  }

  // The end of the page

  follow() {
    if (this.follows) this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  toEnd(now) {
    this.follows = true;
    this.scroller.scrollTo({
      top: this.scroller.scrollHeight,
      behavior: now ? "instant" : "smooth",
    });
  }

  look() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    this.follows = scrollHeight - scrollTop - clientHeight < NEAR;
    $("to-bottom").hidden = this.follows;
  }
}

/** Where a screen reader can jump to. */
function heading(text) {
  return h("h2", { class: "sr-only" }, text);
}

/** Whether the server has a response for a turn. */
function isKept(turn) {
  return turn.id.startsWith("resp_");
}

/** Whether a turn, or a response, has not come to its end. */
function isRunning({ status }) {
  return status === "queued" || status === "in_progress";
}

/** Whether a key sends: Enter alone, but not the Enter that ends a word of an input method. */
export function isSending(event) {
  return event.key === "Enter" && !event.shiftKey && !event.isComposing;
}

function askedView(item, conversation) {
  switch (item.type ?? "message") {
    case "message":
      return messageView(item);
    case "function_call_output":
    case "custom_tool_call_output":
      return resultView(item, conversation.nameOf(item.call_id) ?? "a tool");
    case "compaction":
      return h("p", { class: "state" }, "What came before was compacted.");
    default:
      return null;
  }
}

function messageView(item) {
  const text = textOf(item);
  if (item.role === "user") return h("div", { class: "bubble" }, text);
  if (item.role === "assistant") {
    const prose = h("div", { class: "prose" });
    render(prose, text);
    return prose;
  }
  return h(
    "details",
    { class: "thought" },
    h("summary", {}, icon("sliders"), h("span", {}, "Instructions")),
    h("div", { class: "thought-text" }, text),
  );
}
