"""`dmd-live --doctor`: each state of each check, on real parts, and what it says about them."""

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from export import bundle as writer
from runtime.cli import main
from runtime.doctor import listening, machine, report
from runtime.doctor.base import Check, Function, Use
from runtime.errors import SpeechError
from runtime.speech import open_recogniser
from runtime.store import models
from runtime.store.bundle import DEFAULT, Bundle
from runtime.system.libraries import remedy


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the shipped bundle."""
    return Path(shutil.copytree(DEFAULT, tmp_path / "bundle"))


def only(check: Function, use: Use | None = None) -> Check:
    """What a check says that says one thing."""
    (found,) = check(use or Use())
    return found


def by_name(check: Function, use: Use) -> dict[str, Check]:
    return {found.name: found for found in check(use)}


def hangs(use: Use) -> Iterator[Check]:
    time.sleep(60)
    yield Check(name="never", state="fine", detail="")


def crashes(use: Use) -> Iterator[Check]:
    os.abort()
    yield Check(name="never", state="fine", detail="")


def test_a_file_needs_neither_camera_nor_microphone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DMD_LIVE_CACHE", str(tmp_path / "cache"))
    assert main(["--doctor", "--demo", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    states = {check["name"]: check["state"] for check in told["checks"]}
    assert told["works"] is True
    assert states["camera"] == states["microphone"] == "not needed"
    for name in ("device", "onnxruntime", "voice activity", "face", "bundle", "engine", "cache"):
        assert states[name] == "fine", told
    assert set(states) >= {"GPU", "JetPack", "TensorRT", "speech-to-text", "certificate", "clock"}
    for check in told["checks"]:
        assert bool(check["remedy"]) == (check["state"] == "missing"), check


def test_a_broken_bundle_blocks(
    copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (copy / "model.int8.onnx").write_bytes(b"no model")
    monkeypatch.setattr(report, "_CHECKS", {"bundle": listening.bundle})
    assert main(["--doctor", "--demo", "--bundle", str(copy)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("missing     bundle")
    assert "model.int8.onnx is altered or damaged" in lines[0]
    assert lines[1].strip() == "-> copy it again, or leave --bundle out for the built-in one"
    assert lines[2] == "It would fail for want of: bundle."


def test_what_hangs_or_crashes_is_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = {"camera": hangs, "TensorRT": crashes, "cache": machine.cache}
    monkeypatch.setattr(report, "_CHECKS", checks)
    monkeypatch.setattr(report, "_LIMITS_S", {"camera": 1.0})
    assert not report.report(report.diagnose(Use()), as_json=True)
    found = json.loads(capsys.readouterr().out)["checks"]
    assert [(c["name"], c["state"], c["detail"]) for c in found[:2]] == [
        ("camera", "missing", "no answer within 1 s"),
        ("TensorRT", "missing", "crashed (SIGABRT)"),
    ]
    assert found[2]["name"] == "cache"


def test_certificate(copy: Path) -> None:
    assert only_certificate(copy).state == "missing"  # the shipped one's, taken out
    loaded = Bundle.load(copy)
    for changes, state, said in (
        ({}, "fine", "int8 changes ece of text by 0.12 points, 0.5 allowed"),
        ({"passed": False}, "missing", "FAILED: int8 changes"),
        ({"sha256": "0" * 64}, "missing", "not about this int8 model"),
    ):
        verdict = {
            "sha256": loaded.info["files"]["model.int8.onnx"], "passed": True, "metric": "ece",
            "subset": "text", "largest_change_points": 0.12, **changes,
        }  # fmt: skip
        content = json.dumps({"budget_points": 0.5, "models": {"int8": verdict}})
        (copy / "certificate.json").write_text(content)
        writer.update(copy, {"documents": ["certificate.json"]})
        found = by_name(listening.bundle, Use(bundle=str(copy)))["certificate"]
        assert found.state == state
        assert said in found.detail
        assert not found.blocks


def only_certificate(copy: Path) -> Check:
    writer.update(copy, {"documents": []})
    return by_name(listening.bundle, Use(bundle=str(copy)))["certificate"]


def test_an_engine_that_is_not_here_is_told_and_the_cpu_goes_on() -> None:
    found = by_name(listening.bundle, Use(engine="cuda"))["engine"]
    assert found.state == "missing"
    assert not found.blocks
    assert "the CPU is used" in found.detail
    assert found.remedy


def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DMD_LIVE_CACHE", "/proc/dmd-live")  # read-only for everybody
    found = only(machine.cache)
    assert (found.state, found.blocks) == ("missing", False)
    assert found.remedy.startswith("export DMD_LIVE_CACHE=")
    monkeypatch.setenv("DMD_LIVE_CACHE", str(tmp_path / "cache"))
    assert only(machine.cache).state == "fine"
    assert not list((tmp_path / "cache").iterdir())


def test_without_portaudio_or_without_a_microphone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert only(listening.microphone, Use(microphone=None)).state == "not needed"
    if (found := only(listening.microphone, Use(microphone="no such device"))).remedy:
        assert (found.state, found.blocks) == ("missing", True)
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    found = only(listening.microphone)
    assert (found.state, found.blocks) == ("missing", True)
    assert found.remedy == "sudo apt install libportaudio2"


def test_cuda_s_modules_are_those_of_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.gpu, "capability", lambda: "sm87")
    monkeypatch.setattr(machine.gpu, "driver_version", lambda: 12060)
    monkeypatch.setattr(machine, "_version_of", lambda name: "" if "cuda" in name else "10.3")
    assert only(machine.tensorrt).remedy == "pip install 'cuda-python>=12,<13'"


def test_camera(demo: Path) -> None:
    found = only(listening.camera, Use(camera=str(demo)))  # opened just as a device path is
    assert found.state == "fine"
    assert "448 x 448" in found.detail
    found = only(listening.camera, Use(camera=99))
    assert (found.state, found.blocks) == ("missing", True)
    assert "camera 99" in found.detail
    found = only(listening.camera, Use(camera="rtsp://admin:p@ss@robot/head"))
    assert found.state == "not needed"
    assert found.detail.startswith("rtsp://robot/head is not tried")
    assert only(listening.camera, Use(camera=None)).state == "not needed"


def test_speech_to_text_and_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DMD_LIVE_CACHE", str(tmp_path))
    used, other = listening.words(Use())
    assert (used.state, used.detail) == ("fine", "moonshine, moonshine-tiny-en")
    assert (other.state, other.detail.split(",")[0]) == ("not needed", "vosk")
    found = only(listening.words, Use(stt="vosk"))
    assert (found.state, found.blocks) == ("missing", True)
    assert found.remedy == "dmd-live --download vosk-small-en-us"
    assert only(listening.words, Use(stt="none")).state == "not needed"
    assert only(listening.face, Use(pictures=False)).state == "not needed"
    monkeypatch.setattr(models, "_find", lambda part: None)
    assert only(listening.words).blocks is False  # voice and face alone
    assert only(listening.voice).blocks
    assert "dmd-live --download silero-vad" in only(listening.voice).remedy


def test_jetpack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert only(machine.jetpack).state in ("not needed", "fine", "missing")
    release = tmp_path / "nv_tegra_release"
    release.write_text(
        "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, "
        "DATE: Wed Jan  8 01:49:37 UTC 2025\n"
    )
    monkeypatch.setattr(machine, "_TEGRA_RELEASE", release)
    bare = only(machine.jetpack)
    assert (bare.state, bare.blocks) == ("missing", False)
    assert "Jetson Linux 36.4.3" in bare.detail
    assert "apt install nvidia-jetpack" in bare.remedy
    command = tmp_path / "dpkg-query"
    command.write_text("#!/bin/sh\nprintf 6.2+b77\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert only(machine.jetpack).detail == "6.2+b77 on Jetson Linux 36.4.3"


@pytest.mark.parametrize(
    ("unsynchronised", "date_s", "state"),
    [(False, None, "fine"), (True, None, "missing"), (False, 86_400.0, "missing")],
)
def test_clock(
    unsynchronised: bool, date_s: float | None, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_unsynchronised", lambda: unsynchronised)
    if date_s is not None:
        monkeypatch.setattr(machine.time, "time", lambda: date_s)
    found: Any = only(machine.clock)
    assert (found.state, found.blocks) == (state, False)
    if date_s is not None:
        assert "1970-01-02" in found.detail


def test_the_kernel_is_asked_whether_the_clock_is_synchronised() -> None:
    assert machine._unsynchronised() in (True, False)


def test_a_provider_that_is_listed_must_run(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime as ort

    listed = ["CUDAExecutionProvider", "AzureExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: listed)
    found = only(machine.onnxruntime)
    assert found.state == "fine"
    assert found.detail.endswith("runs on CPU; lists CUDA too, which cannot run here")
    monkeypatch.setattr(machine, "_runs", lambda provider: False)
    found = only(machine.onnxruntime)
    assert (found.state, found.remedy) == ("missing", "pip install --force-reinstall onnxruntime")


@pytest.mark.parametrize(
    ("message", "command"),
    [
        (
            "libatomic.so.1: cannot open shared object file: No such file or directory",
            "sudo apt install libatomic1",
        ),
        (
            "libunheard.so.3: cannot open shared object file: No such file or directory",
            "pip install vosk",
        ),
        ("No module named 'vosk'", "pip install vosk"),
    ],
)
def test_a_missing_library_is_named_with_its_package(message: str, command: str) -> None:
    assert remedy(OSError(message), "pip install vosk") == command


def test_a_recogniser_that_cannot_be_loaded_gives_way(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """A folder that is no Vosk model: auto takes Moonshine, with one warning; vosk does not."""
    found = open_recogniser("auto", tmp_path)
    assert found is not None
    assert found.name == "moonshine"
    found.close()
    (line,) = caplog.messages
    assert line.endswith("; moonshine takes its place")
    with pytest.raises(SpeechError):
        open_recogniser("vosk", tmp_path)
