// The list of conversations: all that this server keeps, whoever began them.

import { $, announce, h, icon, iconButton } from "./dom.js";
import { json, request } from "./wire.js";

const PAGE = 40;
const DAY = 86_400_000;

export class Sidebar {
  /** `shown` says which response of a conversation is on the page. */
  constructor({ ondelete, onfault, shown }) {
    this.shown = shown;
    this.list = $("conversations");
    this.ondelete = ondelete;
    this.onfault = onfault;
    this.query = "";
    this.entries = [];
    this.rows = new Map();
    this.days = {};
    this.active = null;
    this.turn = 0;
    let waiting = 0;
    $("search").addEventListener("input", (event) => {
      clearTimeout(waiting);
      waiting = setTimeout(() => this.search(event.target.value), 200);
    });
    this.list.addEventListener("keydown", (event) => this.step(event));
    $("search").addEventListener("keydown", (event) => {
      if (event.key === "ArrowDown") this.list.querySelector("a")?.focus();
      if (event.key === "Escape") ((event.target.value = ""), this.search(""));
    });
  }

  search(query) {
    this.query = query;
    return this.load();
  }

  /** Show the first page anew. */
  async load() {
    const turn = ++this.turn;
    const found = await this.page(null).catch((fault) => this.onfault(fault));
    if (!found || turn !== this.turn) return;
    this.entries = found.data;
    this.show(found);
    if (this.query) announce(`${found.data.length}${found.has_more ? " or more" : ""} found`);
  }

  /** Show the first page anew if it has changed; what else is shown stays when it has not. */
  async refresh() {
    const { turn } = this;
    const found = await this.page(null).catch(() => null); // the next request tells of it
    if (!found || turn !== this.turn) return;
    const same = found.data.every((entry, place) => isSame(entry, this.entries[place]));
    if (same && (found.has_more || found.data.length === this.entries.length)) return;
    this.turn++;
    this.entries = found.data;
    this.show(found);
  }

  async more() {
    const turn = ++this.turn;
    const found = await this.page(this.entries.at(-1).id).catch((fault) => this.onfault(fault));
    if (!found || turn !== this.turn) return;
    const next = found.data[0]?.id;
    this.entries.push(...found.data);
    this.show(found);
    this.list.querySelector(`[data-id="${next}"] a`)?.focus();
  }

  page(after) {
    const query = new URLSearchParams({ limit: PAGE });
    if (after) query.set("after", after);
    if (this.query) query.set("q", this.query);
    return json(`/conversations?${query}`);
  }

  /** Mark the one that is open. */
  mark(id) {
    this.active = id;
    for (const row of this.list.querySelectorAll(".row")) {
      const isActive = row.dataset.id === id;
      row.classList.toggle("active", isActive);
      const anchor = row.querySelector("a");
      if (isActive) anchor.setAttribute("aria-current", "page");
      else anchor.removeAttribute("aria-current");
    }
  }

  show(found) {
    const days = Map.groupBy(this.entries, (entry) => dayOf(entry.updated_at * 1000));
    const groups = [];
    for (const [day, entries] of days) {
      const { heading, list } = (this.days[day] ??= { heading: h("h2", {}, day), list: h("ul") });
      groups.push(heading, list);
      days.set(day, { list, rows: entries.map((entry) => this.rowOf(entry)) });
    }
    if (!groups.length)
      groups.push(
        h(
          "p",
          { class: "nothing" },
          this.query
            ? "Nothing found."
            : "No conversations yet. Those of other clients appear here too.",
        ),
      );
    if (found.has_more)
      groups.push(
        h("button", { type: "button", class: "more", onclick: () => this.more() }, "Show more"),
      );
    if (!found.is_complete)
      groups.push(
        h(
          "p",
          { class: "nothing" },
          "There is more than one search reads: older ones were not looked at.",
        ),
      );
    this.keepFocus(() => {
      for (const { list, rows } of days.values()) place(list, rows);
      place(this.list, groups);
    });
    this.mark(this.active);
  }

  /** Whoever is in the list with the keyboard stays where they are. */
  keepFocus(change) {
    const focused = this.list.contains(document.activeElement) ? document.activeElement : null;
    const id = focused?.closest(".row")?.dataset.id;
    change();
    if (id) this.list.querySelector(`[data-id="${id}"] ${focused.localName}`)?.focus();
  }

  /** The row of an entry: the one that is there, as long as it says the same. */
  rowOf(entry) {
    const said = JSON.stringify([entry, dayOf(entry.updated_at * 1000)]);
    const known = this.rows.get(entry.id);
    if (known?.said === said) return known.element;
    const element = this.row(entry);
    this.rows.set(entry.id, { said, element });
    return element;
  }

  row(entry) {
    const notes = [];
    if (entry.source !== "page") notes.push(h("span", { class: "source" }, entry.source));
    if (entry.is_archived)
      notes.push(
        h(
          "span",
          { class: "source", title: "In the archive" },
          icon("archive"),
          h("span", { class: "sr-only" }, "archived"),
        ),
      );
    const title = entry.title || "Untitled";
    return h(
      "li",
      { class: "row", data: { id: entry.id } },
      h(
        "a",
        { href: `#${entry.last_response_id ?? entry.id}`, title },
        h("span", { class: "name" }, title),
        notes.length ? h("span", { class: "notes" }, notes) : null,
      ),
      iconButton("more", `More for ${title}`, (event) => this.menu(entry, event.currentTarget), {
        "aria-haspopup": "menu",
      }),
    );
  }

  menu(entry, button) {
    const choice = (text, onclick, kind = "") =>
      h(
        "button",
        {
          type: "button",
          role: "menuitem",
          class: kind,
          onclick: () => {
            $("menu").hidePopover();
            onclick();
          },
        },
        text,
      );
    const menu = $("menu");
    menu.replaceChildren(
      choice("Export as Markdown", () => this.export(entry, "md")),
      choice("Export as JSON", () => this.export(entry, "json")),
      choice("Export as JSON lines", () => this.export(entry, "jsonl")),
      choice("Delete", () => this.delete(entry), "danger"),
    );
    menu.showPopover();
    const place = button.getBoundingClientRect();
    const left = Math.min(place.left, innerWidth - menu.offsetWidth - 8);
    const top =
      place.bottom + menu.offsetHeight + 8 > innerHeight
        ? place.top - menu.offsetHeight
        : place.bottom + 4;
    menu.style.left = `${left}px`;
    menu.style.top = `${top}px`;
    menu.onkeydown = (event) => stepThrough(event, [...menu.children]);
    menu.firstChild.focus();
  }

  async export(entry, format) {
    try {
      const query = new URLSearchParams({ format });
      const shown = this.shown(entry.id);
      if (shown?.startsWith("resp_")) query.set("response_id", shown);
      const answer = await request(`/conversations/${entry.id}/export?${query}`);
      const address = URL.createObjectURL(await answer.blob());
      h("a", { href: address, download: `${fileName(entry.title)}.${format}` }).click();
      setTimeout(() => URL.revokeObjectURL(address), 10_000);
    } catch (fault) {
      this.onfault(fault);
    }
  }

  async delete(entry) {
    const dialog = $("confirm");
    $("confirm-text").textContent =
      `“${entry.title || "Untitled"}” will be gone for good, on the disk too.`;
    dialog.returnValue = "no";
    dialog.showModal();
    await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
    if (dialog.returnValue !== "yes") return;
    try {
      await request(`/conversations/${entry.id}`, { method: "DELETE" });
      announce("Deleted");
      this.ondelete(entry.id);
    } catch (fault) {
      this.onfault(fault);
    }
    await this.load();
  }

  step(event) {
    stepThrough(event, [...this.list.querySelectorAll("a")]);
  }
}

/**
 * Let an element have these children. Those that are there already are not touched: a click begins
 * and ends on the same element, also when the list changes in between.
 */
function place(parent, children) {
  const kept = new Set(children);
  for (const child of [...parent.children]) if (!kept.has(child)) child.remove();
  let at = parent.firstElementChild;
  for (const child of children) {
    if (child === at) at = at.nextElementSibling;
    else parent.insertBefore(child, at);
  }
}

function isSame(entry, other) {
  return JSON.stringify(entry) === JSON.stringify(other);
}

/** Let the arrows go through some elements. */
function stepThrough(event, elements) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  const place = elements.indexOf(document.activeElement);
  if (!step || place < 0) return;
  event.preventDefault();
  elements[Math.min(Math.max(place + step, 0), elements.length - 1)].focus();
}

function dayOf(moment) {
  const midnight = new Date().setHours(0, 0, 0, 0);
  if (moment >= midnight) return "Today";
  if (moment >= midnight - DAY) return "Yesterday";
  if (moment >= midnight - 7 * DAY) return "The last days";
  return new Date(moment).toLocaleDateString(undefined, { month: "long", year: "numeric" });
}

function fileName(title) {
  return (
    title
      .replace(/[^\p{L}\p{N}]+/gu, "-")
      .replace(/^-+|-+$/g, "")
      .slice(0, 60) || "conversation"
  );
}
