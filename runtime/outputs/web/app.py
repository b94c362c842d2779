"""The web server's answers: the page, JSON, WebSocket and server-sent events."""

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web

from ...errors import UsageError
from ...schemas import SCHEMA
from .feed import Feed, Hub
from .gate import Gate
from .security import Guard, Rate, response_headers
from .state import Watched, devices, face

__all__ = ["App"]

_PAGE = Path(__file__).parent / "page"
_KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css",
          ".svg": "image/svg+xml"}  # fmt: skip
_MAX_MESSAGE = 4_096  # bytes that a client may send at once
_WRITE_LIMIT = 4_096  # bytes, after which sending waits for the client
_STUCK_S = 300.0  # a client that takes nothing for so long is cut
_TICK_S, _CALM_S = 0.2, 1.0  # between states: while pictures come, and otherwise
_ALIVE_S = 15.0  # between comments that keep server-sent events alive
_COMMANDS_PER_S, _COMMANDS_BURST = 5.0, 10
_N_LAST = 1_000

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class App:
    """Routes and what they share. `keep`: tells the gate that a connection has become a stream."""

    def __init__(self, stream: Watched, hub: Hub, guard: Guard, *, picture: bool) -> None:
        self._stream, self._hub, self._guard, self._picture = stream, hub, guard, picture
        self._headers = response_headers(pictures=picture)
        self._files = {
            path.name: (path.read_bytes(), _KINDS[path.suffix])
            for path in _PAGE.iterdir()
            if path.suffix in _KINDS
        }
        self._session = secrets.token_hex(8)
        self._sockets: set[web.WebSocketResponse] = set()
        self._streams: set[asyncio.Task[Any]] = set()
        self._seen: Any = None
        self._seen_s = -1e9
        self.gate: Gate | None = None

    def application(self) -> web.Application:
        """For aiohttp's runner."""
        app = web.Application(middlewares=[self._checked])
        app.on_response_prepare.append(self._head)
        app.router.add_get("/events", self._events, allow_head=False)
        for path, answer in (
            ("/latest", self._latest), ("/stats", self._stats), ("/health", self._health),
            ("/schema", self._schema), ("/", self._file),
        ):  # fmt: skip
            app.router.add_get(path, answer)
        for name in self._files:
            app.router.add_get(f"/{name}", self._file)
        return app

    async def close(self) -> None:
        """Say goodbye to clients."""
        closing = [s.close(code=WSCloseCode.GOING_AWAY) for s in tuple(self._sockets)]
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.gather(*closing, return_exceptions=True), 0.5)
        for task in tuple(self._streams):
            task.cancel()

    async def tick(self) -> None:
        """Send the state to those who want it, for ever."""
        sent_s, sent_seen = -1e9, None
        loop = asyncio.get_running_loop()
        while True:
            watchers, seen = self._hub.watchers(), self._stream.seen
            if watchers and (seen is not sent_seen or loop.time() - sent_s >= _CALM_S):
                sent_s, sent_seen = loop.time(), seen
                self._tell(watchers)
            await asyncio.sleep(_TICK_S)

    async def _head(self, request: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(self._headers)

    @web.middleware
    async def _checked(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Middleware: refuse strangers; one request a connection."""
        try:
            response = self._refusal(request) or await handler(request)
        except web.HTTPException as error:
            response = _line(error.status, error.reason)
            response.headers.update({k: v for k, v in error.headers.items() if k == "Allow"})
        if not response.prepared:
            response.force_close()
        return response

    def _refusal(self, request: web.Request) -> web.Response | None:
        reached = request.transport and request.transport.get_extra_info("sockname")
        hosts = request.headers.getall("Host", [])
        if not reached or not self._guard.may_host(hosts, str(reached[0])):
            return _line(403, "this server is not called so: wrong Host")
        if not self._guard.may_origin(request.headers.getall("Origin", []), hosts[0]):
            return _line(403, "another site's page may not ask: wrong Origin")
        # The page itself holds no data: it asks for the token.
        is_page = request.path == "/" or request.path[1:] in self._files
        if not is_page and not self._guard.may_enter(request.headers, request.query):
            refused = _line(401, "give the token: Authorization: Bearer TOKEN, or ?token=TOKEN")
            refused.headers["WWW-Authenticate"] = "Bearer"
            return refused
        return None

    async def _file(self, request: web.Request) -> web.Response:
        body, kind = self._files[request.path[1:] or "index.html"]
        return web.Response(body=body, content_type=kind, charset="utf-8")

    async def _latest(self, _: web.Request) -> web.Response:
        return web.json_response(text=self._hub.latest)

    async def _stats(self, _: web.Request) -> web.Response:
        return web.json_response({**self._stream.stats, "web": self._hub.stats})

    async def _schema(self, _: web.Request) -> web.Response:
        return web.json_response(text=SCHEMA.read_text(encoding="utf-8"))

    async def _health(self, _: web.Request) -> web.Response:
        down = self._stream.stats["down"]
        status = "ended" if self._stream.ended else "degraded" if down else "ok"
        body = {"status": status, "down": down}
        return web.json_response(body, status=503 if status == "ended" else 200)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        upgrade = request.headers.get("Upgrade", "").lower() == "websocket"
        if not upgrade and "text/event-stream" not in request.headers.get("Accept", ""):
            return _line(406, "ask for a WebSocket, or with Accept: text/event-stream")
        if self._hub.full:
            return _line(503, "too many clients", **{"Retry-After": "5"})
        wanted = _wanted(request.query)
        if upgrade and not web.WebSocketResponse().can_prepare(request):
            return _line(400, "this is no WebSocket handshake")
        feed = self._hub.join(
            provisional=wanted.provisional,
            last=wanted.last,
            state=self._state() if wanted.state else None,
        )
        if self.gate is not None:
            self.gate.keep(request.protocol)
        try:
            return await (self._socket(request, feed) if upgrade else self._sent(request, feed))
        finally:
            self._hub.leave(feed)

    async def _socket(self, request: web.Request, feed: Feed) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(
            max_msg_size=_MAX_MESSAGE, writer_limit=_WRITE_LIMIT, compress=False, timeout=1.0
        )
        await socket.prepare(request)
        self._sockets.add(socket)
        sending = asyncio.create_task(_send(socket, request, feed))
        try:
            await self._listen(socket)
        finally:
            self._sockets.discard(socket)
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        return socket

    async def _listen(self, socket: web.WebSocketResponse) -> None:
        """Obey commands until the client goes."""
        rate = Rate(per_s=_COMMANDS_PER_S, burst=_COMMANDS_BURST)
        async for message in socket:
            if message.type is not WSMsgType.TEXT:
                await socket.close(code=WSCloseCode.UNSUPPORTED_DATA)
                return
            if not rate.take(asyncio.get_running_loop().time()):
                await socket.close(code=WSCloseCode.POLICY_VIOLATION, message=b"too fast")
                return
            try:
                self._stream.command(message.data)
            except UsageError as error:
                await socket.send_str(json.dumps({"error": str(error)}))
            self._tell(self._hub.watchers())  # they see at once what it did

    async def _sent(self, request: web.Request, feed: Feed) -> web.StreamResponse:
        """Server-sent events."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        response.force_close()
        await response.prepare(request)
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        waiting: asyncio.Task[str] | None = None
        try:
            await response.write(b": dmd-live\n\n")  # so that a client sees that it is connected
            while True:
                waiting = waiting or asyncio.create_task(feed.next())
                await asyncio.wait({waiting}, timeout=_ALIVE_S)
                line = ": alive\n\n"
                if waiting.done():
                    line, waiting = f"data: {waiting.result()}\n\n", None
                await asyncio.wait_for(response.write(line.encode()), _STUCK_S)
        except (ConnectionError, asyncio.TimeoutError):
            _abort(request)
        finally:
            self._streams.discard(task)
            if waiting is not None:
                waiting.cancel()
        return response

    def _tell(self, watchers: Sequence[Feed]) -> None:
        """Send them the state, which is made once for all."""
        if watchers:
            text = self._state()
            for feed in watchers:
                feed.put_state(text)

    def _state(self) -> str:
        stream, now_s = self._stream, asyncio.get_running_loop().time()
        seen, stats, latest = stream.seen, stream.stats, stream.latest()
        if seen is not self._seen:
            self._seen, self._seen_s = seen, now_s
        came_s = self._hub.latest_s
        state = {
            "session": self._session,
            "ended": stream.ended,
            "live": stats["source"]["live"],
            "muted": stats["down"].get("audio") == "muted",
            "face": face(seen, age_s=now_s - self._seen_s, picture=self._picture),
            "devices": devices(stats, latest),
            "event_age_s": None if came_s is None else round(now_s - came_s, 2),
            "stats": {**stats, "web": self._hub.stats},
        }
        return json.dumps({"state": state})


async def _send(socket: web.WebSocketResponse, request: web.Request, feed: Feed) -> None:
    try:
        while True:
            await asyncio.wait_for(socket.send_str(await feed.next()), _STUCK_S)
    except (ConnectionError, asyncio.TimeoutError):
        _abort(request)


def _abort(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """What a client asks for: see docs/web.md."""

    provisional: bool
    state: bool
    last: int


def _wanted(query: Mapping[str, str]) -> _Wanted:
    """Raises HTTPBadRequest."""
    flags = {name: query.get(name, "0") for name in ("provisional", "state")}
    last = query.get("last", "0")
    if not (set(flags.values()) <= {"0", "1"} and last.isascii() and last.isdigit()):
        raise web.HTTPBadRequest(reason="provisional and state are 0 or 1, last is a number")
    return _Wanted(
        provisional=flags["provisional"] == "1",
        state=flags["state"] == "1",
        last=min(int(last[:6]), _N_LAST),
    )


def _line(status: int, text: str, **more: str) -> web.Response:
    return web.Response(status=status, text=f"{text}\n", headers=more)
