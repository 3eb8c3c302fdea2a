// The dashboard: one stream of events, made into tiles and a table.

import { $, events, h, request, wireTheme } from "/web/plain.js";
import { bytes, count, hitRate, median, percent, rate, seconds, slopes } from "/web/dashboard/figures.js";
import { SPAN_S, draw, plot } from "/web/dashboard/plot.js";
import { row } from "/web/dashboard/requests.js";

const MOST_SAMPLES = 300;
const MOST_REQUESTS = 50;
const LONGEST_WAIT_MS = 15000;

let samples = [];
let requests = [];

// Tiles

function tile(title, label, ...legend) {
  const value = h("p", { class: "value" }, "–");
  const note = h("p", { class: "note faint" });
  const top = h("span", { class: "top" });
  const drawing = plot(label);
  const names = legend.map(([name, text]) => h("span", { class: `key ${name}` }, text));
  const made = h("section", { class: "card tile" }, h("h2", {}, title), value, note,
    h("div", { class: "frame" }, drawing, top),
    h("p", { class: "axis faint" }, h("span", {}, "−5 min"), h("span", { class: "keys" }, names), h("span", {}, "now")));
  $("tiles").append(made);
  return { value, note, top, drawing };
}

const queue = tile("Requests", "Running and waiting requests over the last 5 minutes", ["waiting", "waiting"], ["running", "running"]);
const speed = tile("Tokens a second", "Tokens read and written a second over the last 5 minutes", ["read", "read"], ["written", "written"]);
const first = tile("Time to first token", "Time to the first token of each request of the last 5 minutes", ["first", "each request"]);
const cache = tile("Prompt found in cache", "Share of each prompt found in the prefix cache, over the last 5 minutes", ["hit", "each request"]);
const memory = tile("Memory", "Memory in use over the last 5 minutes", ["active", "all"], ["kv", "KV"], ["prefix", "cache"]);

function show() {
  const last = samples.at(-1);
  if (!last) return;
  const now = Date.now() / 1000 + skew;
  const since = samples.find((sample) => now - sample.at <= SPAN_S) ?? last;
  const line = (look) => samples.map((sample) => [sample.at, look(sample)]);
  showQueue(last, now, line);
  showSpeed(now);
  showRequests(now, since, last);
  showMemory(last, now, line);
}

function showQueue(last, now, line) {
  queue.value.replaceChildren(count(last.running), h("small", {}, " running"), ` ${count(last.waiting)}`, h("small", {}, " waiting"));
  const bad = [
    last.counts.preemptions && `${count(last.counts.preemptions)} preempted`,
    last.counts.failed_steps && `${count(last.counts.failed_steps)} failed steps`,
    last.stalled_s > 1 && `no step for ${seconds(last.stalled_s)}`,
  ].filter(Boolean);
  queue.note.textContent = bad.join(" · ") || `${count(last.counts.steps)} steps`;
  const top = draw(queue.drawing, [
    { kind: "area", name: "running", points: line((sample) => sample.running) },
    { kind: "line", name: "waiting", points: line((sample) => sample.waiting) },
  ], now, { top: 4 });
  queue.top.textContent = count(top);
}

function showSpeed(now) {
  const [written, read] = [slopes(samples, "completion_tokens"), slopes(samples, "prompt_tokens")];
  speed.value.replaceChildren(rate(written.at(-1)?.[1] ?? 0), h("small", {}, " written"));
  speed.note.textContent = `${rate(read.at(-1)?.[1] ?? 0)} read`;
  const top = draw(speed.drawing, [
    { kind: "line", name: "read", points: read },
    { kind: "area", name: "written", points: written },
  ], now, { top: 10 });
  speed.top.textContent = rate(top);
}

function showRequests(now, since, last) {
  const recent = requests.filter((request) => now - request.at <= SPAN_S);
  const answered = recent.filter((request) => request.first_token_s !== undefined);
  first.value.textContent = seconds(median(answered.map((request) => request.first_token_s)));
  first.note.textContent = answered.length ? `median of ${count(answered.length)}` : "no answer in 5 minutes";
  const points = answered.map((request) => [request.at, request.first_token_s]);
  first.top.textContent = seconds(draw(first.drawing, [{ kind: "dots", name: "first", points }], now, { top: 0.1 }));

  const read = recent.filter((request) => request.prompt_tokens);
  const whole = hitRate({ counts: { prompt_tokens: 0, cached_tokens: 0 } }, last);
  const lately = hitRate(since, last) ?? shareOf(read);
  cache.value.textContent = percent(lately);
  cache.note.textContent = whole === null ? "nothing was read" : `${percent(whole)} since the start`;
  const shares = read.map((request) => [request.at, request.cached_tokens / request.prompt_tokens]);
  draw(cache.drawing, [{ kind: "dots", name: "hit", points: shares }], now, { top: 1 });
  cache.top.textContent = "100 %";
}

function shareOf(requests) {
  const sum = (name) => requests.reduce((total, request) => total + request[name], 0);
  return requests.length ? sum("cached_tokens") / sum("prompt_tokens") : null;
}

function showMemory(last, now, line) {
  const { active, limit, kv_caches, prefix_cache, weights } = last.memory;
  memory.value.replaceChildren(active ? bytes(active) : "–", h("small", {}, limit ? ` of ${bytes(limit)}` : ""));
  memory.note.textContent = [weights && `weights ${bytes(weights)}`, `KV ${bytes(kv_caches)}`, `cache ${bytes(prefix_cache)}`].filter(Boolean).join(" · ");
  const top = draw(memory.drawing, [
    { kind: "area", name: "active", points: line((sample) => sample.memory.active) },
    { kind: "line", name: "kv", points: line((sample) => sample.memory.kv_caches) },
    { kind: "line", name: "prefix", points: line((sample) => sample.memory.prefix_cache) },
  ], now, { top: limit || 1 });
  memory.top.textContent = limit ? bytes(top) : "";
}

// The stream

let skew = 0; // between the server's clock and this one
let stopping = null;

const STATES = { ready: "ready", loading: "loading the model", sleeping: "sleeping", draining: "stopping", failed: "failed" };

function hear(event) {
  if (event.type === "past") {
    samples = event.samples;
    requests = event.requests;
    $("requests").tBodies[0].replaceChildren(...requests.map(row).reverse());
  } else if (event.type === "request") {
    requests = [...requests, event.request].slice(-MOST_REQUESTS);
    const body = $("requests").tBodies[0];
    body.prepend(row(event.request));
    while (body.rows.length > MOST_REQUESTS) body.lastChild.remove();
  } else {
    samples = [...samples, event.sample].slice(-MOST_SAMPLES);
    skew = event.sample.at - Date.now() / 1000;
    tell(event.sample.stalled_s > 10 ? "stalled" : event.sample.phase, STATES[event.sample.phase]);
    if (event.sample.model) $("model").textContent = event.sample.model;
    show();
  }
  $("requests").hidden = !requests.length;
  $("nothing").hidden = requests.length > 0;
}

function tell(state, words) {
  const place = $("state");
  const text = state === "stalled" ? "stalled" : words;
  if (place.textContent !== text) place.textContent = text;
  place.dataset.state = state;
}

/** Read the stream for as long as the page is looked at, and again when it breaks. */
async function look() {
  let wait = 500;
  while (!document.hidden) {
    stopping = new AbortController();
    try {
      const answer = await request("/dashboard/events", { signal: stopping.signal });
      if (answer.status === 401) return tell("failed", "needs the key: reload to give it");
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      for await (const { data } of events(answer)) {
        hear(JSON.parse(data));
        wait = 500;
      }
    } catch (error) {
      if (error.name === "AbortError") return;
    }
    tell("lost", "not reached, trying again");
    await new Promise((done) => setTimeout(done, wait));
    wait = Math.min(wait * 2, LONGEST_WAIT_MS);
  }
}

let looking = null;
const lookOnce = () => (looking ??= look().finally(() => (looking = null)));

wireTheme();
lookOnce();
document.addEventListener("visibilitychange", () => {
  if (document.hidden) stopping?.abort();
  else (looking ?? Promise.resolve()).then(lookOnce);
});
