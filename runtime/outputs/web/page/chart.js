// Lines of sentiment and arousal over the last minutes.

import { at, signed, write } from "./dom.js";

const SPANS = [[30, "30 seconds"], [60, "minute"], [120, "two minutes"], [300, "five minutes"]];
const SPACE = { left: 26, right: 8, top: 10, bottom: 18 };
const NS = "http://www.w3.org/2000/svg";

/** The shortest span, in seconds and words, that has all points, up to five minutes. */
export function spanOf(first_s, now_s) {
  return SPANS.find(([span]) => now_s - first_s <= span) ?? SPANS.at(-1);
}

/** `points`: { end_s, value, emotion, uncertain, early }, oldest first; `now_s`: the right edge. */
export function drawChart(name, label, limit, points, now_s, [span_s, span]) {
  const svg = at(`chart-${name}`);
  const width = svg.clientWidth || 300, height = svg.clientHeight || 132;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const x = (s) => SPACE.left + (1 - (now_s - s) / span_s) * (width - SPACE.left - SPACE.right);
  const y = (v) => SPACE.top + ((limit - v) / (2 * limit)) * (height - SPACE.top - SPACE.bottom);
  const shown = points.filter((point) => now_s - point.end_s <= span_s);
  const parts = axes(limit, x, y, now_s, span_s, width, height);
  if (shown.length > 1) {
    parts.push(make("polyline", {
      class: "line", points: shown.map((p) => `${x(p.end_s)},${y(p.value)}`).join(" "),
    }));
  }
  for (const point of shown) {
    parts.push(make("circle", {
      class: point.early ? "dot early" : "dot", cx: x(point.end_s), cy: y(point.value), r: 5,
      "data-emotion": point.emotion, "data-sure": point.uncertain ? "no" : "yes",
    }));
  }
  svg.replaceChildren(...parts);
  const last = points.at(-1);
  write(name, last ? signed(last.value) : "");
  svg.setAttribute("aria-label", describe(label, span, shown));
}

function axes(limit, x, y, now_s, span_s, width, height) {
  const parts = [];
  for (const value of [limit, 0, -limit]) {
    parts.push(make("line", {
      class: value ? "grid" : "zero", x1: SPACE.left, x2: width - SPACE.right, y1: y(value), y2: y(value),
    }));
    parts.push(make("text", { x: SPACE.left - 6, y: y(value) + 4, "text-anchor": "end" },
      value > 0 ? `+${value}` : value < 0 ? `−${-value}` : "0"));
  }
  for (const ago of span_s === 300 ? [0, 120, 240] : [0, span_s / 2, span_s]) {
    const text = ago < 60 ? `−${ago} s` : `−${ago / 60} min`;
    const anchor = ago === 0 ? "end" : ago === span_s ? "start" : "middle";
    parts.push(make("text", { x: x(now_s - ago), y: height - 2, "text-anchor": anchor }, ago ? text : "now"));
  }
  return parts;
}

function describe(label, span, shown) {
  if (!shown.length) return `${label}: nothing in the last ${span}`;
  const values = shown.map((point) => point.value);
  return `${label} of ${shown.length} in the last ${span}: now ${signed(values.at(-1))}, `
    + `lowest ${signed(Math.min(...values))}, highest ${signed(Math.max(...values))}`;
}

function make(name, attributes, text = "") {
  const made = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}
