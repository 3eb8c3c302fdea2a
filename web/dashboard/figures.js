// Figures: samples and requests made into what the tiles show.

const RATE_S = 5;

export const count = (value) => Math.round(value).toLocaleString("en");

export function bytes(value) {
  if (!value) return "0";
  const units = ["B", "KB", "MB", "GB", "TB"];
  const step = Math.min(Math.floor(Math.log(value) / Math.log(1024)), units.length - 1);
  const shown = value / 1024 ** step;
  return `${shown.toFixed(shown < 10 && step ? 1 : 0)} ${units[step]}`;
}

export function seconds(value) {
  if (value === undefined || value === null) return "–";
  return value < 1 ? `${Math.round(value * 1000)} ms` : `${value.toFixed(value < 10 ? 1 : 0)} s`;
}

export const rate = (value) => (value === undefined || value === null ? "–" : value > 0 && value < 10 ? value.toFixed(1) : count(value));

export const percent = (value) => (value === null ? "–" : `${Math.round(value * 100)} %`);

/** How fast a count grew at each sample, in a second, over the few samples before it. */
export function slopes(samples, name) {
  const found = [];
  let from = 0;
  for (let to = 1; to < samples.length; to++) {
    while (samples[to].at - samples[from].at > RATE_S && from < to - 1) from++;
    const grown = samples[to].counts[name] - samples[from].counts[name];
    const took = samples[to].at - samples[from].at;
    if (took > 0) found.push([samples[to].at, Math.max(grown, 0) / took]); // a restart counts from 0
  }
  return found;
}

/** The share of prompts that was found in the prefix cache; null when nothing was read. */
export function hitRate(first, last) {
  const isRestarted = last.counts.prompt_tokens < first.counts.prompt_tokens;
  const before = isRestarted ? { prompt_tokens: 0, cached_tokens: 0 } : first.counts;
  const read = last.counts.prompt_tokens - before.prompt_tokens;
  return read > 0 ? (last.counts.cached_tokens - before.cached_tokens) / read : null;
}

export function median(values) {
  if (!values.length) return null;
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}
