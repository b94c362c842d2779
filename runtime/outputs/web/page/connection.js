// The WebSocket to this page's own server: token, silence, back-off.

const KEY = "dmd-live-token";
const SILENT_MS = 5000; // the server sends its state at least once a second
const FIRST_MS = 500, LONGEST_MS = 15000;

/** The token from the address, kept for this tab only, and taken out of the address. */
function takeToken() {
  const address = new URL(location.href);
  const given = address.searchParams.get("token");
  if (given !== null) {
    sessionStorage.setItem(KEY, given);
    address.searchParams.delete("token");
    history.replaceState(null, "", address);
  }
}

export class Connection {
  /** `on`: message(text), link(state, seconds until the next try), token(): ask for one. */
  constructor(on) {
    this.on = on;
    this.delay = FIRST_MS;
    this.socket = null;
    takeToken();
  }

  url(path, query = {}) {
    const address = new URL(path, location.href);
    const token = sessionStorage.getItem(KEY);
    const all = token === null ? query : { ...query, token };
    for (const [name, value] of Object.entries(all)) address.searchParams.set(name, value);
    return address;
  }

  open() {
    clearTimeout(this.retry);
    const address = this.url("events", { provisional: 1, state: 1, last: 1000 });
    address.protocol = "ws:";
    const socket = new WebSocket(address);
    this.socket = socket;
    let heard = false;
    const watch = () => {
      clearTimeout(this.silence);
      this.silence = setTimeout(() => this.lose(socket), SILENT_MS);
    };
    watch();
    socket.onmessage = (message) => {
      watch();
      if (!heard) {
        heard = true;
        this.delay = FIRST_MS;
        this.on.link("open", 0);
      }
      this.on.message(message.data);
    };
    socket.onclose = () => this.lose(socket);
  }

  /** The connection is lost: say so, and try again later. */
  async lose(socket) {
    if (this.socket !== socket) return;
    this.socket = null;
    clearTimeout(this.silence);
    socket.onmessage = socket.onclose = null;
    socket.close();
    const wait = this.delay * (0.8 + 0.4 * Math.random()); // many pages shall not come at once
    this.delay = Math.min(2 * this.delay, LONGEST_MS);
    this.on.link("lost", wait / 1000);
    if (await this.refused()) this.on.token();
    else this.retry = setTimeout(() => this.open(), wait);
  }

  /** Whether the server wants another token: a WebSocket does not say why it was closed. */
  async refused() {
    try {
      return (await fetch(this.url("health"), { cache: "no-store" })).status === 401;
    } catch {
      return false;
    }
  }

  enter(token) {
    sessionStorage.setItem(KEY, token);
    this.open();
  }

  send(command) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(command);
  }
}
