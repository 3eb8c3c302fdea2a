// Elements, made from values: text is always text, and nothing is ever parsed as HTML.

const SVG = "http://www.w3.org/2000/svg";

const PATHS = {
  pen: "M12 20h9M16.500 3.500a2.100 2.100 0 0 1 3 3L7 19l-4 1 1-4z",
  search: "M11 4a7 7 0 1 0 0 14 7 7 0 0 0 0-14zM20 20l-4-4",
  close: "M6 6l12 12M18 6L6 18",
  panel: "M4 5h16v14H4zM10 5v14",
  theme: "M12 4a8 8 0 1 0 8 8 6.500 6.500 0 0 1-8-8z",
  sliders:
    "M4 8h8M18 8h2M4 16h2M12 16h8M15 5.500a2.500 2.500 0 1 1 0 5 2.500 2.500 0 0 1 0-5zM9 13.500a2.500 2.500 0 1 1 0 5 2.500 2.500 0 0 1 0-5z",
  spark:
    "M12 3c.7 5 2.800 7.300 9 9-6.200 1.700-8.300 4-9 9-.7-5-2.800-7.300-9-9 6.200-1.700 8.300-4 9-9z",
  up: "M12 19V5M5.500 11.500L12 5l6.500 6.500",
  down: "M12 5v14M5.500 12.500L12 19l6.500-6.500",
  stop: "M7 7h10v10H7z",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  check: "M5 12.500l4.500 4.500L19 7.500",
  retry: "M4 12a8 8 0 1 0 2.600-5.900M4 4v4.500h4.500",
  branch: "M7 4v16M7 14c0-4 10-2 10-7M17 7V4",
  left: "M14.500 6l-6 6 6 6",
  right: "M9.500 6l6 6-6 6",
  more: "M5.500 12h.01M12 12h.01M18.500 12h.01",
  tool: "M14.500 6.500a4 4 0 0 1 5-1.500l-2.700 2.700 1.500 1.500L21 6.500a4 4 0 0 1-5.500 5L8 19a2.100 2.100 0 0 1-3-3l7.500-7.500a4 4 0 0 1 2-2z",
  archive: "M4 5h16v4H4zM5.500 9v10h13V9M10 13h4",
};

/** An element with properties, `on…` listeners, `data` and attributes, and its children. */
export function h(tag, props = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "data") Object.assign(made.dataset, value);
    else if (name === "class") made.className = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

/** A drawing, which says nothing to a screen reader. */
export function icon(name) {
  const drawing = document.createElementNS(SVG, "svg");
  drawing.setAttribute("viewBox", "0 0 24 24");
  drawing.setAttribute("aria-hidden", "true");
  drawing.setAttribute("class", `drawing of-${name}`);
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", PATHS[name]);
  drawing.append(path);
  return drawing;
}

/** A button that is a drawing. */
export function iconButton(name, label, onclick, props = {}) {
  return h(
    "button",
    { type: "button", class: "icon small", "aria-label": label, title: label, onclick, ...props },
    icon(name),
  );
}

/** A button that copies what `text` gives, and says for a moment that it did. */
export function copyButton(label, text, props = {}) {
  const button = iconButton(
    "copy",
    label,
    async () => {
      await copy(text());
      button.replaceChildren(icon("check"));
      button.classList.add("done");
      announce("Copied");
      setTimeout(() => {
        button.replaceChildren(icon("copy"));
        button.classList.remove("done");
      }, 1500);
    },
    props,
  );
  return button;
}

async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  // Pages that did not come over TLS, nor from this machine, have no clipboard.
  const field = h("textarea", { class: "sr-only", readonly: true });
  field.value = text;
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}

export const $ = (id) => document.getElementById(id);

/** Say something to who listens instead of looking. */
export function announce(text) {
  $("announcer").textContent = text;
}
