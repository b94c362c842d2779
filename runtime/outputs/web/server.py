"""The web server as a sink: its address, its thread, its lifetime."""

import asyncio
import importlib.util
import logging
import os
import socket
import threading
from typing import Any

from ...errors import UsageError
from ...schemas import EmotionEvent
from ...system.threads import join
from .security import Address, Guard, token_of
from .state import Watched

__all__ = ["WebServer"]

_logger = logging.getLogger("dmd_live")
_N_CLIENTS = 32  # WebSockets and server-sent events together
_N_QUEUED = 128  # connections that wait to be accepted
_SEND_BUFFER = 65_536  # bytes; a slow client shall lag in the queue that knows what to drop
_JOIN_S = 3.0


class WebServer:
    """Serves a page and a WebSocket with what a stream says, from a thread of its own.

    ```
    web = WebServer("8080")
    with EmotionStream(camera=0, microphone="default", provisional=True, sinks=[web]):
        print(web.url)
        web.wait()
    ```

    `address`: `[HOST:]PORT`; another HOST than this machine itself needs `token` or `token_file`.
    `picture`: show the camera's picture on the page, besides the face's lines. Raises UsageError
    for a wrong address or token, without aiohttp, and, on entry, for a port that is taken.
    """

    def __init__(
        self,
        address: str,
        *,
        token: str | None = None,
        token_file: str | None = None,
        picture: bool = False,
    ) -> None:
        self._address = Address.parse(address)
        self._token = token_of(token, token_file, self._address)
        self._picture = picture
        if importlib.util.find_spec("aiohttp") is None:
            raise UsageError("--web needs aiohttp; run: pip install aiohttp")
        self._stream: Watched | None = None
        self._thread: threading.Thread | None = None
        self._hub: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._ready, self._left = threading.Event(), threading.Event()
        self._failed: BaseException | None = None
        self.port = self._address.port
        """The one that is listened on, once open."""

    def attach(self, stream: Watched) -> None:
        """Serve this stream, whose sink it is."""
        self._stream = stream

    @property
    def url(self) -> str:
        """The page's address."""
        host = self._address.host
        if host in ("", "0.0.0.0", "::"):
            host = socket.gethostname()
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/"

    def __enter__(self) -> "WebServer":
        if self._stream is None:
            raise UsageError("a web server is a sink: EmotionStream(..., sinks=[web])")
        listener = self._listener()
        self.port = listener.getsockname()[1]
        self._thread = threading.Thread(
            target=self._run, args=(listener, self._stream), name="dmd-live-web", daemon=True
        )
        self._thread.start()
        self._ready.wait()
        if self._failed is not None:
            raise self._failed
        return self

    def __exit__(self, *exc: object) -> None:
        if self._loop is not None and self._stop is not None:
            self._call(self._stop.set)
        if self._thread is not None:
            join([self._thread], _JOIN_S)
        self._left.set()

    def emit(self, event: EmotionEvent) -> None:
        """Hand the event to the server's thread; never waits."""
        self._call(self._hub.add, event)

    def wait(self) -> None:
        """Return when the server is closed; Ctrl-C raises KeyboardInterrupt."""
        while not self._left.wait(1.0):
            pass

    def _call(self, function: Any, *args: Any) -> None:
        try:
            assert self._loop is not None
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # it has been closed
            return

    def _listener(self) -> socket.socket:
        host, port = self._address.host, self._address.port
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            family, *_, where = found[0]
            listener = socket.create_server((str(where[0]), port), family=family, backlog=_N_QUEUED)
        except OSError as error:
            why = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
            raise UsageError(
                f"--web: port {port} of {host} cannot be served ({why.lower()}); take another one, "
                "or 0 for any that is free"
            ) from error
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, name):
                listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        return listener

    def _run(self, listener: socket.socket, stream: Watched) -> None:
        """The thread."""
        try:
            with listener:
                asyncio.run(self._serve(listener, stream))
        except BaseException as error:
            self._failed = error
            if self._ready.is_set():
                _logger.exception("the web server has failed; the stream goes on")
        finally:
            self._ready.set()
            self._left.set()

    async def _serve(self, listener: socket.socket, stream: Watched) -> None:
        from aiohttp import web

        from .app import App
        from .feed import Hub
        from .gate import Gate

        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_told)
        self._hub, self._loop, self._stop = Hub(n_max=_N_CLIENTS), loop, asyncio.Event()
        guard = Guard(names=self._address.names(), port=self.port, token=self._token)
        app = App(stream, self._hub, guard, picture=self._picture)
        runner = web.AppRunner(
            app.application(),
            access_log=None,
            handler_cancellation=True,
            lingering_time=1.0,
            shutdown_timeout=0.5,
        )
        await runner.setup()
        assert runner.server is not None
        gate = app.gate = Gate(runner.server)
        server = await loop.create_server(gate, sock=listener)
        stopping = asyncio.create_task(self._stop.wait())
        ticking = asyncio.create_task(app.tick())
        self._ready.set()
        try:
            await asyncio.wait({stopping, ticking}, return_when=asyncio.FIRST_COMPLETED)
            if not stopping.done():
                ticking.result()  # raises what has ended it
        finally:
            server.close()
            ticking.cancel()
            stopping.cancel()
            await app.close()
            gate.close()
            left = [c.transport for c in runner.server.connections if c.transport is not None]
            await runner.cleanup()
            for transport in left:  # a client that does not read would keep it
                transport.abort()
            await asyncio.sleep(0.01)  # until they are closed


def _told(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What goes wrong with a connection is one line, whatever strangers send."""
    error = context.get("exception")
    _logger.warning("web: %s (%s)", context["message"], error)
