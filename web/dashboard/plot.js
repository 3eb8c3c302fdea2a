// A plot: a few lines or dots over the last five minutes, drawn as SVG.

import { s } from "/web/plain.js";

export const SPAN_S = 300;
const WIDTH = 300;
const HEIGHT = 72;
const GAP_S = 5;

/** `series`: `{kind: "line" | "area" | "dots", name, points: [[seconds, value], …]}`, drawn in order. */
export function draw(svg, series, now, { top: least = 1 } = {}) {
  const top = Math.max(least, ...series.flatMap((each) => each.points.map(([, value]) => value)));
  const x = (at) => round(WIDTH - ((now - at) / SPAN_S) * WIDTH);
  const y = (value) => round(HEIGHT - 2 - (value / top) * (HEIGHT - 6));
  svg.replaceChildren(
    s("line", { class: "ground", x1: 0, x2: WIDTH, y1: HEIGHT - 1, y2: HEIGHT - 1 }),
    ...series.flatMap(({ kind, name, points }) => shapes(kind, name, points.filter(([at]) => now - at <= SPAN_S), x, y)),
  );
  return top;
}

function shapes(kind, name, points, x, y) {
  if (kind === "dots") return points.map(([at, value]) => s("path", { class: `${name} dot`, d: `M${x(at)} ${y(value)}h0` }));
  return stretches(points).flatMap((stretch) => {
    const line = stretch.map(([at, value]) => `${x(at)} ${y(value)}`).join("L");
    const made = [s("path", { class: `${name} line`, d: `M${line}` })];
    if (kind === "area") {
      const end = `L${x(stretch.at(-1)[0])} ${HEIGHT}L${x(stretch[0][0])} ${HEIGHT}Z`;
      made.unshift(s("path", { class: `${name} area`, d: `M${line}${end}` }));
    }
    return made;
  });
}

/** Points in pieces, cut where nobody looked. */
function stretches(points) {
  const found = [];
  for (const point of points) {
    const last = found.at(-1);
    if (last && point[0] - last.at(-1)[0] <= GAP_S) last.push(point);
    else found.push([point]);
  }
  return found;
}

const round = (value) => Math.round(value * 10) / 10;

/** An empty plot, which says what it is. */
export function plot(label) {
  return s("svg", { class: "plot", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": label });
}
