"""Events and commands over Zenoh, between real sessions on the loopback interface."""

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from runtime import EmotionStream
from runtime.errors import UsageError
from runtime.outputs.chosen import OutputOptions, chosen
from runtime.outputs.zenoh_sink import ENDPOINT, ZenohSink

pytestmark = pytest.mark.usefixtures("remembering")

zenoh = pytest.importorskip("zenoh", reason="pip install eclipse-zenoh")


def config_of(mode: str, name: str, endpoint: str) -> dict[str, Any]:
    return {"mode": mode, name: {"endpoints": [endpoint]},
            "scouting": {"multicast": {"enabled": False}}}  # fmt: skip


@pytest.fixture
def endpoint() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"tcp/127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture
def listening(endpoint: str, tmp_path: Path) -> Path:
    """A configuration of our side."""
    path = tmp_path / "zenoh.json5"
    path.write_text(json.dumps(config_of("peer", "listen", endpoint)))
    return path


def other(endpoint: str) -> Any:
    """A session of somebody else's."""
    return zenoh.open(zenoh.Config.from_json5(json.dumps(config_of("client", "connect", endpoint))))


def soon(true: Callable[[], object]) -> None:
    until_s = time.monotonic() + 5.0
    while not true():
        assert time.monotonic() < until_s
        time.sleep(0.02)


def asked(session: Any, key: str) -> list[str]:
    return [reply.ok.payload.to_string() for reply in session.get(key, timeout=2.0)]


def test_another_session_gets_every_event_and_the_newest(
    demo: Path, endpoint: str, listening: Path
) -> None:
    got: list[str] = []
    sink = ZenohSink("robot/head", listening)
    with sink, other(endpoint) as session:
        session.declare_subscriber("robot/*/events", lambda s: got.append(s.payload.to_string()))
        assert asked(session, "robot/head/latest") == []  # no event yet
        # The sink is open for the whole test, so that nothing is published before they have met.
        with EmotionStream(file=demo, provisional=True) as stream:
            stream.on_event(sink.emit)
            events = list(stream)
        soon(lambda: len(got) == len(events))
        assert [json.loads(line) for line in got] == [event.to_dict() for event in events]
        assert asked(session, "robot/head/latest") == [events[-1].to_json()]


def test_early_estimates_are_left_out_unless_asked_for(clip: Path, listening: Path) -> None:
    with EmotionStream(file=clip, provisional=True) as stream:
        early, *_, final = list(stream)
    assert (early.type, final.type) == ("provisional", "final")
    for asked_for in (False, True):
        options = OutputOptions(zenoh="robot/head", zenoh_config=str(listening))
        sink = chosen(options, early=asked_for).zenoh
        assert sink is not None
        with sink:
            sink.emit(early)
            assert sink._latest == (early.to_json() if asked_for else None)
            sink.emit(final)
            assert sink._latest == final.to_json()


def test_commands(endpoint: str, listening: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Robot:
        obeyed: ClassVar[list[str]] = []

        def command(self, line: str) -> None:
            if line not in ("mute", "reset"):
                raise UsageError(f"no command {line[:20]!r}")
            self.obeyed.append(line)

    sink = ZenohSink("robot", listening)
    sink.attach(Robot())
    with sink, other(endpoint) as session:
        for payload in ("mute", b"\xff\xfe", "x" * 10_000_000, "shutdown", "reset"):
            # By default, Zenoh drops what comes while ten megabytes are on their way.
            session.put("robot/command", payload, congestion_control=zenoh.CongestionControl.BLOCK)
        soon(lambda: Robot.obeyed == ["mute", "reset"])
    (told,) = (record.getMessage() for record in caplog.records)
    assert told == "zenoh robot: a command is ignored (not ASCII); others are not told"


def test_a_program_that_hears_the_command_line(
    root: Path, clip: Path, endpoint: str, listening: Path
) -> None:
    """`dmd-live --zenoh` in a process of its own: its events, a command, its end."""
    command = [sys.executable, "-m", "runtime.cli", "--file", str(clip), "--realtime", "--json",
               "--zenoh", "robot/head", "--zenoh-config", str(listening)]  # fmt: skip
    running = subprocess.Popen(
        command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    got: list[str] = []

    def reachable() -> bool:
        host, port = endpoint.removeprefix("tcp/").split(":")
        with socket.socket() as probe:
            return probe.connect_ex((host, int(port))) == 0

    until_s = time.monotonic() + 30.0
    while not reachable():
        assert time.monotonic() < until_s
        time.sleep(0.05)
    with other(endpoint) as session:
        session.declare_subscriber("robot/head/events", lambda s: got.append(s.payload.to_string()))
        session.put("robot/head/command", "dance")
        out, err = running.communicate(timeout=60)
    assert running.returncode == 0
    assert "no command 'dance'" in err
    assert got == out.splitlines()
    assert len(got) == 2


def test_without_a_configuration_only_this_machine_is_reached() -> None:
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", 7447)) == 0:
            pytest.skip("something listens on Zenoh's port here")
    before = set(threading.enumerate())
    with ZenohSink("robot") as sink, other(ENDPOINT) as session:
        assert asked(session, "robot/latest") == []
        table = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
        listeners = [line.split()[1] for line in table.splitlines() if " 0A " in line]
        assert [where for where in listeners if where.endswith(f":{7447:04X}")] == ["0100007F:1D17"]
        with pytest.raises(UsageError, match="--zenoh-config FILE"), ZenohSink("robot"):
            pass
    soon(lambda: set(threading.enumerate()) <= before)
    assert sink._latest is None


@pytest.mark.parametrize("key", ["", "/robot", "robot//head", "robot/*", "robot/", "a#b", "a?b"])
def test_keys_that_there_are_not(key: str) -> None:
    with pytest.raises(UsageError, match="no key"), ZenohSink(key):
        pass


def test_mistakes_are_one_line(root: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.json5"
    broken.write_text("{mode: ")
    for args in (
        ("--zenoh", "a//b"),
        ("--zenoh-config", str(broken)),
        ("--zenoh", "a", "--zenoh-config", str(broken)),
        ("--zenoh", "a", "--zenoh-config", str(tmp_path / "none.json5")),
    ):
        command = [sys.executable, "-m", "runtime.cli", "--demo", *args]
        out = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)
        assert (out.returncode, out.stdout) == (2, ""), out.stderr
        assert len(out.stderr.splitlines()) == 1, out.stderr


def test_a_missing_package_is_one_line(root: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['zenoh'] = None; from runtime.cli import main; "
        "sys.exit(main(['--demo', '--zenoh', 'robot']))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60
    )
    assert (out.returncode, out.stdout) == (2, "")
    assert out.stderr == (
        "dmd-live: --zenoh needs the package eclipse-zenoh: pip install eclipse-zenoh\n"
    )
