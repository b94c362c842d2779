// What is so now: the face, the emotion, the senses, devices and latency.

import { at, confidence, element, fill, meter, percent, SENSES, signed, write } from "./dom.js";
import { showFace } from "./face.js";
import { mixed } from "./transcript.js";

const DEVICES = { camera: "Camera", microphone: "Microphone", words: "Speech-to-text", model: "Model" };
const OF_FILES = { camera: "Pictures", microphone: "Sound" };
const STATES = { on: "on", off: "none", muted: "muted", down: "down" };
const LATENCY = { queue: "Queue", words: "Words", inference: "Model" };

let shown, listed = "";

export function showEvent(event) {
  if (event === shown) return;
  shown = event;
  const sure = event && !event.uncertain ? "yes" : "no";
  const box = at("feeling");
  box.dataset.emotion = event?.emotion ?? "none";
  box.dataset.sure = event ? sure : "yes";
  box.classList.toggle("early", event?.type === "provisional");
  at("counted").hidden = at("took").hidden = !event;
  if (!event) return;
  write("kind", event.type === "provisional" ? "While they speak" : "Last utterance");
  const share = percent(confidence(event));
  write("emotion", event.uncertain ? "Not sure" : event.emotion);
  write("sure", event.uncertain ? `perhaps ${event.emotion}, ${share}` : `${share} sure`);
  showBars(event, sure);
  showSenses(event);
  showWhy(event);
  showLatency(event.latency_ms);
}

function showBars(event, sure) {
  const list = at("bars");
  list.dataset.sure = sure;
  const names = Object.keys(event.probabilities);
  if (list.children.length !== names.length) {
    list.replaceChildren(...names.map((name) => {
      const row = element("li");
      row.dataset.emotion = name;
      row.append(element("span", "", name), meter(), element("b"));
      return row;
    }));
  }
  names.forEach((name, i) => {
    const row = list.children[i];
    row.classList.toggle("top", name === event.emotion);
    row.lastChild.textContent = percent(event.probabilities[name]);
    fill(row.children[1], event.probabilities[name]);
  });
}

function showSenses(event) {
  const rows = Object.entries(SENSES).map(([sense, label]) => {
    const here = event.modalities[sense] === "present";
    const row = element("li", here ? "" : "absent");
    row.dataset.sense = sense;
    const bar = meter();
    if (here) fill(bar, event.modality_weight[sense]);
    const own = here ? `alone: sentiment ${signed(event.modality_sentiment[sense])}` : event.modalities[sense];
    row.append(
      element("span", "", label), bar,
      element("b", "", here ? percent(event.modality_weight[sense]) : "–"), element("span", "own", own));
    return row;
  });
  at("senses").replaceChildren(...rows);
  at("mixed").hidden = !event.mixed;
  write("mixed", event.mixed ? mixed(event) : "");
}

function showWhy(event) {
  const lines = (texts) => texts.map((text) => element("li", "", text));
  at("why").hidden = !event.reasons.length && !event.quality.length;
  write("why-title", event.reasons.length ? "Why" : "Notes");
  at("reasons").replaceChildren(...lines(event.reasons));
  at("quality").replaceChildren(...lines(event.quality));
}

function showLatency(latency) {
  write("total", `${Math.round(latency.total)} ms`);
  const rows = Object.entries(LATENCY).flatMap(([name, label]) => {
    const bar = element("dd");
    const track = meter();
    fill(track, latency[name] / Math.max(latency.total, 1));
    bar.append(track);
    return [element("dt", "", label), bar, element("dd", "", `${Math.round(latency[name])} ms`)];
  });
  at("latency").replaceChildren(...rows);
}

export function showState(state, event) {
  showInView(state, event);
  const { dropped, restarts } = state.stats;
  const now = JSON.stringify([state.devices, state.live, dropped, restarts]);
  if (now === listed) return;
  listed = now;
  const rows = Object.entries(DEVICES).map(([name, label]) => {
    const { state: how, note } = state.devices[name];
    const row = element("li", how);
    row.append(element("b", "", state.live ? label : OF_FILES[name] ?? label), element("span", "", how === "on" && note ? note : STATES[how]));
    if (how === "down" || (how === "off" && note)) row.append(element("em", "", note));
    return row;
  });
  at("devices").replaceChildren(...rows);
  const lost = Object.entries(dropped).filter(([, n]) => n);
  const again = Object.entries(restarts).filter(([, n]) => n);
  write("dropped", [
    ...lost.map(([name, n]) => `${n} ${name === "vision" ? "pictures" : "pieces of sound"} skipped`),
    ...again.map(([name, n]) => `${SENSES[name] ?? name}: device opened again ${n}×`),
  ].join(" · "));
}

/** The stage: a face, an empty room, a dead camera or none. */
function showInView(state, event) {
  const camera = state.devices.camera.state;
  const face = camera === "on" ? state.face : null;
  const [view, note] = stageOf(state, camera, face);
  at("stage").dataset.view = view;
  write("view-note", note);
  const n = face?.n_faces ?? 0;
  const whose = event?.person ? `person ${event.person.id}, ` : "";
  write("people", n ? `${whose}${n} ${n > 1 ? "people" : "person"}` : "");
  const tint = getComputedStyle(at("feeling")).getPropertyValue("--c").trim() || "#888";
  showFace(face, resolved(tint), Boolean(event?.uncertain), view);
  const emotion = event && (event.uncertain ? "emotion not sure" : event.emotion);
  at("face").setAttribute("aria-label",
    view === "face" ? `A face in view${emotion ? `, ${emotion}` : ""}` : note);
}

function stageOf(state, camera, face) {
  if (state.ended) return ["ended", "The recording has ended"];
  if (camera === "down") return ["down", "The camera is down"];
  if (camera === "off") return ["none", "No camera: voice and words only"];
  if (!face) return ["waiting", "Waiting for a picture"];
  if (face.lines) return ["face", ""];
  return ["empty", face.n_faces ? "No face can be followed" : "Nobody in view"];
}

/** A colour that a canvas understands: custom properties may name others. */
function resolved(colour) {
  return CSS.supports("color", colour) ? colour : getComputedStyle(at("emotion")).color;
}
