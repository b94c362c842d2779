// Small helpers: elements, numbers, names.

export const at = (id) => document.getElementById(id);

/** An element with a class and text (never HTML). */
export function element(name, className = "", text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

/** Set text only where it changes, so that screen readers are not disturbed. */
export function write(id, text) {
  const place = at(id);
  if (place.textContent !== text) place.textContent = text;
}

export const percent = (share) => `${Math.round(100 * share)} %`;

/** "+0.8", "−1.2", "0.0" */
export function signed(value) {
  const size = Math.abs(value).toFixed(1);
  return size === "0.0" ? size : `${value < 0 ? "−" : "+"}${size}`;
}

export const SENSES = { text: "Words", audio: "Voice", vision: "Face" };
export const calm = matchMedia("(prefers-reduced-motion: reduce)");

export const confidence = (event) => event.probabilities[event.emotion];

/** "happiness, 88 %", or "not sure, perhaps happiness, 41 %". */
export function judged(event) {
  const named = `${event.emotion}, ${percent(confidence(event))}`;
  return event.uncertain ? `not sure, perhaps ${named}` : named;
}

/** A bar of `share` in [0, 1]. */
export function meter() {
  const track = element("span", "meter");
  track.append(element("i"));
  track.setAttribute("aria-hidden", "true");
  return track;
}

export function fill(track, share) {
  track.firstChild.style.setProperty("--v", Math.max(0, Math.min(1, share)));
}

export const seconds = (s) => {
  const whole = Math.max(0, Math.floor(s));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
};
