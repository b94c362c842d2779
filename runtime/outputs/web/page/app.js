// The page: connects, and draws what comes at most once a frame.

import { drawChart, spanOf } from "./chart.js";
import { Connection } from "./connection.js";
import { at, judged, write } from "./dom.js";
import { Session } from "./session.js";
import { showTranscript, timeOf } from "./transcript.js";
import { showEvent, showState } from "./view.js";

const session = new Session();
let link = "connecting", paused = false, drawing = false, known = 0, retryAt = 0;
let newestAt = performance.now(), announceFrom = 0;

const connection = new Connection({
  message(text) {
    const kind = session.take(text);
    if (kind === "state" && session.state.event_age_s !== null) {
      newestAt = performance.now() - 1000 * session.state.event_age_s;
    } else if (kind === "final" || kind === "early") {
      if (announceFrom && kind === "final") announce(session.finals.at(-1).event);
    } else if (kind === "lost") {
      const { provisional, final } = session.lost;
      say(`This page fell behind and lost ${provisional} early estimates and ${final} utterances.`);
    }
    draw();
  },
  link(state, wait_s) {
    link = state;
    retryAt = performance.now() + 1000 * wait_s;
    document.body.dataset.link = state === "lost" && !session.state ? "connecting" : state;
    // What comes first after connecting is the past, which is not read out.
    announceFrom = 0;
    if (state === "open") setTimeout(() => { announceFrom = link === "open" ? 1 : 0; }, 1000);
    draw();
  },
  token() {
    link = "token";
    document.body.dataset.link = "connecting";
    if (!at("ask").open) at("ask").showModal();
    draw();
  },
});

function draw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    showStatus();
    if (!paused) show();
  });
}

/** Seconds on the source's clock. */
function now_s() {
  const event = session.newest;
  if (!event) return 0;
  const running = session.state && !session.state.ended;
  return event.end_s + (running ? Math.max(0, performance.now() - newestAt) / 1000 : 0);
}

function show() {
  const { state, newest: event } = session, now = now_s(), live = state?.live ?? true;
  showEvent(event);
  if (state) showState(state, event);
  showTranscript(session, (one) => timeOf(one, live, now));
  const events = session.finals.map((entry) => entry.event);
  if (session.early) events.push(session.early);
  const span = spanOf(events[0]?.end_s ?? now, now);
  write("lines-title", `The last ${span[1]}`);
  for (const [name, label, limit] of [["sentiment", "Sentiment", 3], ["arousal", "Arousal", 1]]) {
    drawChart(name, label, limit, events.map((one) => ({
      end_s: one.end_s, value: one[name], emotion: one.emotion, uncertain: one.uncertain,
      early: one.type === "provisional",
    })), now, span);
  }
  known = session.finals.length;
}

function showStatus() {
  const state = session.state;
  let [text, kind] = ["Connecting", ""];
  if (link === "lost") {
    [text, kind] = ["Connection lost", "bad"];
  } else if (link === "token") [text, kind] = ["Token needed", "warn"];
  else if (state?.ended) [text, kind] = ["Ended", ""];
  else if (state?.muted) [text, kind] = ["Muted", "warn"];
  else if (link === "open" && Object.keys(state?.stats.down ?? {}).length) {
    [text, kind] = ["A device is down", "bad"];
  } else if (link === "open") [text, kind] = [state?.live === false ? "Playing" : "Listening", "good"];
  const behind = session.finals.length - known;
  if (paused) [text, kind] = [`Paused${behind > 0 ? `, ${behind} new` : ""}`, "warn"];
  write("status", text);
  at("pill").dataset.kind = kind;
  const left = Math.max(0, Math.ceil((retryAt - performance.now()) / 1000));
  write("retry", link === "lost" ? `next try in ${left} s` : ""); // not read out
  const open = link === "open";
  at("mute").disabled = !open || Boolean(state?.ended);
  at("mute").setAttribute("aria-pressed", String(Boolean(state?.muted)));
  write("mute", state?.muted ? "Unmute" : "Mute");
  at("reset").disabled = !open || Boolean(state?.ended);
  at("save").disabled = session.finals.length === 0;
}

function announce(event) {
  write("announce", `${judged(event)}: ${event.text || "no words"}`);
}

let quiet = 0;
function say(text) {
  const notice = at("notice");
  notice.hidden = false;
  write("notice", text);
  clearTimeout(quiet);
  quiet = setTimeout(() => { notice.hidden = true; }, 8000);
}

at("mute").onclick = () => connection.send(session.state?.muted ? "unmute" : "mute");
at("reset").onclick = () => {
  connection.send("reset");
  say("What was learned of the speaker is forgotten.");
};
at("pause").onclick = () => {
  paused = !paused;
  at("pause").setAttribute("aria-pressed", String(paused));
  write("pause", paused ? "Go on" : "Pause");
  draw();
};
at("save").onclick = () => {
  const url = URL.createObjectURL(new Blob([session.jsonl], { type: "application/jsonl" }));
  const anchor = document.createElement("a");
  anchor.href = url;
  anchor.download = "dmd-live-session.jsonl";
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
};
at("ask-form").onsubmit = (submitted) => {
  submitted.preventDefault();
  at("ask").close();
  connection.enter(at("token").value.trim());
};
matchMedia("(prefers-color-scheme: dark)").onchange = draw;
setInterval(draw, 1000); // times grow older
connection.open();
