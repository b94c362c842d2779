"""Sources on real media made here: time stamps, order, gaps, damage; cameras and microphones."""

import http.server
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import av
import cv2
import numpy as np
import pytest

from runtime.errors import SourceError
from runtime.features.spec import SPEC
from runtime.sources import microphone as microphone_module
from runtime.sources.base import AudioChunk, FrameSampler, Packet, VideoFrame
from runtime.sources.camera import CameraSource, without_password
from runtime.sources.file import FileSource
from runtime.sources.merged import MergedSource
from runtime.sources.microphone import Block, MicrophoneSource, SoundClock
from tests.sound import write_wav

RATE = 44_100
CODECS = {
    "mp4": ("mpeg4", "aac"), "mkv": ("mpeg4", "flac"), "avi": ("mpeg4", "mp2"),
    "wav": (None, "pcm_s16le"), "flac": (None, "flac"), "ogg": (None, "libopus"),
}  # fmt: skip


def tone(seconds: float, rate: int = RATE) -> np.ndarray:
    """A 440 Hz tone whose first tenth of a second is silent and that is loud at its middle."""
    t = np.arange(int(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * 440 * t) * (t >= 0.1)).astype(np.float32)


def make(
    path: Path,
    seconds: float = 2.0,
    fps: int = 30,
    *,
    sound: bool = True,
    pictures: bool = True,
    gap_s: float = 0.0,
) -> Path:
    """A media file; `gap_s` is left out of the sound after its first second."""
    video_codec, audio_codec = CODECS[path.suffix[1:]]
    rate = 48_000 if audio_codec == "libopus" else RATE
    options = {"movflags": "+faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=options) as container:
        streams = []
        if pictures and video_codec:
            video = container.add_stream(video_codec, rate=fps)
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
            streams.append(video)
        if sound:
            audio = container.add_stream(audio_codec, rate=rate, layout="mono")
            streams.append(audio)
        if pictures and video_codec:
            for k in range(int(seconds * fps)):
                shade = np.full((48, 64, 3), 8 * (k % 30), np.uint8)
                container.mux(video.encode(av.VideoFrame.from_ndarray(shade, format="rgb24")))
        if sound:
            samples = tone(seconds, rate)
            for at in range(0, len(samples), 1_024):
                piece = (samples[at : at + 1_024] * 32_767).astype(np.int16)
                frame = av.AudioFrame.from_ndarray(piece[None], format="s16", layout="mono")
                frame.sample_rate = rate
                frame.pts = at + (round(gap_s * rate) if at >= rate else 0)
                container.mux(audio.encode(frame))
        for stream in streams:
            container.mux(stream.encode(None))
    return path


def read(path: Path, **options: bool) -> tuple[list[AudioChunk], list[VideoFrame], list[Packet]]:
    with FileSource(path, **options) as source:
        packets = list(source.packets())
    sound = [p for p in packets if isinstance(p, AudioChunk)]
    return sound, [p for p in packets if isinstance(p, VideoFrame)], packets


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_video_file(tmp_path: Path, suffix: str) -> None:
    sound, pictures, packets = read(make(tmp_path / f"clip.{suffix}"))
    samples = np.concatenate([c.samples for c in sound])
    assert len(samples) == pytest.approx(2 * SPEC.sample_rate_hz, abs=3_000)
    assert samples.dtype == np.float32
    assert np.flatnonzero(np.abs(samples) > 0.2)[0] == pytest.approx(1_600, abs=1_100)
    assert len(pictures) == pytest.approx(2 * SPEC.vision_rate_hz, abs=1)
    assert np.diff([p.time_s for p in pictures]) == pytest.approx(1 / SPEC.vision_rate_hz, abs=0.01)
    heard_s = -1.0
    for packet in packets:  # no picture comes after sound that ends later
        if isinstance(packet, AudioChunk):
            heard_s = packet.start_s + len(packet.samples) / SPEC.sample_rate_hz
        else:
            assert packet.time_s >= heard_s - 1e-6


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_sound_file_keeps_its_clock(tmp_path: Path, suffix: str) -> None:
    sound, pictures, _ = read(make(tmp_path / f"clip.{suffix}"))
    assert not pictures
    expected = sound[0].start_s
    for chunk in sound:
        assert chunk.start_s == pytest.approx(expected, abs=1e-6)
        expected += len(chunk.samples) / SPEC.sample_rate_hz


def test_sound_of_many_channels(tmp_path: Path) -> None:
    """PyAV reads past the planes of such frames, and the process ends."""
    samples = np.zeros((16_000, 16))
    samples[:, 12] = 0.25 * np.sin(np.arange(16_000) / 20.0)
    path = write_wav(tmp_path / "array.wav", samples)
    with FileSource(path, channel="12") as source:
        heard = [p.samples for p in source.packets() if isinstance(p, AudioChunk)]
    np.testing.assert_allclose(np.concatenate(heard), samples[:, 12], atol=1e-4)


def test_pictures_without_sound(tmp_path: Path) -> None:
    with FileSource(make(tmp_path / "clip.mp4", sound=False)) as source:
        assert source.modalities == {"vision"}


def test_a_gap_in_the_sound_becomes_silence(tmp_path: Path) -> None:
    sound, _, _ = read(make(tmp_path / "clip.mkv", gap_s=0.7, pictures=False))
    samples = np.concatenate([c.samples for c in sound])
    assert len(samples) == pytest.approx(2.7 * SPEC.sample_rate_hz, abs=2_000)
    assert np.all(np.abs(samples[18_000:26_000]) < 0.01)
    assert np.abs(samples[30_000:]).max() > 0.3


def test_same_packets_again_and_in_real_time(tmp_path: Path) -> None:
    path = make(tmp_path / "clip.mp4", seconds=1.0)
    started = time.monotonic()
    slow = read(path, realtime=True)[2]
    assert time.monotonic() - started > 0.8
    fast = read(path)[2]
    assert len(slow) == len(fast)
    for a, b in zip(slow, fast, strict=True):
        assert type(a) is type(b)
        if isinstance(a, AudioChunk) and isinstance(b, AudioChunk):
            assert a.start_s == b.start_s
            np.testing.assert_array_equal(a.samples, b.samples)
        elif isinstance(a, VideoFrame) and isinstance(b, VideoFrame):
            assert a.time_s == b.time_s
            np.testing.assert_array_equal(a.rgb, b.rgb)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "wav", "flac"])
def test_a_file_that_lost_its_end_is_refused(tmp_path: Path, suffix: str, share: float) -> None:
    path = make(tmp_path / f"clip.{suffix}", seconds=6.0)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(SourceError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"just text\n" * 50, "not a media file"),
        (None, "no such file"),
        (
            b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x80>\0\0\0}\0\0\x02\0\x10\0data\0\0\0\0",
            "empty",
        ),
    ],
)
def test_what_is_no_media_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "clip.wav"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SourceError, match=message):
        read(path)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="folder"):
        read(tmp_path)


def test_sampler_keeps_the_rate() -> None:
    sampler = FrameSampler()
    kept = [k / 60 for k in range(600) if sampler.wants(k / 60)]
    assert len(kept) == 150


@pytest.fixture
def network_camera() -> Iterator[str]:
    """The address of an MJPEG camera on loopback that delivers 20 frames a second, for 10 s."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            for k in range(200):
                _, jpeg = cv2.imencode(".jpg", np.full((48, 64, 3), (0, 0, k % 250), np.uint8))
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                try:
                    self.wfile.write(head.encode() + jpeg.tobytes() + b"\r\n")
                except OSError:
                    return
                time.sleep(0.05)

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/camera.mjpg"
    server.shutdown()
    server.server_close()
    thread.join()


def test_network_camera(network_camera: str) -> None:
    with MergedSource(CameraSource(network_camera)) as source:
        packets = source.packets()
        started = time.monotonic()
        frames = list(islice(filter(None, packets), 6))
    assert all(isinstance(f, VideoFrame) for f in frames)
    times = [f.time_s for f in frames if isinstance(f, VideoFrame)]
    assert times == sorted(times)
    assert times[-1] >= started - 2.0
    assert frames[0].rgb.shape == (48, 64, 3)  # type: ignore[union-attr]
    assert not [t for t in threading.enumerate() if t.name.startswith("dmd-live")]


class Script:
    """A source that plays packets, then fails if told to."""

    def __init__(self, *packets: Packet, error: Exception | None = None) -> None:
        self.modalities = frozenset({"audio", "vision"})
        self.script, self.error, self.open = packets, error, False

    def __enter__(self) -> "Script":
        self.open = True
        return self

    def __exit__(self, *exc: object) -> None:
        self.open = False

    def packets(self) -> Iterator[Packet]:
        yield from self.script
        if self.error:
            raise self.error


def chunk(start_s: float) -> AudioChunk:
    return AudioChunk(start_s=start_s, samples=np.zeros(16_000, np.float32))


def picture(time_s: float) -> VideoFrame:
    return VideoFrame(time_s=time_s, rgb=np.zeros((2, 2, 3), np.uint8))


def test_merged_keeps_sound_in_order_and_the_newest_picture() -> None:
    source = MergedSource(
        Script(*(chunk(float(k)) for k in range(60))), Script(*(picture(k / 10) for k in range(50)))
    )
    with source:
        time.sleep(0.2)  # nobody listens: the buffer is full by now
        packets = list(filter(None, source.packets()))
    sound = [p.start_s for p in packets if isinstance(p, AudioChunk)]
    pictures = [p.time_s for p in packets if isinstance(p, VideoFrame)]
    assert sound == [float(k) for k in range(60 - len(sound), 60)]
    assert 29 <= len(sound) <= 31
    assert pictures == [4.9]
    assert source.n_dropped == {"audio": 60 - len(sound), "vision": 49}


def test_merged_tells_what_a_source_raised_after_what_it_gave() -> None:
    source = MergedSource(Script(chunk(0.0), error=SourceError("unplugged")), reopen=False)
    with source:
        packets = filter(None, source.packets())
        assert isinstance(next(packets), AudioChunk)
        with pytest.raises(SourceError, match="unplugged"):
            next(packets)


class Flaky(Script):
    """Breaks, cannot be opened the second time, and plays on when opened a third time."""

    n_opened = 0

    def __enter__(self) -> "Flaky":
        self.n_opened += 1
        if self.n_opened == 2:
            raise SourceError("still unplugged")
        if self.n_opened == 3:
            self.script, self.error = (chunk(9.0),), None
        self.open = True
        return self


def test_merged_opens_a_device_again_that_failed() -> None:
    flaky = Flaky(chunk(0.0), error=SourceError("unplugged"))
    source = MergedSource(flaky)
    with source:
        packets = filter(None, source.packets())
        assert next(packets).start_s == 0.0  # type: ignore[union-attr]
        deadline = time.monotonic() + 10.0
        while source.down.get("audio") != "still unplugged" and time.monotonic() < deadline:
            time.sleep(0.01)
        assert source.down == {"audio": "still unplugged", "vision": "still unplugged"}
        assert next(packets).start_s == 9.0  # type: ignore[union-attr]
        assert not list(packets)
        assert source.down == {}
    assert source.n_restarts == {"audio": 1, "vision": 1}
    assert not flaky.open
    assert not [t for t in threading.enumerate() if t.name.startswith("dmd-live")]


def test_merged_closes_what_it_opened_when_one_fails() -> None:
    first = Script()
    with pytest.raises(SourceError), MergedSource(first, CameraSource(99)):
        pass
    assert not first.open


@pytest.mark.parametrize("password", ["secret", "p@ss", "p@ss@word"])
def test_a_cameras_password_is_in_no_message(password: str) -> None:
    address = f"rtsp://robot:{password}@127.0.0.1:1/head"
    with pytest.raises(SourceError) as told, CameraSource(address):
        pass
    assert str(told.value).startswith("camera rtsp://127.0.0.1:1/head: cannot be opened")


def test_only_the_password_is_taken_out_of_a_camera() -> None:
    for camera in ("0", "/dev/video0", "http://robot/a@b.mjpg", "nvarguscamerasrc ! appsink"):
        assert without_password(camera) == camera
    pipeline = "rtspsrc location=rtsp://{}robot/head ! decodebin ! appsink name=a@b"
    assert without_password(pipeline.format("admin:p@ss@")) == pipeline.format("")


def test_camera_that_is_not_there() -> None:
    with pytest.raises(SourceError, match="camera 99"), CameraSource("99"):
        pass


def test_microphone_that_is_not_there() -> None:
    with pytest.raises(SourceError, match="microphone") as caught, MicrophoneSource("no such"):
        pass
    assert "\n" not in str(caught.value)


def blocks(n: int, fast: float, late_s: np.ndarray) -> Iterator[Block]:
    """Of 0.05 s by a sound card whose crystal is `fast`, each reported `late_s` after its end."""
    for k in range(n):
        end_s = 100.0 + (k + 1) * 0.05 / (1.0 + fast)
        yield Block(np.full(800, k + 1.0, np.float32), end_s + late_s[k], False)


@pytest.mark.parametrize("fast", [-3e-4, 0.0, 3e-4])
def test_a_sound_cards_clock_is_kept_in_step(fast: float) -> None:
    n = 12_000  # 10 minutes; such a crystal is 0.18 s off by then
    late_s = np.random.default_rng(0).exponential(0.005, n)
    clock = SoundClock(100.0)
    expected_s = 100.0
    for k, block in enumerate(blocks(n, fast, late_s)):
        chunk = clock.chunk(block.samples, block)
        assert chunk.start_s == pytest.approx(expected_s, abs=1e-6)  # no gap, no overlap
        expected_s = chunk.start_s + len(chunk.samples) / SPEC.sample_rate_hz
        assert abs(len(chunk.samples) - 800) <= (fast != 0.0)
        assert abs(expected_s - (block.end_s - late_s[k])) < 0.03


@pytest.mark.parametrize("told", [True, False])
def test_sound_that_the_driver_lost_becomes_silence(told: bool) -> None:
    clock = SoundClock(100.0)
    at_once = lost_s = 0.0
    for k, block in enumerate(blocks(600, 0.0, np.zeros(600))):
        if k >= 300:  # 1.5 s are missing
            block = replace(block, end_s=block.end_s + 1.5, overrun=told and k == 300)
        chunk = clock.chunk(block.samples, block)
        lost_s += np.sum(chunk.samples == 0.0) / SPEC.sample_rate_hz
        at_once = lost_s if k <= 300 else at_once
    assert lost_s == pytest.approx(1.5, abs=1e-3)
    assert at_once == pytest.approx(1.5 if told else 0.0, abs=1e-3)
    end_s = chunk.start_s + len(chunk.samples) / SPEC.sample_rate_hz
    assert end_s == pytest.approx(100.0 + 30.0 + 1.5, abs=1e-3)


@pytest.mark.parametrize("told", [True, False])
def test_a_long_gap_is_not_filled(told: bool) -> None:
    """An hour of zeros would be 230 MB."""
    clock = SoundClock(100.0)
    sound = []
    for k, block in enumerate(blocks(600, 0.0, np.zeros(600))):
        if k >= 300:
            block = replace(block, end_s=block.end_s + 3_600.0, overrun=told and k == 300)
        sound.append(clock.chunk(block.samples, block))
    assert {len(chunk.samples) for chunk in sound} == {800}
    steps = [after.start_s - before.start_s for before, after in pairwise(sound)]
    assert sum(step > 1.0 for step in steps) == 1
    assert max(steps) == pytest.approx(3_600.05)
    assert steps.index(max(steps)) == (299 if told else 498)


def deliver(microphone: MicrophoneSource, level: float, *, overflow: bool = False) -> None:
    """PortAudio's callback, called by hand: 50 ms of a level."""
    times = SimpleNamespace(currentTime=0.0, inputBufferAdcTime=0.0)
    samples = np.full((800, 1), level, np.float32)
    microphone._take(samples, 800, times, SimpleNamespace(input_overflow=overflow))


def test_a_microphone_that_was_not_read_for_long_leaves_a_gap() -> None:
    microphone = MicrophoneSource()
    microphone._rate_hz = 16_000
    microphone._n_lost = 3_600 * 16_000
    deliver(microphone, 1.0)
    block = microphone._blocks.get_nowait()
    assert block is not None
    assert len(block.samples) == 800
    assert block.overrun  # so that the clock looks for the gap
    assert microphone._n_lost == 0


def test_sound_that_is_longer_than_the_buffer() -> None:
    long = AudioChunk(start_s=5.0, samples=np.zeros(40 * 16_000, np.float32))
    with MergedSource(Script(chunk(4.0), long), reopen=False) as source:
        time.sleep(0.1)
        assert list(filter(None, source.packets())) == [long]
    assert source.n_dropped["audio"] == 1


def test_a_microphone_that_is_not_read_counts_what_it_drops() -> None:
    """The callback never waits, and loses no time."""
    microphone = MicrophoneSource()
    microphone._rate_hz = 16_000
    microphone._blocks = queue.Queue(10)
    for k in range(16):
        begun = time.monotonic()
        deliver(microphone, k + 1.0)
        assert time.monotonic() - begun < 0.5
    assert microphone.n_overruns == 6
    packets = microphone.packets()
    sound = [next(packets) for _ in range(9)]
    deliver(microphone, 99.0)
    sound += [next(packets) for _ in range(2)]
    samples = np.concatenate([p.samples for p in sound if isinstance(p, AudioChunk)])
    assert samples.tolist() == [float(k) for k in range(1, 11) for _ in range(800)] + (
        [0.0] * (6 * 800) + [99.0] * 800
    )
    deliver(microphone, 0.0, overflow=True)
    assert microphone.n_overruns == 7


def test_a_file_in_place_of_a_camera_plays_at_its_own_rate(tmp_path: Path) -> None:
    path = make(tmp_path / "clip.mp4", seconds=1.5, fps=30, sound=False)
    with MergedSource(CameraSource(str(path))) as source:
        begun = time.monotonic()
        frames = [p for p in source.packets() if isinstance(p, VideoFrame)]
        took_s = time.monotonic() - begun
    assert took_s == pytest.approx(1.5, abs=0.3)
    assert len(frames) == pytest.approx(1.5 * SPEC.vision_rate_hz, abs=4)
    assert source.n_restarts["vision"] == 0


def test_a_device_that_is_no_camera() -> None:
    with pytest.raises(SourceError, match="camera /dev/null: cannot"), CameraSource("/dev/null"):
        pass


def test_closing_in_the_middle_never_hangs(root: Path, demo: Path) -> None:
    code = (
        "import sys; from itertools import islice; from runtime.sources.file import FileSource\n"
        "for k in range(60):\n"
        "    with FileSource(sys.argv[1]) as source:\n"
        "        assert len(list(islice(source.packets(), 20 + k))) == 20 + k\n"
        # PyAV's own log callback takes the interpreter's lock, which the closing thread holds.
        "import av; assert av.logging.get_level() is None\n"
    )
    subprocess.run([sys.executable, "-c", code, str(demo)], cwd=root, check=True, timeout=60)


@pytest.mark.parametrize(
    ("channel", "n_most", "asked"),
    [
        ("first", 1, [1]),
        ("first", 6, [6, 1, 2]),  # an array
        ("mix", 2, [2, 1]),
        ("first", 32, [2, 1, 32]),  # a sound server
        ("0", 6, [1, 6]),
        ("4", 6, [5, 6]),
        ("6", 6, []),
    ],
)
def test_how_many_channels_a_microphone_is_asked_for(
    channel: str, n_most: int, asked: list[int]
) -> None:
    assert microphone_module._numbers(channel, n_most) == asked


def test_a_microphone_that_refuses_a_number_of_channels() -> None:
    """It is asked again for another number, and for nothing else."""
    import sounddevice

    class Array:
        PortAudioError = sounddevice.PortAudioError
        opened: ClassVar[list[int]] = []

        @classmethod
        def InputStream(cls, *, channels: int, **options: object) -> int:
            cls.opened.append(channels)
            if channels != 1:
                raise sounddevice.PortAudioError("Invalid number of channels", code)
            return channels

    code = -9998
    source = MicrophoneSource("array", "first")
    source._rate_hz = 16_000
    assert source._opened(Array, 0, 6) == 1
    assert Array.opened == [6, 1]
    code = -9985  # not available: another number of channels does not help
    with pytest.raises(sounddevice.PortAudioError):
        source._opened(Array, 0, 6)
    assert Array.opened == [6, 1, 6]
