// The page of the API: everything on it comes from /openapi.json and /v1/models of this server.

import { $, copyButton, h, prose, request, wireTheme } from "/web/plain.js";
import { EndpointView, know } from "/web/docs/endpoint.js";

const METHODS = ["get", "post", "put", "patch", "delete"];

async function start() {
  wireTheme();
  const document_ = await (await fetch("/openapi.json")).json();
  const model = await modelName();
  know("model", model);
  $("about").append(...prose(document_.info.description));
  fact("Base URL", `${location.origin}/v1`);
  fact("Model", model);
  const groups = document_.tags.map((tag) => group(tag, document_, model)).filter(Boolean);
  wireSearch(groups);
  markWhatIsRead(groups.flatMap((each) => each.views));
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

async function modelName() {
  const answer = await request("/v1/models");
  return answer.ok ? (await answer.json()).data[0].id : "model";
}

function fact(name, value) {
  $("facts").append(h("div", {}, h("dt", {}, name), h("dd", {}, h("code", {}, value), copyButton(() => value, `Copy: ${name}`))));
}

/** The endpoints of one tag, on the page and in its contents. */
function group(tag, document_, model) {
  const views = Object.entries(document_.paths).flatMap(([path, methods]) =>
    METHODS.filter((method) => methods[method]?.tags.includes(tag.name))
      .map((method) => new EndpointView(method, path, methods[method], document_.components.schemas, model)));
  if (!views.length) return null;
  const title = `tag-${tag.name.toLowerCase().replaceAll(" ", "-")}`;
  const section = h("section", { "aria-labelledby": title },
    h("div", { class: "group-head" }, h("h2", { id: title }, tag.name), h("p", { class: "faint" }, tag.description)),
    views.map((view) => view.element));
  const list = h("ul", {}, views.map((view) => h("li", {}, view.link)));
  const entry = h("div", { class: "contents-group" }, h("h2", {}, tag.name), list);
  $("endpoints").append(section);
  $("contents").append(entry);
  return { views, section, entry };
}

function wireSearch(groups) {
  const field = $("search");
  field.addEventListener("input", () => {
    const terms = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let number = 0;
    for (const { views, section, entry } of groups) {
      const shown = views.filter((view) => view.matches(terms));
      number += shown.length;
      for (const view of views) view.element.hidden = view.link.parentElement.hidden = !shown.includes(view);
      section.hidden = entry.hidden = !shown.length;
    }
    $("found").textContent = terms.length ? (number ? `${number} found` : "Nothing found") : "";
  });
  document.addEventListener("keydown", (event) => {
    const isWriting = event.target.matches("input, textarea, select");
    if (event.key === "/" && !isWriting) {
      event.preventDefault();
      field.focus();
    } else if (event.key === "Escape" && event.target === field) {
      field.value = "";
      field.dispatchEvent(new Event("input"));
    }
  });
}

/** Mark in the contents which endpoint is being read. */
function markWhatIsRead(views) {
  const links = new Map(views.map((view) => [view.element, view.link]));
  const seen = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) for (const [element, link] of links) element === target ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current");
    }
  }, { rootMargin: "-20% 0px -70% 0px" });
  for (const view of views) seen.observe(view.element);
}

start().catch(() => {
  $("failure").hidden = false;
  $("failure").textContent = "The server cannot be reached. Reload the page when it runs again.";
});
