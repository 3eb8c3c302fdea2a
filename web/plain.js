// What the pages /docs and /dashboard share: elements, requests with the key, events as they stream.

const SVG = "http://www.w3.org/2000/svg";
const PATHS = {
  theme: "M12 4a8 8 0 1 0 8 8 6.5 6.5 0 0 1-8-8z",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  check: "M5 12.5l4.5 4.5L19 7.5",
};

/** An element with attributes, `on…` listeners and children; text is never parsed as HTML. */
export function h(tag, props = {}, ...children) {
  return filled(document.createElement(tag), props, children);
}

/** The same, for drawings. */
export function s(tag, props = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), props, children);
}

function filled(made, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

export const $ = (id) => document.getElementById(id);

export function icon(name) {
  return s("svg", { viewBox: "0 0 24 24", class: "drawing", "aria-hidden": "true" }, s("path", { d: PATHS[name] }));
}

/** Text in which `…` is code. */
export function prose(text) {
  return text.split("`").map((piece, index) => (index % 2 ? h("code", {}, piece) : piece));
}

/** Say something to who listens instead of looking. */
export function announce(text) {
  $("announcer").textContent = text;
}

/** A button that copies what `text` gives, and says for a moment that it did. */
export function copyButton(text, label = "Copy") {
  const button = h("button", { type: "button", class: "bare", "aria-label": label, title: label }, icon("copy"));
  button.addEventListener("click", async () => {
    await copy(text());
    button.replaceChildren(icon("check"));
    announce("Copied");
    setTimeout(() => button.replaceChildren(icon("copy")), 1500);
  });
  return button;
}

async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  // Pages that came neither over TLS nor from this machine have no clipboard.
  const field = h("textarea", { class: "sr-only", readonly: true });
  field.value = text;
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}

/** The button that changes from light to dark; the system's choice is kept until it is used. */
export function wireTheme() {
  const button = $("theme");
  button.append(icon("theme"));
  button.addEventListener("click", () => {
    const root = document.documentElement;
    const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = isDark ? "light" : "dark";
    try {
      localStorage.setItem("theme", root.dataset.theme);
    } catch {
      // It lasts as long as the page, then.
    }
  });
}

// Requests

export const key = () => sessionStorage.getItem("key") ?? "";
let asking = null;

/** Send a request to this server; the key is asked for when the answer is 401. */
export async function request(path, { method = "GET", body, signal } = {}) {
  for (;;) {
    const sent = key();
    const headers = sent ? { authorization: `Bearer ${sent}` } : {};
    if (body !== undefined) headers["content-type"] = "application/json";
    const answer = await fetch(path, { method, headers, body, signal, cache: "no-store" });
    if (answer.status !== 401) return answer;
    if (key() === sent && !(await askForKey())) return answer;
  }
}

/** Ask for the key, once for all who need it; false when none is given. */
function askForKey() {
  asking ??= new Promise((resolve) => {
    const field = h("input", { type: "password", autocomplete: "off", required: true });
    const dialog = h("dialog", { "aria-labelledby": "key-title" },
      h("form", { method: "dialog" },
        h("h2", { id: "key-title" }, "This server asks for a key"),
        h("p", { class: "faint" }, "It is kept until you close this tab."),
        h("label", {}, "API key", field),
        h("footer", {}, h("button", { class: "primary" }, "Continue"))));
    dialog.addEventListener("close", () => {
      const given = dialog.returnValue === "given" ? field.value.trim() : "";
      if (given) sessionStorage.setItem("key", given);
      dialog.remove();
      asking = null;
      resolve(given !== "");
    });
    dialog.querySelector("form").addEventListener("submit", (event) => {
      event.preventDefault(); // the policy of this page allows no form to be sent
      dialog.close("given");
    });
    document.body.append(dialog);
    dialog.showModal();
  });
  return asking;
}

/** The events of a stream: `{name, data}`, as they come. */
export async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split(/\r?\n\r?\n/);
    rest = blocks.pop();
    for (const block of blocks) {
      const found = { name: "message", data: "" };
      for (const line of block.split(/\r?\n/)) {
        if (line.startsWith("data: ")) found.data += line.slice(6);
        else if (line.startsWith("event: ")) found.name = line.slice(7);
      }
      if (found.data) yield found;
    }
  }
}
