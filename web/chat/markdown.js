// Markdown as it streams in: elements are only ever added, so a long answer costs no more per token.
// What a model writes becomes text nodes and a few kinds of elements; links lead to the web or a
// mailbox, and images are links, since a page that loads them would tell others that it was read.

import * as smd from "/web/vendor/streaming-markdown-0.2.15.min.js";
import { copyButton, h } from "./dom.js";

const SAFE = /^(https?:\/\/|mailto:)/i;
const MATH = { 30: "$$", 31: "$" };
const CODE = new Set([smd.CODE_BLOCK, smd.CODE_FENCE]);

export class Markdown {
  constructor(root) {
    this.root = root;
    this.text = "";
    this.waiting = "";
    this.timer = 0;
    const plain = smd.default_renderer(root);
    this.parser = smd.parser({
      ...plain,
      add_token: addToken,
      end_token: endToken,
      set_attr: setAttribute,
    });
    this.flush = this.flush.bind(this);
    this.onflush = () => {};
  }

  /** Take more text; it is shown in a moment, with what else has come. */
  write(text) {
    this.text += text;
    this.waiting += text;
    this.timer ||= setTimeout(this.flush);
  }

  flush() {
    clearTimeout(this.timer);
    this.timer = 0;
    const text = this.waiting;
    this.waiting = "";
    if (!text) return;
    this.parse(() => smd.parser_write(this.parser, text), text);
    this.onflush();
  }

  end() {
    this.flush();
    this.parse(() => smd.parser_end(this.parser), "");
  }

  /** Parse on, or show the rest as it is when that fails: nesting has its limits. */
  parse(step, text) {
    if (this.broken) {
      this.broken.append(text);
      return;
    }
    try {
      step();
    } catch {
      this.broken = this.root.appendChild(h("p", { class: "raw" }, text));
    }
  }
}

/** A whole text at once. */
export function render(root, text) {
  const markdown = new Markdown(root);
  markdown.parse(() => smd.parser_write(markdown.parser, text), text);
  markdown.parse(() => smd.parser_end(markdown.parser), "");
  markdown.text = text;
  return markdown;
}

function addToken(data, type) {
  const parent = data.nodes[data.index];
  if (type === smd.IMAGE) push(data, parent.appendChild(h("a", { class: "image" })));
  else if (type in MATH)
    push(
      data,
      parent.appendChild(h("span", { class: "math", data: { sign: MATH[type] } }, MATH[type])),
    );
  else if (type === smd.TABLE)
    push(data, parent.appendChild(h("div", { class: "table" })).appendChild(h("table")));
  else if (CODE.has(type)) push(data, codeBlock(parent));
  else plainAddToken(data, type);
}

const plainAddToken = smd.default_renderer(null).add_token;

function push(data, element) {
  data.nodes[++data.index] = element;
}

function codeBlock(parent) {
  const code = h("code");
  const head = h(
    "figcaption",
    {},
    h("span"),
    copyButton("Copy the code", () => code.textContent),
  );
  parent.append(h("figure", { class: "code" }, head, h("pre", { tabindex: "0" }, code)));
  return code;
}

function endToken(data) {
  const ended = data.nodes[data.index--];
  if (ended.dataset.sign) ended.append(ended.dataset.sign);
  if (ended.className === "image" && !ended.textContent) ended.textContent = "image";
}

function setAttribute(data, type, value) {
  const element = data.nodes[data.index];
  if (type === smd.HREF || type === smd.SRC) link(element, value);
  else if (type === smd.LANG)
    element.closest("figure").querySelector("figcaption span").textContent = value;
  else if (type === smd.START && /^\d{1,9}$/.test(value)) element.setAttribute("start", value);
  else if (element.type === "checkbox") element.checked = true;
}

function link(element, written) {
  const [address] = written.trim().split(/\s/); // a title may follow
  if (element.tagName !== "A" || !SAFE.test(address)) return;
  element.setAttribute("href", address);
  element.setAttribute("target", "_blank");
  element.setAttribute("rel", "noopener noreferrer");
}
