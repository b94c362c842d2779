"""`dmd-live` as a user runs it: a process, its exit code, its lines."""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from runtime.schemas import SCHEMA
from tests.sound import write_wav

KEYS = json.loads(SCHEMA.read_text(encoding="utf-8"))["required"]


def dmd_live(root: Path, *args: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "runtime.cli", *args],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        stdin=subprocess.DEVNULL,
    )


def events(out: subprocess.CompletedProcess[str]) -> list[dict]:
    assert out.returncode == 0, out.stderr
    return [json.loads(line) for line in out.stdout.splitlines()]


@pytest.fixture(scope="module")
def heard(root: Path, demo: Path) -> list[dict]:
    """The events of the demo clip."""
    return events(dmd_live(root, "--file", str(demo), "--json"))


def without_latency(found: list[dict]) -> list[dict]:
    return [{name: event[name] for name in event if name != "latency_ms"} for event in found]


def test_demo_clip_has_two_spoken_sentences(heard: list[dict], root: Path) -> None:
    sources = json.loads((root / "runtime" / "demo" / "demo.json").read_text())["speech"]
    assert len(heard) == len(sources) == 2
    for event, source in zip(heard, sources, strict=True):
        assert list(event) == KEYS
        assert event["type"] == "final"
        assert event["start_s"] == pytest.approx(source["start_s"], abs=0.6)
        said, expected = (
            set(re.findall(r"[a-z']+", text.lower()))
            for text in (event["text"], source["transcript"])
        )
        assert len(said & expected) >= 0.7 * len(expected)
        assert set(event["modalities"].values()) == {"present"}
        assert sum(event["probabilities"].values()) == pytest.approx(1.0, abs=0.01)
        assert sum(event["modality_weight"].values()) == pytest.approx(1.0, abs=0.01)
        assert event["emotion"] == max(event["probabilities"], key=event["probabilities"].get)
        assert -3.0 <= event["sentiment"] <= 3.0
        times = [t for word in event["words"] for t in (word["start_s"], word["end_s"])]
        assert times == sorted(times)
        assert event["start_s"] - 0.01 <= times[0]
        assert times[-1] <= event["end_s"] + 0.01


def test_same_clip_same_events_fast_and_in_real_time(
    heard: list[dict], root: Path, demo: Path
) -> None:
    again = events(dmd_live(root, "--file", str(demo), "--json", "--realtime"))
    assert without_latency(again) == without_latency(heard)


def test_demo_prints_a_readable_line_per_utterance(root: Path) -> None:
    out = dmd_live(root, "--demo")
    assert out.returncode == 0
    assert out.stderr == ""
    assert len(out.stdout.splitlines()) == 2
    assert "[text+audio+vision]" in out.stdout


def test_sound_without_pictures_and_without_words(root: Path, demo: Path, tmp_path: Path) -> None:
    import av

    resampler, pieces = av.AudioResampler("s16", "mono", 16_000), []
    with av.open(str(demo)) as container:
        for frame in container.decode(audio=0):
            pieces += [r.to_ndarray()[0] for r in resampler.resample(frame)]
    speech = write_wav(tmp_path / "speech.wav", np.concatenate(pieces) / 32_768)
    found = events(dmd_live(root, "--file", str(speech), "--json", "--stt", "none"))
    assert len(found) == 2
    for event in found:
        assert event["modalities"] == {
            "text": "speech-to-text off",
            "audio": "present",
            "vision": "no pictures in the file",
        }
        assert event["text"] == ""
        assert event["modality_sentiment"]["vision"] is None
        assert event["modality_weight"]["audio"] == 1.0


def test_silence_is_not_an_error(root: Path, tmp_path: Path) -> None:
    path = write_wav(tmp_path / "silence.wav", np.zeros(48_000))
    out = dmd_live(root, "--file", str(path), "--json")
    assert (out.returncode, out.stdout) == (0, "")
    assert out.stderr == "dmd-live: nobody spoke\n"


@pytest.mark.parametrize(
    "args",
    [
        ("--file", "no/such/file.mp4"),
        ("--file", "pyproject.toml"),
        ("--file", "."),
        ("--demo", "--bundle", "no/such/bundle"),
        ("--demo", "--camera", "0"),
        ("--camera", "0", "--microphone", "none"),
        ("--microphone", "no such device"),
        ("--demo", "--stt", "vosk", "--stt-model", "tests"),
        ("--download", "no-such-part"),
        (),
    ],
)
def test_a_mistake_is_one_clear_line(args: tuple[str, ...], root: Path) -> None:
    out = dmd_live(root, *args)
    assert out.returncode == 2
    assert out.stdout == ""
    assert out.stderr.startswith("dmd-live: ")
    assert out.stderr.count("\n") == 1


def test_camera_99_is_one_clear_line(root: Path) -> None:
    out = dmd_live(root, "--camera", "99")
    assert out.returncode == 2
    assert out.stderr.startswith("dmd-live: ")
    assert out.stderr.count("\n") == 1


def test_changed_bundle_is_one_clear_line(root: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(root / "runtime" / "default_bundle", tmp_path / "bundle"))
    content = bytearray((copy / "model.int8.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "model.int8.onnx").write_bytes(content)
    out = dmd_live(root, "--demo", "--bundle", str(copy))
    assert (out.returncode, out.stdout) == (2, "")
    assert "altered" in out.stderr


def test_list_models_and_version(root: Path) -> None:
    out = dmd_live(root, "--list-models")
    assert out.returncode == 0
    for name in ("face-landmarker", "moonshine-tiny-en", "silero-vad", "vosk-small-en-us"):
        assert name in out.stdout
    assert dmd_live(root, "--version").stdout.startswith("dmd-live ")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_one_clear_line(root: Path) -> None:
    with open("/dev/full", "w") as full:
        out = subprocess.run(
            [sys.executable, "-m", "runtime.cli", "--demo", "--json"],
            cwd=root,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert out.returncode == 2
    assert out.stderr.startswith("dmd-live: the output cannot be written (No space left")
    assert out.stderr.count("\n") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="pipes are made small on Linux only")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_end_does_not_wait_for_a_reader_that_does_not_read(root: Path, number: int) -> None:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4_096)
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from runtime.cli import main\n"
        "sys.exit(main(['--demo', '--json', '--provisional', '--hop-ms', '100']))\n"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=root, stdout=writing, stderr=subprocess.PIPE) as process:
        os.close(writing)
        assert os.read(reading, 1) == b"{"
        time.sleep(3.0)  # the pipe is full by now
        assert process.poll() is None
        process.send_signal(number)
        begun = time.monotonic()
        _, errors = process.communicate(timeout=20)
        assert time.monotonic() - begun < 5.0
    os.close(reading)
    assert process.returncode == 0, errors
    assert b"Traceback" not in errors


def test_a_closed_pipe_is_no_traceback(root: Path) -> None:
    out = subprocess.run(
        f"{sys.executable} -m runtime.cli --demo --json | head -c 10",
        shell=True, cwd=root, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert out.stderr == ""
