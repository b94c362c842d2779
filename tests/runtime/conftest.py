"""Fixtures of devices that can be made to fail (see `devices.py`), and of the web server."""

import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import av
import cv2
import pytest

from runtime.live import EmotionStream
from runtime.schemas import EmotionEvent
from runtime.sources.base import Packet
from runtime.sources.file import FileSource
from tests.runtime.devices import Camera, Microphone, wav

if TYPE_CHECKING:
    from runtime.outputs.web.server import WebServer
    from tests.runtime.web import Stream


@pytest.fixture
def microphone(tmp_path: Path) -> Iterator[Microphone]:
    if any(shutil.which(name) is None for name in ("pulseaudio", "pactl", "paplay")):
        pytest.skip("PulseAudio is not installed (apt install pulseaudio libasound2-plugins)")
    folder = tmp_path / "sound"
    folder.mkdir()
    found = Microphone(folder)
    try:
        if not found.plug():
            pytest.skip("PulseAudio does not start here")
        code = "import sounddevice as s; s.query_devices(None, 'input')"
        if subprocess.run(
            [sys.executable, "-c", code], env=found.env, capture_output=True
        ).returncode:
            pytest.skip("PortAudio does not see PulseAudio here (apt install libasound2-plugins)")
        yield found
    finally:
        found.unplug()


@pytest.fixture
def camera(demo: Path) -> Iterator[Camera]:
    """The demo clip's pictures, again and again."""
    with av.open(str(demo)) as container:
        pictures = [
            cv2.imencode(".jpg", frame.to_ndarray(format="bgr24"))[1].tobytes()
            for frame in container.decode(video=0)
        ]
    found = Camera(pictures)
    yield found
    if found.fault != "unplugged":
        found.unplug()


@pytest.fixture
def talk(demo: Path, tmp_path: Path) -> Path:
    """The demo clip's sound, two sentences."""
    return wav(demo, tmp_path / "talk.wav")


@pytest.fixture
def stream() -> "Stream":
    """What the web server watches."""
    from tests.runtime.web import Stream

    return Stream()


@pytest.fixture
def web(stream: "Stream") -> Iterator["WebServer"]:
    from tests.runtime.web import serving

    with serving(stream) as server:
        yield server


@pytest.fixture
def quiet_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever strangers send: no traceback, not one line."""
    with caplog.at_level(logging.WARNING):
        yield
    assert not caplog.records


@pytest.fixture(scope="session")
def packets(clip: Path) -> list[Packet]:
    """The clip: two spoken sentences, from 0.8 to 6.0 s and 7.2 to 10.5 s, and a face."""
    with FileSource(clip) as source:
        return list(source.packets())


@pytest.fixture(scope="session")
def offline(clip: Path) -> list[EmotionEvent]:
    """What is said of the clip as a file."""
    with EmotionStream(file=clip) as stream:
        return list(stream)
