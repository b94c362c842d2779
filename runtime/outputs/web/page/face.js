// A face, drawn from its contours; it moves from one state to the next.

import { at, calm } from "./dom.js";

const CLOSED = new Set(["oval", "brows", "eyes", "irises", "lips", "mouth"]);
const MOVE_MS = 220; // about as long as until the next contours

const canvas = at("face");
let from = null, to = null, begun = 0, colour = "#888", unsure = false, picture = null, frame = 0;
let aspect = 1, centre = null, view = "";

/** Show a face (null: none) in a colour; `shown` as the server's state has it. */
export function showFace(shown, tint, isUnsure, stage) {
  view = stage;
  colour = tint;
  unsure = isUnsure;
  const lines = shown?.lines ?? null;
  from = lines && to ? between(performance.now()) : lines;
  to = lines;
  begun = performance.now();
  aspect = shown?.aspect ?? 1;
  setPicture(shown?.picture ?? null);
  follow();
  if (!frame) frame = requestAnimationFrame(step);
}

function setPicture(url) {
  if (url === null) {
    picture = null;
    return;
  }
  const loaded = new Image();
  loaded.onload = () => {
    picture = loaded;
    draw(performance.now());
  };
  loaded.src = url;
}

function step(now) {
  draw(now);
  const moving = to && !calm.matches && now - begun < MOVE_MS;
  frame = moving ? requestAnimationFrame(step) : 0;
}

/** The contours on their way to the newest ones. */
function between(now) {
  const share = calm.matches ? 1 : Math.min(1, (now - begun) / MOVE_MS);
  if (!from || share === 1) return to;
  const mixed = {};
  for (const [part, contours] of Object.entries(to)) {
    mixed[part] = contours.map((points, i) =>
      points.map((value, j) => from[part][i][j] + share * (value - from[part][i][j])));
  }
  return mixed;
}

/** Keep the face in the middle, calmly, so that a nod is still seen as one. */
function follow() {
  if (!to) {
    centre = null;
    return;
  }
  const oval = to.oval[0];
  const xs = oval.filter((_, i) => i % 2 === 0), ys = oval.filter((_, i) => i % 2);
  const middle = (all) => (Math.min(...all) + Math.max(...all)) / 2;
  const extent = (all) => Math.max(...all) - Math.min(...all);
  const now = { x: middle(xs), y: middle(ys), width: extent(xs), height: extent(ys) };
  const share = centre ? 0.15 : 1;
  centre ??= now;
  for (const name of Object.keys(now)) centre[name] += share * (now[name] - centre[name]);
}

function draw(now) {
  const ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth, height = canvas.clientHeight;
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  if (picture) drawPicture(pen, width, height);
  const lines = between(now);
  if (!lines) {
    if (!picture) (view === "down" || view === "none" ? drawNoCamera : drawNobody)(pen, width, height);
    return;
  }
  const place = picture ? overPicture(width, height) : inTheMiddle(width, height);
  pen.lineJoin = pen.lineCap = "round";
  for (const [part, contours] of Object.entries(lines)) {
    for (const points of contours) drawPart(pen, part, points, place);
  }
}

function inTheMiddle(width, height) {
  const scale = Math.min(
    (0.8 * height) / Math.max(centre.height, 1e-3), (0.66 * width) / Math.max(centre.width * aspect, 1e-3));
  return (x, y) => [
    width / 2 + (x - centre.x) * scale * aspect, height / 2 + (y - centre.y) * scale,
  ];
}

function fitted(width, height) {
  const shown = Math.max(width / aspect, height); // the picture covers the stage
  return { w: shown * aspect, h: shown };
}

function overPicture(width, height) {
  const { w, h } = fitted(width, height);
  return (x, y) => [(width - w) / 2 + x * w, (height - h) / 2 + y * h];
}

function drawPicture(pen, width, height) {
  const { w, h } = fitted(width, height);
  pen.drawImage(picture, (width - w) / 2, (height - h) / 2, w, h);
}

function drawPart(pen, part, points, place) {
  pen.beginPath();
  const corners = [];
  for (let i = 0; i < points.length; i += 2) corners.push(place(points[i], points[i + 1]));
  trace(pen, corners, CLOSED.has(part));
  pen.setLineDash(unsure && part === "oval" ? [6, 6] : []);
  pen.strokeStyle = pen.fillStyle = colour;
  pen.lineWidth = picture ? 1.4 : part === "oval" ? 2.5 : 1.8;
  const filled = { oval: 0.1, brows: 0.75, irises: 0.9, lips: 0.28 }[part];
  if (filled && !picture) {
    pen.globalAlpha = filled;
    pen.fill();
  }
  pen.globalAlpha = part === "nose" ? 0.45 : 0.95;
  pen.stroke();
  pen.globalAlpha = 1;
}

/** A smooth line through the middles between the corners. */
function trace(pen, corners, closed) {
  const half = ([ax, ay], [bx, by]) => [(ax + bx) / 2, (ay + by) / 2];
  if (closed) pen.moveTo(...half(corners.at(-1), corners[0]));
  else pen.moveTo(...corners[0]);
  corners.forEach((corner, i) => {
    if (closed || i < corners.length - 1) {
      pen.quadraticCurveTo(...corner, ...half(corner, corners[(i + 1) % corners.length]));
    } else {
      pen.lineTo(...corner);
    }
  });
  if (closed) pen.closePath();
}

/** A camera, struck out. */
function drawNoCamera(pen, width, height) {
  const x = width / 2, y = height / 2 - 16;
  pen.strokeStyle = getComputedStyle(canvas).color;
  pen.globalAlpha = view === "down" ? 0.85 : 0.4;
  pen.lineWidth = 4;
  pen.lineJoin = pen.lineCap = "round";
  pen.beginPath();
  pen.roundRect(x - 46, y - 28, 66, 56, 10);
  pen.moveTo(x + 20, y - 8);
  pen.lineTo(x + 46, y - 24);
  pen.lineTo(x + 46, y + 24);
  pen.lineTo(x + 20, y + 8);
  pen.moveTo(x - 56, y + 44);
  pen.lineTo(x + 56, y - 44);
  pen.stroke();
  pen.globalAlpha = 1;
}

/** An outline with nobody in it. */
function drawNobody(pen, width, height) {
  const x = width / 2, y = height / 2 - 16;
  pen.strokeStyle = getComputedStyle(canvas).color;
  pen.globalAlpha = 0.35;
  pen.lineWidth = 2;
  pen.setLineDash([5, 7]);
  pen.beginPath();
  pen.ellipse(x, y - 12, 34, 43, 0, 0, 2 * Math.PI);
  pen.stroke();
  pen.beginPath();
  pen.ellipse(x, y + 94, 74, 52, 0, Math.PI * 1.06, Math.PI * 1.94);
  pen.stroke();
  pen.globalAlpha = 1;
}

new ResizeObserver(() => draw(performance.now())).observe(canvas);
