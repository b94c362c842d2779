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
from tests.once import Once
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
def clip(once: Once, demo: Path) -> Path:
    """The demo clip with every third picture, 8 a second: most of the time goes into them."""

    def make(folder: Path) -> None:
        with av.open(str(demo)) as source, av.open(str(folder / "clip.mkv"), "w") as target:
            given = source.streams.video[0]
            video = target.add_stream("ffv1", rate=given.average_rate)  # loses nothing
            video.width, video.height, video.pix_fmt = given.width, given.height, given.pix_fmt
            audio = target.add_stream("pcm_s16le", rate=16_000, layout="mono")
            resampler = av.AudioResampler("s16", "mono", 16_000)
            pictures = [frame for k, frame in enumerate(source.decode(video=0)) if k % 3 == 0]
            source.seek(0)
            sound = [out for f in source.decode(audio=0) for out in resampler.resample(f)]
            for stream, frames in ((video, pictures), (audio, sound)):
                for frame in (*frames, None):
                    target.mux(stream.encode(frame))

    return once("clip", make) / "clip.mkv"


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
