"""Outputs beside the stream: real files, sockets and programs, which fail and come back."""

import io
import json
import logging
import math
import os
import shlex
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from runtime.errors import UsageError
from runtime.live import EmotionStream
from runtime.outputs import console
from runtime.outputs.backlog import Backlog
from runtime.outputs.chosen import OutputOptions, chosen
from runtime.outputs.outlet import Outlet, finish_together
from runtime.outputs.program import Program
from runtime.outputs.rotating import RotatingFile
from runtime.outputs.udp import Datagrams, packed
from tests.runtime.made_events import made, until

pytestmark = pytest.mark.usefixtures("remembering")


def utterances(path: Path) -> list[int]:
    if not path.exists():
        return []
    return [json.loads(line)["utterance"] for line in path.read_text().splitlines()]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def python(code: str) -> str:
    return shlex.join([sys.executable, "-u", "-c", code])


def kept_in(path: Path, *, lines: int = 10**6) -> str:
    """A program that appends `lines` lines to a file and ends."""
    return python(
        f"import sys\nfor i in range({lines}):\n    line = sys.stdin.readline()\n"
        f"    if not line: break\n    open({str(path)!r}, 'a').write(line)"
    )


def test_a_full_backlog_loses_early_estimates_first() -> None:
    backlog = Backlog(3)
    for event in (made(1), made(2, "provisional"), made(2), made(3, "provisional"), made(3)):
        backlog.put(event)
    assert backlog.n_lost == {"provisional": 2, "final": 0}
    backlog.put(made(4))
    assert backlog.n_lost == {"provisional": 2, "final": 1}
    left = [backlog.take(0.0) for _ in range(4)]
    assert [event and event.utterance for event in left] == [2, 3, 4, None]
    backlog.put_back(made(4))
    assert not backlog.finished
    backlog.finish(5.0)
    assert not backlog.finished
    backlog.put(made(5))
    assert backlog.n_lost["final"] == 2
    assert backlog.take(5.0) is not None
    assert backlog.finished


def test_a_file_is_renamed_before_it_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    size = len(made(1).to_json()) + 1
    with Outlet(RotatingFile(path, max_bytes=3 * size + 60, n_older=2)) as outlet:
        for number in range(12):
            outlet.emit(made(number))
    files = [path.with_name("events.jsonl.2"), path.with_name("events.jsonl.1"), path]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert [utterances(file) for file in files] == [[3, 4, 5], [6, 7, 8], [9, 10, 11]]
    with Outlet(RotatingFile(path, max_bytes=0, n_older=2)) as outlet:
        outlet.emit(made(12))
    assert utterances(path) == [9, 10, 11, 12]
    with Outlet(RotatingFile(path, max_bytes=1, n_older=0)) as outlet:
        outlet.emit(made(13))
    assert utterances(path) == [13]


def test_a_cut_off_line_stays_apart(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"utterance": 0')  # as a power cut leaves it
    with Outlet(RotatingFile(path, max_bytes=0, n_older=2)) as outlet:
        outlet.emit(made(1))
    first, second = path.read_text().splitlines()
    assert (first, json.loads(second)["utterance"]) == ('{"utterance": 0', 1)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_costs_early_estimates_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, room = tmp_path / "events.jsonl", tmp_path / "room.jsonl"
    path.symlink_to("/dev/full")
    outlet = Outlet(RotatingFile(path, max_bytes=0, n_older=2))
    with outlet:
        for number in range(1, 4):
            outlet.emit(made(number, "provisional"))
            outlet.emit(made(number))
        until(lambda: outlet.stats["failures"] == 2)
        assert outlet.stats["error"] == "No space left on device"
        (tmp_path / "new").symlink_to(room)
        os.replace(tmp_path / "new", path)
        until(lambda: outlet.stats["sent"] == 3)
        assert outlet.stats["error"] == ""
    assert utterances(room) == [1, 2, 3]
    assert outlet.stats["lost"] == {"provisional": 3, "final": 0}
    assert warnings(caplog) == [
        f"out {path}: No space left on device; it is tried again",
        f"out {path} works again",
        f"out {path}: lost 3 early estimates",
    ]


def test_a_line_that_half_fits_is_taken_back(tmp_path: Path) -> None:
    """The limit on a file's size stands for a disk: both stop in the middle of a line."""
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from runtime.outputs.outlet import Outlet\n"
        "from runtime.outputs.rotating import RotatingFile\n"
        "from tests.runtime.made_events import made, until\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "path = Path(sys.argv[1])\n"
        "with Outlet(RotatingFile(path, max_bytes=0, n_older=0)) as outlet:\n"
        "    outlet.emit(made(1))\n"
        "    until(lambda: outlet.stats['sent'] == 1)\n"
        "    most = path.stat().st_size + 100\n"
        "    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))\n"
        "    outlet.emit(made(2)); outlet.emit(made(3))\n"
        "    until(lambda: outlet.stats['failures'] == 1)\n"
        "    print(path.read_text().count(chr(10)), path.read_text()[-1] == chr(10))\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))\n"
        "    until(lambda: outlet.stats['sent'] == 3)\n"
    )
    path = tmp_path / "events.jsonl"
    out = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert out.stdout == "1 True\n"
    assert utterances(path) == [1, 2, 3]


def test_each_event_is_one_datagram() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here:
        here.bind(("127.0.0.1", 0))
        here.settimeout(10.0)
        with Outlet(Datagrams(f"127.0.0.1:{here.getsockname()[1]}"), early=False) as outlet:
            outlet.emit(made(1, "provisional"))
            outlet.emit(made(1))
            outlet.emit(made(2, text="word " * 200))
            assert json.loads(here.recv(65_536)) == made(1).to_dict()
            long = here.recv(65_536)
    assert len(long) <= 1_200
    found = json.loads(long)
    assert found["left_out"][0] == "words"
    assert found["probabilities"] == made(2).to_dict()["probabilities"]


@pytest.mark.parametrize("text", ["word " * 30, "word " * 300, 'ü"\\' * 2_000, "語" * 5_000])
def test_a_datagram_is_never_too_long(text: str) -> None:
    for n_most in (600, 1_200):
        content = packed(made(1, text=text), n_most)
        assert len(content) <= n_most
        found = json.loads(content)
        assert found["emotion"] == "anger"
        assert found["text"] == text or (
            found["text"].endswith("...") and text.startswith(found["text"][:-3])
        )


def test_an_address_that_is_none_and_a_host_that_is_none(caplog: pytest.LogCaptureFixture) -> None:
    for address in ("localhost", ":9", "localhost:0", "localhost:x", "localhost:70000"):
        with pytest.raises(UsageError, match="not HOST:PORT"):
            Datagrams(address)
    with Outlet(Datagrams("no-such-host.invalid:9")) as outlet:
        outlet.emit(made(1))
        until(lambda: outlet.stats["failures"])
    assert outlet.stats["lost"]["final"] == 1
    assert len(warnings(caplog)) == 2


def test_a_program_that_ends_is_started_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "got.jsonl"
    with Outlet(Program(kept_in(path, lines=2))) as outlet:
        for number in range(1, 7):
            outlet.emit(made(number))
            until(lambda number=number: number in utterances(path))
            if number % 2 == 0:  # it ends now; what comes before that is seen is lost in its pipe
                until(lambda number=number: outlet.stats["failures"] >= number // 2)
    assert utterances(path) == [1, 2, 3, 4, 5, 6]
    assert outlet.stats["failures"] >= 2
    assert outlet.stats["lost"] == {"provisional": 0, "final": 0}
    told = [line for line in warnings(caplog) if "it is tried again" in line]
    assert told == [f"exec {sys.executable}: the program ended (exit code 0); it is tried again"]


def test_a_program_has_time_to_finish_and_then_has_not(tmp_path: Path) -> None:
    """The first reads late, but to the end; the second never reads and does not want to end."""
    path = tmp_path / "got.jsonl"
    late = Outlet(
        Program(
            python(
                "import sys, time; time.sleep(1.5)\n"
                f"open({str(path)!r}, 'w').write(sys.stdin.read())"
            )
        )
    )
    with late:
        late.emit(made(1))
        finish_together([late], 20.0)
    assert utterances(path) == [1]
    deaf = Outlet(
        Program(
            python("import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"),
        ),
        n_kept=100,
    )
    with deaf:
        until(lambda: deaf._carrier._process)
        process = deaf._carrier._process
        time.sleep(1.0)  # it ignores SIGTERM by now
        begun = time.monotonic()
        for number in range(1_000):
            deaf.emit(made(number))
        assert time.monotonic() - begun < 1.0
        begun = time.monotonic()
    assert time.monotonic() - begun < 2.0
    until(lambda: process.poll() is not None, 2.0)
    lost = deaf.stats["lost"]["final"]
    assert lost + deaf.stats["sent"] == 1_000
    assert lost >= 800  # a pipe holds 64 KiB


def test_outputs_do_not_disturb_each_other(
    demo: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, got = tmp_path / "events.jsonl", tmp_path / "got.jsonl"
    outlets = [
        Outlet(Program("sleep 60"), early=False),
        Outlet(Program("false"), early=False),
        Outlet(RotatingFile(path, max_bytes=0, n_older=0), early=False),
        Outlet(Program(kept_in(got)), early=True),
    ]
    with EmotionStream(file=demo, provisional=True, sinks=outlets) as stream:
        events = list(stream)
        finish_together(outlets[2:], 20.0)
        begun = time.monotonic()
    assert time.monotonic() - begun < 2.5
    finals = [event.utterance for event in events if event.type == "final"]
    assert utterances(path) == finals == [1, 2]
    assert len(utterances(got)) == len(events)
    names = [found["name"] for found in stream.stats["outputs"]]
    assert names == ["exec sleep", "exec false", f"out {path}", f"exec {sys.executable}"]
    assert stream.stats["callback_errors"] == 0
    assert sum("exec false: the program ended" in line for line in warnings(caplog)) == 1
    assert not [t for t in threading.enumerate() if t.name.startswith("dmd-live")]


def test_the_command_line_feeds_several_outputs(root: Path, clip: Path, tmp_path: Path) -> None:
    path, got = tmp_path / "events.jsonl", tmp_path / "got.jsonl"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here:
        here.bind(("127.0.0.1", 0))
        here.settimeout(10.0)
        out = subprocess.run(
            [sys.executable, "-m", "runtime.cli", "--file", str(clip), "--json",
             "--out", str(path), "--udp", f"127.0.0.1:{here.getsockname()[1]}",
             "--exec", kept_in(got), "--exec", "cat"],
            cwd=root, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        sent = [json.loads(here.recv(65_536)) for _ in range(2)]
    assert out.returncode == 0, out.stderr
    assert out.stdout == out.stderr == path.read_text() == got.read_text()
    assert [event["utterance"] for event in sent] == [1, 2]
    assert all(len(line) > 500 for line in out.stdout.splitlines())


@pytest.mark.parametrize("mb", [math.inf, -math.inf, math.nan, 1e305])
def test_a_size_that_is_none_is_told(mb: float, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a number of megabytes"):
        chosen(OutputOptions(out=str(tmp_path / "x.jsonl"), out_mb=mb), early=False)


def test_a_command_that_is_no_text_does_not_end_the_reading(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = io.BytesIO(b"sing \xff\n\nmute\r\nunmute")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(given, encoding="utf-8"))
    stream = EmotionStream(microphone="default")
    obeyed: list[str] = []
    monkeypatch.setattr(stream, "mute", lambda: obeyed.append("mute"))
    monkeypatch.setattr(stream, "unmute", lambda: obeyed.append("unmute"))
    console._obey(stream)
    assert obeyed == ["mute", "unmute"]
    assert capsys.readouterr().err.startswith("dmd-live: no command 'sing \ufffd'")


@pytest.mark.parametrize(
    ("args", "what"),
    [
        (("--out", "no/such/folder/x.jsonl"), "cannot be written"),
        (("--out", "."), "cannot be written"),
        (("--out", "build/x.jsonl", "--out-keep", "-1"), "0 at least"),
        (("--udp", "nowhere"), "not HOST:PORT"),
        (("--exec", "no-such-program-here"), "no such program"),
        (("--exec", "cat 'unclosed"), "No closing quotation"),
        (("--exec", ""), "no such program"),
    ],
)
def test_a_mistake_is_one_clear_line(args: tuple[str, ...], what: str, root: Path) -> None:
    out = subprocess.run(
        [sys.executable, "-m", "runtime.cli", "--demo", *args],
        cwd=root, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert (out.returncode, out.stdout) == (2, "")
    assert out.stderr.startswith("dmd-live: ")
    assert out.stderr.count("\n") == 1
    assert what in out.stderr
