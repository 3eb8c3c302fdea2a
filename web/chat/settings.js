// Settings are what a request says beside its words. They stay in this browser.

import { $ } from "./dom.js";

const NAME = "settings";
const FOLDED = [
  "top_k",
  "min_p",
  "presence_penalty",
  "frequency_penalty",
  "repetition_penalty",
  "seed",
];
const NUMBERS = ["temperature", "top_p", "max_output_tokens", ...FOLDED];

function load() {
  try {
    return JSON.parse(localStorage.getItem(NAME)) ?? {};
  } catch {
    return {};
  }
}

function save(settings) {
  try {
    localStorage.setItem(NAME, JSON.stringify(settings));
  } catch {
    // Full or forbidden: then they last as long as the page.
  }
}

let current = load();

/** The fields of a request for a response. */
export function requestFields() {
  const fields = {};
  if (current.instructions) fields.instructions = current.instructions;
  for (const name of NUMBERS) {
    if (current[name]) fields[name] = Number(current[name]);
  }
  if (current.thinking === "on") fields.enable_thinking = true;
  else if (current.thinking === "off") fields.enable_thinking = false;
  else if (current.thinking) fields.reasoning = { effort: current.thinking };
  if (current.truncation) fields.truncation = current.truncation;
  if (current.tools) fields.tools = JSON.parse(current.tools);
  return fields;
}

export function setUpSettings() {
  const dialog = $("settings");
  const form = dialog.querySelector("form");
  const fill = () => {
    for (const field of form.elements) if (field.name) field.value = current[field.name] ?? "";
    if (FOLDED.some((name) => current[name])) form.querySelector(".fold").open = true;
    check();
  };
  const check = () => {
    const fault = faultOf(form.elements.tools.value);
    $("settings-fault").textContent = fault;
    form.elements.tools.setAttribute("aria-invalid", String(Boolean(fault)));
    return !fault;
  };
  form.addEventListener("input", () => {
    const isSound = check();
    for (const field of form.elements) {
      if (field.name && field.validity.valid && (field.name !== "tools" || isSound))
        current[field.name] = field.value.trim();
    }
    save(current);
  });
  form.addEventListener("submit", (event) => {
    if (!form.checkValidity() || !check()) event.preventDefault();
  });
  $("open-settings").addEventListener("click", () => {
    fill();
    dialog.showModal();
  });
  $("reset").addEventListener("click", () => {
    current = {};
    save(current);
    fill();
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
}

function faultOf(text) {
  if (!text.trim()) return "";
  try {
    return Array.isArray(JSON.parse(text)) ? "" : "Tools must be a JSON list.";
  } catch {
    return "Tools are not JSON yet.";
  }
}

export function setUpTheme() {
  $("theme").addEventListener("click", () => {
    const isDark =
      getComputedStyle(document.documentElement).getPropertyValue("--is-dark").trim() === "1";
    const chosen = isDark ? "light" : "dark";
    document.documentElement.dataset.theme = chosen;
    try {
      localStorage.setItem("theme", chosen);
    } catch {
      // Then it lasts as long as the page.
    }
  });
}
