// What was said: finals stay, the early estimate moves below them.

import { at, element, judged, SENSES, seconds } from "./dom.js";

const N_SHOWN = 200; // older ones can still be saved

const list = at("said");
const items = new Map(); // key -> li
let early = null;
let following = true; // the newest, unless somebody scrolls back

const isAtEnd = () => list.scrollHeight - list.scrollTop - list.clientHeight < 60;
list.addEventListener("scroll", () => { following = isAtEnd(); });
new ResizeObserver(follow).observe(list);

function follow() {
  if (following) list.scrollTop = list.scrollHeight;
}

/** Bring the list up to date; `when(event)` says the time of an event. */
export function showTranscript(session, when) {
  const shown = session.finals.slice(-N_SHOWN);
  const keys = new Set(shown.map((entry) => entry.key));
  for (const [key, item] of items) {
    if (!keys.has(key)) {
      item.remove();
      items.delete(key);
    }
  }
  for (const { key, event } of shown) {
    if (!items.has(key)) {
      items.set(key, entry(event, false));
      list.insertBefore(items.get(key), early);
    }
    const time = items.get(key).querySelector("time"), text = when(event);
    if (time.textContent !== text) time.textContent = text;
  }
  showEarly(session.early);
  at("nothing").hidden = list.children.length > 0;
  const n = session.finals.length;
  at("count").textContent = n ? `${n} utterance${n > 1 ? "s" : ""}` : "";
  follow();
}

let estimate = null;
function showEarly(event) {
  if (event === estimate) return;
  estimate = event;
  early?.remove();
  early = event && entry(event, true);
  if (early) list.append(early);
}

function entry(event, isEarly) {
  const item = element("li", isEarly ? "early" : "");
  item.dataset.emotion = event.emotion;
  item.dataset.sure = event.uncertain ? "no" : "yes";
  item.dataset.utterance = event.utterance;
  item.append(element("p", event.text ? "words" : "words none", event.text || "no words recognised"));
  const meta = element("p", "meta");
  const chip = element("span", "chip", judged(event));
  chip.dataset.sure = item.dataset.sure;
  meta.append(chip);
  if (isEarly) meta.append(element("span", "", "early estimate"));
  else meta.append(element("time"), element("span", "", seconds_of(event)));
  if (event.mixed) meta.append(element("span", "warn", mixed(event)));
  if (event.quality.length) meta.append(element("span", "warn", event.quality.join(", ")));
  item.append(meta);
  return item;
}

const seconds_of = (event) => `${(event.end_s - event.start_s).toFixed(1)} s`;

/** "mixed signals: words and face disagree" */
export function mixed(event) {
  const names = event.disagree.map((sense) => SENSES[sense].toLowerCase());
  return names.length ? `mixed signals: ${names.join(" and ")} disagree` : "mixed signals";
}

/** For a medium with an end: its own time. For a live stream: how long ago. */
export function timeOf(event, live, now_s) {
  if (!live) return `at ${seconds(event.start_s)}`;
  const ago = now_s - event.end_s;
  if (ago < 10) return "just now";
  return ago < 90 ? `${Math.round(ago / 10) * 10} s ago` : `${Math.round(ago / 60)} min ago`;
}
