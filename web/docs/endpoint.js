// An endpoint: what it does, its fields, and a sample that can be changed, copied and run.

import { copyButton, h, prose } from "/web/plain.js";
import { fields, numFields, typeOf, words } from "/web/docs/schema.js";
import { LANGUAGES, sample } from "/web/docs/samples.js";
import { Runner } from "/web/docs/runner.js";

/** Values for the variables of paths, from what was answered last: every sample knows them. */
const known = new Map();
const samplers = [];

/** Give a variable a value, wherever nobody has written another. */
export function know(name, value) {
  known.set(name, value);
  for (const each of samplers) each.fill(name, value);
}

export const idOf = (method, path) => `${method}${path.replace(/[^a-z0-9_]+/gi, "-")}`.replace(/-$/, "");

export class EndpointView {
  constructor(method, path, operation, components, model) {
    this.method = method.toUpperCase();
    this.path = path;
    this.operation = operation;
    this.components = components;
    this.id = idOf(method, path);
    this.schema = operation.requestBody?.content["application/json"].schema;
    this.found = [path, operation.summary, operation.description, this.method,
      ...operation.parameters.map((each) => each.name), ...(this.schema ? words(this.schema, components) : [])].join(" ").toLowerCase();
    this.element = h("article", { class: "endpoint", id: this.id, "aria-labelledby": `${this.id}-title` },
      h("div", { class: "text" }, this.heading(), h("p", {}, prose(operation.description)), this.parameters(), this.body(), this.answers()),
      new Sampler(this, model).element);
    this.link = h("a", { href: `#${this.id}` }, h("span", { class: `verb ${method}` }, this.method), h("span", { class: "label" }, operation.summary));
  }

  heading() {
    return h("header", {},
      h("h3", { id: `${this.id}-title` }, this.operation.summary),
      h("p", { class: "route" }, h("span", { class: `verb ${this.method.toLowerCase()}` }, this.method), h("code", {}, breakable(this.path))));
  }

  parameters() {
    const given = this.operation.parameters;
    if (!given.length) return null;
    return h("ul", { class: "fields" }, given.map((each) => h("li", {},
      h("div", { class: "field-head" }, h("code", { class: "field-name" }, each.name),
        h("span", { class: "field-type" }, `${typeOf(each.schema, this.components)} in the ${each.in}`)),
      h("p", {}, prose(each.description)))));
  }

  body() {
    if (!this.schema) return null;
    const number = numFields(this.schema, this.components);
    return h("details", { class: "block" }, h("summary", {}, `Fields (${number})`), fields(this.schema, this.components));
  }

  answers() {
    return h("details", { class: "block" }, h("summary", {}, "Answers"),
      h("ul", { class: "answers" }, Object.entries(this.operation.responses).map(([status, answer]) => this.answer(status, answer))));
  }

  answer(status, { description, content }) {
    const schema = content?.["application/json"]?.schema;
    const list = status.startsWith("2") && schema ? fields(schema, this.components) : null;
    return h("li", {}, h("div", { class: "field-head" }, h("code", { class: `status s${status[0]}` }, status), h("span", {}, prose(description))), list);
  }

  matches(terms) {
    return terms.every((term) => this.found.includes(term));
  }
}

/** Let a long path break after its slashes. */
const breakable = (path) => path.split(/(?<=\/)/).flatMap((piece) => [piece, h("wbr")]);

/** The sample beside an endpoint. */
class Sampler {
  constructor(view, model) {
    this.view = view;
    this.model = model;
    this.examples = view.operation.requestBody?.content["application/json"].examples;
    this.inputs = new Map();
    this.language = this.examples ? "Body" : "curl";
    this.text = h("textarea", { class: "mono", spellcheck: "false", "aria-label": `The body to send: ${view.operation.summary}`, oninput: () => this.grow() });
    this.code = h("pre", { tabindex: "0" });
    this.runner = new Runner(() => this.asked(), learn);
    this.element = h("div", { class: "sample card" }, this.head(), this.variables(), this.text, this.code, this.foot(), this.runner.result);
    if (this.examples) this.choose(Object.keys(this.examples)[0]);
    this.show(this.language);
    samplers.push(this);
  }

  head() {
    const names = this.examples ? ["Body", ...LANGUAGES] : LANGUAGES;
    this.tabs = names.map((name) => h("button", { type: "button", class: "bare tab", "aria-pressed": "false", onclick: () => this.show(name) }, name));
    return h("div", { class: "sample-head" },
      h("div", { class: "tabs", role: "group", "aria-label": "Show as" }, this.tabs),
      copyButton(() => this.shown(), "Copy the sample"));
  }

  variables() {
    const inPath = this.view.operation.parameters.filter((each) => each.in === "path");
    if (!inPath.length) return null;
    return h("div", { class: "variables" }, inPath.map(({ name }) => {
      const input = h("input", { class: "mono", placeholder: name, spellcheck: "false", autocomplete: "off", value: known.get(name) ?? "" });
      input.addEventListener("input", () => {
        input.dataset.typed = "yes";
        this.show(this.language);
      });
      this.inputs.set(name, input);
      return h("label", {}, h("span", { class: "mono" }, name), input);
    }));
  }

  foot() {
    const names = Object.keys(this.examples ?? {});
    const choice = names.length > 1
      ? h("select", { "aria-label": "Example", onchange: (event) => this.choose(event.target.value) }, names.map((name) => h("option", {}, name)))
      : h("span");
    return h("div", { class: "sample-foot" }, choice, this.runner.button);
  }

  choose(name) {
    this.text.value = JSON.stringify(this.examples[name].value, null, 2);
    this.show(this.language);
  }

  fill(name, value) {
    const input = this.inputs.get(name);
    if (!input || input.dataset.typed) return;
    input.value = value;
    this.show(this.language);
  }

  show(language) {
    this.language = language;
    for (const tab of this.tabs) tab.setAttribute("aria-pressed", String(tab.textContent === language));
    this.text.hidden = language !== "Body";
    this.code.hidden = language === "Body";
    if (language !== "Body") this.code.textContent = this.shown();
    this.grow();
  }

  grow() {
    this.text.rows = Math.min(this.text.value.split("\n").length, 24);
  }

  shown() {
    if (this.language === "Body") return this.text.value;
    try {
      return sample(this.language, this.asked({ isStrict: false }), this.model);
    } catch (error) {
      return error.message;
    }
  }

  /** The request as it stands. Throws what is missing. */
  asked({ isStrict = true } = {}) {
    let path = this.view.path;
    for (const [name, input] of this.inputs) {
      if (isStrict && !input.value.trim()) {
        input.focus();
        throw new Error(`Fill in ${name}.`);
      }
      path = path.replace(`{${name}}`, input.value.trim() ? encodeURIComponent(input.value.trim()).replaceAll("%2F", "/") : `{${name}}`);
    }
    return { method: this.view.method, path, body: this.examples && parsed(this.text.value) };
  }
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`The body is not JSON: ${error.message}`);
  }
}

/** Keep the ids of what was made, for the endpoints that ask for one. */
function learn(answer) {
  const [name] = Object.entries({ response_id: "resp_", conversation_id: "conv_" }).find(([, prefix]) => String(answer.id ?? "").startsWith(prefix)) ?? [];
  if (name && !answer.deleted) know(name, answer.id);
}
