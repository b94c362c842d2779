"""The web server, through real sockets."""

import asyncio
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import jsonschema
import pytest

from runtime.errors import UsageError
from runtime.outputs.web.app import App
from runtime.outputs.web.feed import Feed, Hub
from runtime.outputs.web.security import Address, Guard
from runtime.outputs.web.server import WebServer
from runtime.schemas import SCHEMA
from tests.runtime.web import (
    Stream,
    an_event,
    conversation,
    decoded,
    early,
    get,
    handshake,
    messages,
    run,
    serving,
)  # fmt: skip

TOKEN = "a long enough token"


pytestmark = pytest.mark.usefixtures("quiet_log")


def test_what_it_answers(web: WebServer, stream: Stream) -> None:
    assert get(web, "/latest")[:2] == (200, "null")
    event = an_event()
    web.emit(event)
    code, text, headers = get(web, "/latest")
    assert (code, json.loads(text)) == (200, event.to_dict())
    assert headers["Content-Type"].startswith("application/json")
    jsonschema.validate(json.loads(text), json.loads(get(web, "/schema")[1]))
    assert get(web, "/schema")[1] == SCHEMA.read_text(encoding="utf-8")
    assert json.loads(get(web, "/stats")[1]) == {
        **stream.stats,
        "web": {"clients": 0, "lost": {"provisional": 0, "final": 0}},
    }
    assert json.loads(get(web, "/health")[1]) == {"status": "ok", "down": {}}
    stream.down["vision"] = "no such device"
    assert json.loads(get(web, "/health")[1])["status"] == "degraded"
    stream.ended = True
    assert get(web, "/health")[0] == 503


def test_every_answer_forbids_what_the_page_does_not_need(web: WebServer) -> None:
    for path in ("/", "/app.js", "/style.css", "/latest", "/no-such-path", "/events"):
        headers = get(web, path)[2]
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cache-Control"] == "no-store"
        assert headers["Server"] == "dmd-live"
        assert not [name for name in headers if name.startswith("Access-Control")]


def test_the_page_names_no_other_place(root: Path) -> None:
    for file in (root / "runtime" / "outputs" / "web" / "page").iterdir():
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "://" not in text, file
        assert "innerHTML" not in text, file


def test_a_websocket_gets_events_of_the_schema_only(web: WebServer, stream: Stream) -> None:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))

    async def client() -> list[dict[str, Any]]:
        async with aiohttp.ClientSession() as session:
            finals = await session.ws_connect(web.url + "events")
            async with session.ws_connect(web.url + "events?provisional=1") as everything:
                for event in (early(1), early(1, 1), an_event(1), early(2), an_event(2)):
                    web.emit(event)
                found = [*await messages(finals, 2), *await messages(everything, 5)]
            await finals.send_str("mute")
            web.emit(an_event(3))
            found += await messages(finals, 1)
            async with session.ws_connect(web.url + "events?last=2") as later:
                return [*found, *await messages(later, 2)]

    found = run(client)
    for event in found:
        jsonschema.validate(event, schema)
    assert [(e["type"][0], e["utterance"]) for e in found] == [
        ("f", 1), ("f", 2), ("p", 1), ("p", 1), ("f", 1), ("p", 2), ("f", 2), ("f", 3), ("f", 2),
        ("f", 3),
    ]  # fmt: skip
    assert stream.commands == ["mute"]


def test_commands_are_obeyed_and_bounded(web: WebServer, stream: Stream) -> None:
    async def client() -> tuple[dict[str, Any], int | None]:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(web.url + "events") as socket_,
        ):
            for line in ("mute", "unmute", " RESET\n", "rm -rf /"):
                await socket_.send_str(line)
            (error,) = await messages(socket_, 1)
            for _ in range(20):
                await socket_.send_str("reset")
            await socket_.receive(timeout=5)
            return error, socket_.close_code

    error, code = run(client)
    assert list(error) == ["error"]
    assert code == 1008
    assert stream.commands[:3] == ["mute", "unmute", "reset"]
    assert len(stream.commands) < 15


class Counting(Stream):
    n_asked = 0

    @property
    def stats(self) -> dict[str, Any]:
        self.n_asked += 1
        return super().stats


async def one_command() -> AsyncIterator[SimpleNamespace]:
    """A socket on which a client says one thing."""
    yield SimpleNamespace(type=aiohttp.WSMsgType.TEXT, data="mute")


@pytest.mark.parametrize("n_watchers", [0, 1, 20])
def test_a_command_costs_one_state_however_many_watch(n_watchers: int) -> None:
    async def obey() -> list[str]:
        feeds = [hub.join(provisional=False, last=0, state="{}") for _ in range(n_watchers)]
        await App(stream, hub, guard, picture=False)._listen(one_command())
        return [text for feed in feeds for text in (await feed.next(), await feed.next())]

    stream, hub = Counting(), Hub(n_max=32)
    guard = Guard(names=frozenset(), port=80, token=None)
    told = run(obey)
    assert stream.n_asked == min(n_watchers, 1)
    assert sum('"muted": true' in text for text in told) == n_watchers


def test_state_comes_only_when_asked_for(web: WebServer) -> None:
    async def client() -> dict[str, Any]:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(web.url + "events?state=1") as socket_,
        ):
            (first,) = await messages(socket_, 1)
            await socket_.send_str("mute")
            (then,) = await messages(socket_, 1)
            assert then["state"]["muted"]
            return first

    state = run(client)["state"]
    assert not state["muted"]
    assert state["devices"]["model"] == {"state": "on", "note": "cpu, int8"}
    assert state["face"] is None


def test_server_sent_events(web: WebServer) -> None:
    web.emit(an_event(1))

    async def client() -> list[str]:
        async with (
            aiohttp.ClientSession() as session,
            session.get(
                web.url + "events?last=5&provisional=1", headers={"Accept": "text/event-stream"}
            ) as answer,
        ):
            assert answer.headers["Content-Type"] == "text/event-stream"
            lines = []
            async for line in answer.content:
                lines.append(line.decode().strip())
                if line.startswith(b":"):
                    web.emit(early(2))
                if len([one for one in lines if one.startswith("data: ")]) == 2:
                    return lines
            return lines

    data = [json.loads(line[6:]) for line in run(client) if line.startswith("data: ")]
    assert [event["utterance"] for event in data] == [1, 2]
    deadline = time.monotonic() + 5
    while json.loads(get(web, "/stats")[1])["web"]["clients"]:
        assert time.monotonic() < deadline, "a client that has gone is still counted"
        time.sleep(0.02)


def test_what_it_cannot_give_is_said(web: WebServer) -> None:
    assert get(web, "/events")[0] == 406
    for query in ("provisional=yes", "last=-1", "last=many", "state=2"):
        assert get(web, f"/events?{query}", Accept="text/event-stream")[0] == 400
    assert get(web, "/events", Upgrade="websocket", Connection="Upgrade")[0] == 400


def test_a_feed_loses_early_estimates_first_and_says_it() -> None:
    async def slow() -> list[dict[str, Any]]:
        feed = Feed(provisional=True, state=False)
        for number in range(1, 301):
            for revision in range(3):
                feed.put("provisional", early(number, revision).to_json())
            feed.put("final", an_event(number).to_json())
        return [decoded(await feed.next()) for _ in range(257)]

    lost, *events = run(slow)
    assert [event["type"] for event in events] == ["final"] * 256
    assert [event["utterance"] for event in events] == [*range(45, 301)]
    assert lost == {"lost": {"provisional": 900, "final": 44}}


def test_a_feed_that_keeps_up_loses_nothing() -> None:
    async def quick() -> list[dict[str, Any]]:
        feed, got = Feed(provisional=True, state=False), []
        for number in range(1, 400):
            feed.put("provisional", early(number).to_json())
            feed.put("final", an_event(number).to_json())
            got += [decoded(await feed.next()) for _ in range(2)]
        return got

    assert len(run(quick)) == 798


def test_a_client_that_does_not_read_slows_nobody(web: WebServer) -> None:
    n = 600
    words = "word " * 150  # 10 kB of JSON

    async def client() -> tuple[list[float], list[dict[str, Any]]]:
        loop = asyncio.get_running_loop()
        slow = socket.socket()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        slow.connect(("127.0.0.1", web.port))
        slow.sendall(handshake(web, "/events?provisional=1"))
        took: list[float] = []
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(web.url + "events") as quick,
        ):
            for number in range(1, n + 1):
                web.emit(early(number, text=words))
                begun = time.monotonic()
                web.emit(an_event(number, text=words))
                took.append(time.monotonic() - begun)
                if number % 50 == 0:
                    await messages(quick, 50)
        slow.settimeout(1.5)
        found = await loop.run_in_executor(None, frames, slow)
        return took, found

    took, found = run(client)
    assert sorted(took)[n // 2] < 0.002
    (lost,) = [message["lost"] for message in found if "lost" in message][-1:]
    finals = [message["utterance"] for message in found if message.get("type") == "final"]
    assert finals == sorted(set(finals))
    assert finals[-1] == n
    assert len(finals) + lost["final"] == n
    assert lost["provisional"] > n // 2


def frames(client: socket.socket) -> list[dict[str, Any]]:
    """Reads unmasked text frames until nothing comes."""
    data = b""
    try:
        while piece := client.recv(1 << 20):
            data += piece
    except TimeoutError:
        pass
    client.close()
    data = data[data.index(b"\r\n\r\n") + 4 :]
    found = []
    while len(data) >= 4:
        size, start = data[1], 2
        if size == 126:
            size, start = int.from_bytes(data[2:4], "big"), 4
        assert data[0] == 0x81
        found.append(decoded(data[start : start + size].decode()))
        data = data[start + size :]
    return found


def test_at_most_32_listen(web: WebServer) -> None:
    async def many() -> int:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            sockets = [await session.ws_connect(web.url + "events") for _ in range(32)]
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await session.ws_connect(web.url + "events")
            await sockets[0].close()
            await asyncio.sleep(0.1)
            async with session.ws_connect(web.url + "events"):
                pass
            for socket in sockets:  # else a transport may outlive its loop
                await socket.close()
            return refused.value.status

    assert run(many) == 503


def test_it_closes_while_clients_are_there(stream: Stream) -> None:
    async def client() -> int | None:
        with serving(stream) as web:
            async with aiohttp.ClientSession() as session:
                listening = await session.ws_connect(web.url + "events")
                sent = await session.get(
                    web.url + "events", headers={"Accept": "text/event-stream"}
                )
                begun = time.monotonic()
                leaving = asyncio.get_running_loop().run_in_executor(None, web.__exit__)
                await listening.receive(timeout=5)
                await leaving
                assert time.monotonic() - begun < 2
                sent.close()
                return listening.close_code

    assert run(client) == 1001
    assert not [t for t in threading.enumerate() if t.name == "dmd-live-web"]


def test_addresses() -> None:
    assert Address.parse("8080") == Address(host="127.0.0.1", port=8080)
    assert Address.parse("[::1]:0").local
    assert Address.parse("localhost:1").local
    assert not Address.parse("0.0.0.0:1").local
    for wrong in ("", "x", "host:", ":80", "::1:80", "1:2:3", "70000", "-1", "host:8o"):
        with pytest.raises(UsageError, match="--web"):
            Address.parse(wrong)


def test_a_port_in_use_and_no_aiohttp(
    web: WebServer, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = WebServer(str(web.port))
    second.attach(stream)
    with pytest.raises(UsageError, match=f"port {web.port} .* in use.* or 0 for any"):
        second.__enter__()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"run: pip install aiohttp$"):
        WebServer("0")


@pytest.mark.parametrize(
    "args",
    [("--web", "x"), ("--web", "0.0.0.0:0"), ("--web-token", TOKEN), ("--web-picture",),
     ("--web", "0", "--web-token", "short")],
)  # fmt: skip
def test_a_mistake_is_one_clear_line(args: tuple[str, ...], root: Path) -> None:
    command = [sys.executable, "-m", "runtime.cli", "--demo", *args]
    out = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)
    assert (out.returncode, out.stdout, out.stderr.count("\n")) == (2, "", 1), out.stderr
    assert out.stderr.startswith("dmd-live: ")


def test_a_port_in_use_ends_the_command_with_one_line(web: WebServer, root: Path) -> None:
    command = [sys.executable, "-m", "runtime.cli", "--demo", "--web", str(web.port)]
    out = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)
    assert out.returncode == 2
    assert out.stderr.count("\n") == 1
    assert "in use" in out.stderr


def test_importing_the_package_does_not_load_aiohttp(root: Path) -> None:
    code = "import sys, runtime.cli, runtime.outputs.web.server; print('aiohttp' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert out.stdout == "False\n", out.stderr


def test_the_example_of_a_foreign_client_runs(root: Path, web: WebServer) -> None:
    """docs/web.md, with another WebSocket library."""
    pytest.importorskip("websockets")
    text = (root / "docs" / "web.md").read_text(encoding="utf-8")
    code = text.split("<!-- client -->\n```python\n")[1].split("```")[0]
    for event in conversation():
        web.emit(event)
    code = code.replace("127.0.0.1:8080", f"127.0.0.1:{web.port}")
    with subprocess.Popen(
        [sys.executable, "-u", "-c", code], stdout=subprocess.PIPE, text=True
    ) as client:
        assert client.stdout is not None
        lines = [client.stdout.readline() for _ in range(3)]
        client.kill()
    assert lines[-1].startswith("happiness")
