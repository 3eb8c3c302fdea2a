// The page is put together here: what is pressed, what is typed, and where the address leads.

import { $, announce, h, icon } from "./dom.js";
import { Chat, isSending } from "./chat.js";
import { setUpSettings, setUpTheme } from "./settings.js";
import { Sidebar } from "./sidebar.js";
import { json } from "./wire.js";

const SUGGESTIONS = [
  "Tell me a story about a fox.",
  "What is 3 + 4?",
  "Explain what a prefix cache is.",
];
const POLL_MS = 1000;
const isPhone = matchMedia("(max-width: 760px)");
const hasMouse = matchMedia("(pointer: fine)");

for (const place of document.querySelectorAll("[data-icon]"))
  place.replaceWith(icon(place.dataset.icon));

const prompt = $("prompt");
const sidebar = new Sidebar({
  onfault: complain,
  ondelete: (id) => chat.id === id && startNew(),
  shown: (id) => (chat.id === id ? chat.leaf?.id : null),
});
const chat = new Chat({ onfault: complain, onchange: refresh });

// The composer

function refresh({ isOver = false } = {}) {
  const isRunning = Boolean(chat.run);
  $("send").hidden = isRunning;
  $("stop").hidden = !isRunning;
  $("send").disabled = !prompt.value.trim();
  $("thread").setAttribute("aria-busy", String(isRunning));
  sidebar.mark(chat.id);
  if (isOver) sidebar.load();
}

function send(text) {
  if (!text.trim() || chat.run || chat.isOpening) return;
  prompt.value = "";
  grow();
  complain(null);
  chat.send(text.trim());
}

function complain(fault) {
  $("notice").hidden = !fault;
  $("notice").textContent = fault?.message ?? "";
}

function grow() {
  if (!CSS.supports("field-sizing", "content")) {
    prompt.style.height = "auto";
    prompt.style.height = `${prompt.scrollHeight}px`;
  }
  $("send").disabled = !prompt.value.trim();
}

prompt.addEventListener("input", grow);
prompt.addEventListener("keydown", (event) => {
  if (!isSending(event)) return;
  event.preventDefault();
  send(prompt.value);
});
$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send(prompt.value);
});
$("stop").addEventListener("click", () => chat.stop());

// Where the address leads

function startNew() {
  history.pushState(null, "", location.pathname);
  visit();
}

async function visit() {
  const name = location.hash.slice(1);
  showSidebar(!isPhone.matches && $("sidebar").dataset.open !== "no");
  complain(null);
  if (!name) {
    chat.begin();
  } else if (name === chat.leaf?.id) {
    chat.stay();
  } else {
    try {
      await chat.open(name);
    } catch (fault) {
      if (name !== location.hash.slice(1)) return;
      chat.begin();
      complain(fault);
    }
  }
  if (hasMouse.matches) prompt.focus();
}

addEventListener("popstate", visit);
$("new-chat").addEventListener("click", startNew);

// The sidebar

function showSidebar(isOpen) {
  document.body.classList.toggle("has-sidebar", isOpen);
  $("open-sidebar").setAttribute("aria-expanded", String(isOpen));
}

function toggleSidebar() {
  const isOpen = !document.body.classList.contains("has-sidebar");
  if (!isPhone.matches) $("sidebar").dataset.open = isOpen ? "yes" : "no";
  showSidebar(isOpen);
  if (isOpen && isPhone.matches) $("new-chat").focus();
}

function closeDrawer() {
  showSidebar(false);
  $("open-sidebar").focus();
}

$("open-sidebar").addEventListener("click", toggleSidebar);
$("close-sidebar").addEventListener("click", closeDrawer);
$("scrim").addEventListener("click", closeDrawer);
isPhone.addEventListener("change", () => showSidebar(!isPhone.matches));

/** Other clients may have been here meanwhile. */
function lookAgain() {
  if (!document.hidden && !document.querySelector("dialog[open], :popover-open")) sidebar.refresh();
}

addEventListener("focus", lookAgain);
document.addEventListener("visibilitychange", lookAgain);

// Keys

addEventListener("keydown", (event) => {
  if ((event.ctrlKey || event.metaKey) && !event.shiftKey && event.key.toLowerCase() === "k") {
    event.preventDefault();
    showSidebar(true);
    $("search").select();
    $("search").focus();
  } else if (event.key === "Escape" && !document.querySelector("dialog[open], :popover-open")) {
    if (isPhone.matches && document.body.classList.contains("has-sidebar")) closeDrawer();
    else if (chat.run) chat.stop();
    else prompt.focus();
  }
});
$("search-keys").textContent = /Mac|iPhone|iPad/.test(navigator.platform) ? "⌘K" : "Ctrl K";

// The model

async function introduce() {
  try {
    const [model] = (await json("/v1/models")).data;
    const { capabilities, context_window: room } = model;
    $("model").textContent = capabilities
      ? `${model.id} · ${room.toLocaleString("en")} tokens of context`
      : `${model.id} is being loaded…`;
    if (!capabilities) setTimeout(introduce, POLL_MS);
  } catch (fault) {
    complain(fault);
    if (fault.status !== 401) setTimeout(introduce, 5 * POLL_MS);
  }
}

$("suggestions").append(
  ...SUGGESTIONS.map((text) => h("button", { type: "button", onclick: () => send(text) }, text)),
);
setUpSettings();
setUpTheme();
grow();
await Promise.all([introduce(), visit(), sidebar.load()]);
