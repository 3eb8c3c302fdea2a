// The table of requests: one row each.

import { h } from "/web/plain.js";
import { count, rate, seconds } from "/web/dashboard/figures.js";

const NONE = "–";
const cell = (label, text, kind = "", title = text) => h("td", { "data-label": label, class: text === NONE ? `${kind} none` : kind, title }, text);
const number = (label, text) => cell(label, text, "number");
const clock = (at) => new Date(at * 1000).toLocaleTimeString("en-GB");
const tokens = (value) => (value === undefined ? NONE : count(value));

/** A client's name; all browsers call themselves Mozilla first. */
function named(source = "") {
  if (!source.startsWith("Mozilla/")) return source || NONE;
  return ["Edg", "Firefox", "Chrome", "Safari"].find((name) => source.includes(`${name}/`))?.replace("Edg", "Edge") ?? "browser";
}

/** A request, as it was told when it ended. */
export function row(request) {
  return h("tr", { class: request.status >= 400 || request.finish_reason === "error" ? "failed" : undefined },
    cell("Time", clock(request.at), "time"),
    cell("Endpoint", request.endpoint || request.path, "endpoint mono"),
    cell("Model", request.model || NONE, "model"),
    cell("Client", named(request.source), "client", request.source),
    number("Prompt", tokens(request.prompt_tokens)),
    number("Cached", tokens(request.cached_tokens)),
    number("Answer", tokens(request.completion_tokens)),
    number("First token", seconds(request.first_token_s)),
    number("Tokens/s", rate(request.tokens_per_s)),
    cell("End", request.finish_reason || NONE, "end"),
    cell("Status", String(request.status), "number status"));
}
