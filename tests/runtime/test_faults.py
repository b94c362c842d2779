"""Faults, one after the other, in the middle of a stream: what its events say, how long until all
is well again, what is lost. `build/faults.md` has the table of the last run.

Faults of real devices (unplugged, frozen, at another rate, hanging servers) are in
`test_devices.py`, a recogniser that crashes or hangs and a full disk in `test_live.py` and
`test_recording.py`.
"""

import json
import multiprocessing
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.engines import choose
from runtime.engines.base import Arrays
from runtime.engines.ort import OrtEngine
from runtime.live import EmotionStream
from runtime.schemas import EmotionEvent
from runtime.sources.base import AudioChunk, Packet, VideoFrame
from runtime.sources.file import FileSource
from tests.runtime.devices import Microphone, listening
from tests.runtime.script import PATIENT, Script, later, start_of

pytestmark = pytest.mark.usefixtures("remembering")

BEGIN_S, LENGTH_S = 6.4, 4.6  # of the demo clip's second sentence, with silence around it


@pytest.fixture(scope="module")
def packets(demo: Path) -> list[Packet]:
    """A sentence three times; the faults are in the middle."""
    with FileSource(demo) as source:
        once = [later(p, -BEGIN_S) for p in source.packets()]
    once = [p for p in once if 0.0 <= start_of(p) < LENGTH_S]
    return [later(p, n * LENGTH_S) for n in range(3) for p in once]


@pytest.fixture(scope="module")
def report(root: Path) -> Iterator[list[tuple[str, str, str, str]]]:
    rows: list[tuple[str, str, str, str]] = []
    yield rows
    if rows:
        lines = [
            "| Fault | What the events say | Well again after | Lost |",
            "| --- | --- | --- | --- |",
        ]
        lines += ["| " + " | ".join(row) + " |" for row in rows]
        (root / "build").mkdir(exist_ok=True)
        (root / "build" / "faults.md").write_text("\n".join(lines) + "\n")


def finals(
    packets: list[Packet], **options: object
) -> tuple[list[EmotionEvent], dict[str, object]]:
    with EmotionStream(source=Script(packets), stt_wait_ms=PATIENT, **options) as stream:
        return [event for event in stream if event.type == "final"], stream.stats


def in_fault(packet: Packet) -> bool:
    """The second time."""
    return LENGTH_S <= start_of(packet) < 2 * LENGTH_S


def well(event: EmotionEvent) -> bool:
    return set(event.modalities.values()) == {"present"} and event.quality == ()


def tell(report: list[tuple[str, str, str, str]], fault: str, events: list[EmotionEvent]) -> None:
    """Note what three sentences say of a fault in the second of them."""
    first, second, third = events
    assert well(first)
    assert well(third)
    absent = [f"{m}: {why}" for m, why in second.modalities.items() if why != "present"]
    notes = {*second.quality, *absent}
    report.append((fault, "; ".join(sorted(notes)) or "nothing", "the next sentence", "nothing"))


def test_a_camera_that_is_gone(packets: list[Packet], report: list) -> None:
    events, _ = finals([p for p in packets if isinstance(p, AudioChunk) or not in_fault(p)])
    assert events[1].modalities["vision"] == "no picture"
    tell(report, "camera gives no pictures for 4.6 s", events)


def test_a_camera_that_hangs(packets: list[Packet], report: list) -> None:
    still = next(p.rgb for p in packets if isinstance(p, VideoFrame))
    events, _ = finals(
        [replace(p, rgb=still) if isinstance(p, VideoFrame) and in_fault(p) else p for p in packets]
    )
    assert events[1].modalities["vision"] == "picture is frozen"
    tell(report, "camera repeats one picture for 4.6 s", events)


def test_a_camera_at_two_pictures_a_second(packets: list[Packet], report: list) -> None:
    kept = [
        p
        for k, p in enumerate(packets)
        if isinstance(p, AudioChunk) or not in_fault(p) or round(p.time_s * 15) % 8 == 0
    ]
    events, _ = finals(kept)
    assert "only 2 pictures a second" in events[1].quality
    tell(report, "camera at 2 pictures a second", events)


def test_pictures_of_changing_size(packets: list[Packet], report: list) -> None:
    rng = np.random.default_rng(0)

    def resized(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        scale = rng.uniform(0.4, 1.6)
        return np.asarray(cv2.resize(rgb, None, fx=scale, fy=scale))

    events, _ = finals(
        [
            replace(p, rgb=resized(p.rgb)) if isinstance(p, VideoFrame) and in_fault(p) else p
            for p in packets
        ]
    )
    assert all(event.modalities["vision"] == "present" for event in events)
    assert events[1].emotion == events[0].emotion
    tell(report, "every picture has another size", events)


def test_a_clock_that_is_set_back_and_one_that_jumps_a_day(
    packets: list[Packet], report: list
) -> None:
    for name, by_s in (("set back by an hour", -3_600.0), ("24 h later", 86_400.0)):
        moved = [later(p, by_s if start_of(p) >= LENGTH_S else 0.0) for p in packets]
        first, second, third = finals(moved)[0]
        assert first.text == second.text == third.text
        assert third.start_s == pytest.approx(first.start_s + 2 * LENGTH_S + by_s, abs=0.1)
        assert well(second)
        report.append((f"clock {name}", "nothing", "at once", "nothing"))


def test_an_engine_that_fails(
    packets: list[Packet], report: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(OrtEngine):
        armed = False

        def infer(self, inputs: Arrays) -> dict[str, np.ndarray]:
            if Failing.armed:
                Failing.armed = False
                raise RuntimeError("CUDA error: device lost")
            return super().infer(inputs)

    class Arming(Script):
        def packets(self) -> Iterator[Packet]:
            armed = False
            for packet in super().packets():
                if not armed and start_of(packet) >= LENGTH_S:
                    Failing.armed = armed = True
                yield packet

    before, _ = finals(packets)
    monkeypatch.setattr(choose, "OrtEngine", Failing)
    with EmotionStream(source=Arming(packets), stt_wait_ms=PATIENT) as stream:
        events = list(stream)
    assert [e.probabilities for e in events] == [e.probabilities for e in before]
    assert stream.stats["inference_errors"] == 1
    tell(report, "inference fails once", events)


def test_a_sink_without_memory(packets: list[Packet], report: list) -> None:
    class Full:
        n = 0

        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *exc: object) -> None:
            pass

        def emit(self, event: EmotionEvent) -> None:
            Full.n += 1
            if Full.n == 2:
                raise MemoryError("no room for an event")

    with EmotionStream(source=Script(packets), stt_wait_ms=PATIENT, sinks=[Full()]) as stream:
        events = list(stream)
    assert (Full.n, stream.stats["callback_errors"]) == (3, 1)
    tell(report, "a sink runs out of memory", events)


def _busy() -> None:
    while True:
        pass


def test_a_processor_that_others_take(packets: list[Packet], report: list) -> None:
    busy = [
        multiprocessing.get_context("spawn").Process(target=_busy, daemon=True) for _ in range(4)
    ]
    for process in busy:
        process.start()
    try:
        events, _ = finals(packets)
    finally:
        for process in busy:
            process.kill()
            process.join()
    tell(report, "four other processes take both processors", events)


def test_the_end_of_a_service_in_an_utterance(
    root: Path, talk: Path, microphone: Microphone, report: list
) -> None:
    with listening(root, microphone, "--record", str(talk.with_suffix(".jsonl"))) as listener:
        player = subprocess.Popen(["paplay", "--device=speech", str(talk)], env=microphone.env)
        time.sleep(4.0)  # in the first sentence
        begun = time.monotonic()
        listener.process.send_signal(signal.SIGTERM)
        listener.process.wait(10)
        took_s = time.monotonic() - begun
        player.kill()
        player.wait()
        listener.join()
    assert listener.process.returncode == 0, listener.errors
    assert "Traceback" not in listener.errors
    assert took_s < 5.0
    replay = subprocess.run(
        [sys.executable, "-m", "runtime.cli", "--replay", str(talk.with_suffix(".jsonl"))],
        cwd=root, capture_output=True, timeout=120,
    )  # fmt: skip
    assert replay.returncode == 0
    report.append(("SIGTERM in an utterance", "nothing", "ended with code 0", "the open utterance"))


def test_commands_reach_a_stream_that_runs(root: Path, talk: Path, microphone: Microphone) -> None:
    """Speech plays while the robot says that it speaks: nothing is heard; then it is."""
    with listening(root, microphone, "--stt-wait-ms", "8000") as listener:
        commands = listener.process.stdin
        assert commands is not None
        commands.write("mute\nsing\n")
        commands.flush()
        assert listener.wait(lambda: "no command 'sing'" in listener.errors, 5.0)
        microphone.hear(talk)
        time.sleep(1.0)
        assert listener.events == []
        commands.write("unmute\n")
        commands.flush()
        microphone.hear(talk)
        assert listener.wait(lambda: len(listener.finals) == 2, 15.0), listener.errors
        listener.stop()
    assert listener.process.returncode == 0, listener.errors
    assert json.loads(listener.lines[0])["utterance"] == 1
