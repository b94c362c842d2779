"""Strangers, rubbish and floods against the web server, through real sockets."""

import asyncio
import os
import socket
import time
from pathlib import Path

import aiohttp
import pytest

from runtime.errors import UsageError
from runtime.outputs.web.security import Address, Guard, Rate
from runtime.outputs.web.server import WebServer
from tests.runtime.web import (
    Stream,
    an_event,
    get,
    handshake,
    messages,
    raw,
    run,
    serving,
    status,
)  # fmt: skip

TOKEN = "a long enough token"
pytestmark = pytest.mark.usefixtures("quiet_log")


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:{port}", "localhost:1", "localhost", "127.0.0.1.evil.example",
     "localhost:{port}, evil", "LOCALHOST.:{port}", "[::1", "0.0.0.0:{port}", "", "user@localhost"],
)  # fmt: skip
def test_a_wrong_host_is_refused(web: WebServer, host: str) -> None:
    host = host.format(port=web.port)
    for path in ("/", "/latest", "/events"):
        answer = raw(web, f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert status(answer) in (400, 403)
        assert b"dmd" not in answer.split(b"\r\n\r\n", 1)[1]
    both = f"GET /latest HTTP/1.1\r\nHost: localhost:{web.port}\r\nHost: {host}\r\n\r\n"
    assert status(raw(web, both.encode())) in (400, 403)
    assert status(raw(web, b"GET /latest HTTP/1.0\r\n\r\n")) in (400, 403)


@pytest.mark.parametrize("host", ["localhost", "LocalHost", "127.0.0.1", "[::1]"])
def test_its_own_names_are_right(web: WebServer, host: str) -> None:
    answer = raw(web, f"GET /latest HTTP/1.1\r\nHost: {host}:{web.port}\r\n\r\n".encode())
    assert status(answer) == 200


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "http://localhost:1", "https://127.0.0.1:{port}", "",
     "http://127.0.0.1:{port}.evil.example"],
)  # fmt: skip
def test_a_foreign_page_is_refused(web: WebServer, stream: Stream, origin: str) -> None:
    origin = f"Origin: {origin.format(port=web.port)}"
    assert status(raw(web, handshake(web, "/events", origin))) == 403
    lines = (f"GET /latest HTTP/1.1\r\nHost: 127.0.0.1:{web.port}", origin, "", "")
    assert status(raw(web, "\r\n".join(lines).encode())) == 403
    assert stream.commands == []


def test_its_own_page_is_not(web: WebServer) -> None:
    origin = f"Origin: http://127.0.0.1:{web.port}"
    assert status(raw(web, handshake(web, "/events", origin), timeout_s=0.3)) == 101


def test_without_the_token_nothing_is_told(stream: Stream) -> None:
    with serving(stream, token=TOKEN) as web:
        web.emit(an_event())
        for path in ("/latest", "/stats", "/health", "/schema", "/events", "/events?last=5"):
            assert get(web, path, Accept="text/event-stream")[0] == 401, path
            assert status(raw(web, handshake(web, path))) == 401
        for wrong in ("", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "ä", "x" * 5_000):
            shown = wrong.encode("utf-8")
            head = f"GET /latest HTTP/1.1\r\nHost: 127.0.0.1:{web.port}\r\nAuthorization: Bearer "
            assert status(raw(web, head.encode() + shown + b"\r\n\r\n")) in (400, 401)
        assert get(web, "/latest?token=")[0] == 401
        assert get(web, "/latest", Authorization=f"Bearer {TOKEN}")[0] == 200
        assert get(web, "/latest", Authorization=f"Basic {TOKEN}")[0] == 401
        assert get(web, f"/latest?token={TOKEN.replace(' ', '%20')}")[0] == 200
        page = get(web, "/")
        assert page[0] == 200
        assert "sentence 1" not in page[1]


@pytest.mark.parametrize(
    "path",
    ["/../server.py", "/%2e%2e/server.py", "/page/../../server.py", "/..%2fserver.py",
     "//etc/passwd", "/app.js/../../server.py", "/%00", "/app.js%00.html", "/\\..\\server.py",
     "/index.html/"],
)  # fmt: skip
def test_paths_lead_nowhere_else(web: WebServer, path: str) -> None:
    answer = raw(web, f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{web.port}\r\n\r\n".encode())
    assert status(answer) in (400, 404)
    assert b"import " not in answer


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_other_methods_are_refused(web: WebServer, method: str) -> None:
    for path in ("/", "/events", "/latest"):
        lines = (
            f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{web.port}\r\nContent-Length: 0\r\n\r\n"
        )
        assert status(raw(web, lines.encode())) == 405


@pytest.mark.parametrize(
    "sent",
    [b"\x00\xff\xfe" * 100, b"GET / HTTP/9.9\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00\x01",
     b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
     b"GET / HTTP/1.1\r\nHost: \xff\xfe\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
     b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
     b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"],
)  # fmt: skip
def test_rubbish_is_refused(web: WebServer, sent: bytes) -> None:
    assert status(raw(web, sent)) in (0, 400, 403, 405, 414, 431)
    assert get(web, "/health")[0] == 200


def masked(opcode: int, payload: bytes) -> bytes:
    size = len(payload)
    head = bytes([0x80 | opcode, 0xFF]) + size.to_bytes(8, "big")
    return head + bytes(4) + payload  # the mask of zeros


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (masked(1, b"mute\xff\xfe"), 1007),
        (masked(1, b"x" * 5_000), 1009),
        (masked(1, b"x" * 10_000_000), 1009),
        (masked(2, b"mute"), 1003),
        (masked(7, b"mute"), 1002),
    ],
    ids=["broken UTF-8", "5 kB", "10 MB", "binary", "no such opcode"],
)
def test_wrong_messages_end_the_connection(
    web: WebServer, stream: Stream, frame: bytes, code: int
) -> None:
    answer = raw(web, handshake(web, "/events") + frame)
    if answer or len(frame) < 1_000_000:  # a reset connection drops what was sent before it
        assert status(answer) == 101
        closing = answer.split(b"\r\n\r\n", 1)[1]
        assert int.from_bytes(closing[2:4], "big") == code
    assert stream.commands == []
    assert get(web, "/health")[0] == 200


def test_a_large_body_is_not_read(web: WebServer) -> None:
    size = 10_000_000
    head = f"POST /events HTTP/1.1\r\nHost: 127.0.0.1:{web.port}\r\nContent-Length: {size}\r\n\r\n"
    assert status(raw(web, head.encode() + bytes(size))) in (0, 405)
    assert get(web, "/health")[0] == 200


def test_a_thousand_silent_connections_keep_nobody_out(web: WebServer) -> None:
    before, silent = len(os.listdir("/proc/self/fd")), []
    try:
        for _ in range(1_000):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", web.port))
            silent.append(client)
            if len(silent) > 200:  # this process must not run out of file descriptors itself
                silent.pop(0).close()
        assert get(web, "/health")[0] == 200
        assert len(os.listdir("/proc/self/fd")) - before < 200 + 160
    finally:
        for client in silent:
            client.close()


def test_silence_ends(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.outputs.web.gate._YOUNG_S", 0.2)
    with serving(stream) as web:
        begun = time.monotonic()
        assert raw(web, b"GET /latest HTTP/1.1\r\nHost: ") == b""
        assert time.monotonic() - begun < 3
        stays = run(lambda: stay(web, 0.5))
        assert not stays


async def stay(web: WebServer, wait_s: float) -> bool:
    """Whether a WebSocket is closed that says nothing."""
    async with aiohttp.ClientSession() as session, session.ws_connect(web.url + "events") as quiet:
        await asyncio.sleep(wait_s)
        web.emit(an_event(7))
        return (await messages(quiet, 1))[0]["utterance"] != 7


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.168.7.7:0", "robot.local:0"])
def test_other_machines_need_a_token(address: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--web-token"):
        WebServer(address)
    with pytest.raises(UsageError, match="characters"):
        WebServer(address, token="short")
    with pytest.raises(UsageError, match="cannot be read"):
        WebServer(address, token_file=str(tmp_path / "none"))
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    WebServer(address, token_file=str(tmp_path / "token"))


def test_the_address_that_a_client_reached_is_a_right_host() -> None:
    guard = Guard(names=Address.parse("0.0.0.0:80").names(), port=80, token=None)
    assert guard.may_host(["192.168.1.5"], "192.168.1.5")
    assert guard.may_host(["192.168.1.5:80"], "::ffff:192.168.1.5")
    assert not guard.may_host(["192.168.1.6"], "192.168.1.5")
    assert not guard.may_host(["evil.example"], "192.168.1.5")


def test_a_rate() -> None:
    rate = Rate(per_s=2.0, burst=3)
    assert [rate.take(100.0) for _ in range(4)] == [True, True, True, False]
    assert rate.take(100.5)
    assert not rate.take(100.6)
