// What the page knows of the session: finals that stay, the early estimate, the state.

const N_KEPT = 5000; // finals

export class Session {
  finals = []; // { key, event, text }
  early = null; // the estimate of the utterance that goes on
  state = null;
  lost = null;
  #keys = new Map();
  #id = "";

  /** Take a message; returns "final", "early", "state", "lost", "error", or "" for nothing new. */
  take(text) {
    const message = JSON.parse(text);
    if (message.state) {
      this.state = message.state;
      this.#id = message.state.session;
      return "state";
    }
    if (message.lost) {
      this.lost = message.lost;
      return "lost";
    }
    if (message.error) return "error";
    return message.type === "final" ? this.#addFinal(message, text) : this.#addEarly(message);
  }

  /** The newest event, early or final. */
  get newest() {
    return this.early ?? this.finals.at(-1)?.event ?? null;
  }

  /** All finals as `dmd-live --json` prints them. */
  get jsonl() {
    return this.finals.map((entry) => `${entry.text}\n`).join("");
  }

  #addEarly(event) {
    const last = this.finals.at(-1)?.event;
    if (last && event.utterance === last.utterance && event.end_s <= last.end_s) return "";
    this.early = event;
    return "early";
  }

  #addFinal(event, text) {
    const at = (revision) => `${this.#id}/${event.utterance}/${revision}/${event.replaces === null ? event.start_s : ""}`;
    const key = at(event.revision);
    if (this.#keys.has(key)) return ""; // it came before the connection was lost
    if (event.replaces !== null && event.replaces !== undefined) {
      const old = this.finals.findLastIndex(
        (entry) => entry.session === this.#id && entry.event.utterance === event.utterance
          && entry.event.revision === event.replaces);
      if (old >= 0) this.finals.splice(old, 1);
    }
    this.#keys.set(key, true);
    this.finals.push({ key, event, text, session: this.#id });
    if (this.finals.length > N_KEPT) this.#keys.delete(this.finals.shift().key);
    this.early = null;
    return "final";
  }
}
