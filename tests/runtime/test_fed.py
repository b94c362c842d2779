"""A source that callbacks feed: clock, bounds, resampling, and a whole stream through it."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from runtime import AudioChunk, EmotionStream, VideoFrame
from runtime.errors import UsageError
from runtime.sources.fed import FedSource
from runtime.sources.file import FileSource

pytestmark = pytest.mark.usefixtures("remembering")

PICTURE = np.zeros((4, 6, 3), np.uint8)


def test_sound_comes_out_at_16_khz_mono_without_gaps() -> None:
    source = FedSource()
    tone = np.sin(np.arange(48_000) * (2 * np.pi * 440 / 48_000))
    for at in range(0, 48_000, 4_800):
        block = np.stack([tone[at : at + 4_800]] * 2, axis=1)
        source.hear((block * 32_767).astype(np.int16), 48_000, end_s=100.0 + (at + 4_800) / 48_000)
    source.end()
    chunks = [p for p in source.packets() if isinstance(p, AudioChunk)]
    n = 0
    for chunk in chunks:
        assert chunk.start_s == pytest.approx(chunks[0].start_s + n / 16_000)
        n += len(chunk.samples)
    assert n == pytest.approx(16_000, abs=100)
    assert chunks[0].start_s == pytest.approx(100.0, abs=0.01)
    heard = np.concatenate([c.samples for c in chunks])
    assert np.abs(heard).max() == pytest.approx(1.0, abs=0.02)
    spectrum = np.abs(np.fft.rfft(heard[:16_000]))
    assert abs(int(spectrum.argmax()) * 16_000 / len(heard[:16_000]) - 440) < 2


def test_what_is_lost_becomes_silence_and_the_clock_stays() -> None:
    source = FedSource(pictures=False)
    source.hear(np.ones(1_600, np.float32), 16_000, end_s=10.1)
    source.hear(np.ones(1_600, np.float32), 16_000, end_s=12.1, lost=True)
    source.end()
    _first, second = source.packets()
    assert isinstance(second, AudioChunk)
    assert second.start_s + len(second.samples) / 16_000 == pytest.approx(12.1, abs=0.01)
    assert not second.samples[:30_000].any()
    assert source.modalities == {"audio"}


@pytest.mark.parametrize("lost", [True, False])
def test_a_pause_is_a_gap(lost: bool) -> None:
    """Somebody pushes to talk, a minute later again."""
    source = FedSource(pictures=False)
    block = np.ones(1_600, np.float32)
    source.hear(block, 16_000, end_s=10.1)
    source.hear(block, 16_000, end_s=70.1, lost=lost)
    source.hear(block, 16_000, end_s=70.2)
    source.end()
    sound = [packet for packet in source.packets() if isinstance(packet, AudioChunk)]
    assert [chunk.start_s for chunk in sound] == pytest.approx([10.0, 70.0, 70.1])
    assert {len(chunk.samples) for chunk in sound} == {1_600}


def test_sound_that_is_longer_than_the_buffer() -> None:
    source = FedSource(pictures=False)
    source.hear(np.zeros(40 * 16_000, np.float32), 16_000, end_s=50.0)
    source.end()
    (packet,) = source.packets()
    assert isinstance(packet, AudioChunk)
    assert packet.start_s == pytest.approx(10.0)


def test_newest_picture_and_last_half_minute_of_sound_are_kept() -> None:
    source = FedSource()
    for i in range(400):
        source.hear(np.zeros(1_600, np.float32), 16_000, end_s=1.0 + i / 10)
        source.see(PICTURE, at_s=1.0 + i / 10)
    source.end()
    packets = list(source.packets())
    pictures = [p for p in packets if isinstance(p, VideoFrame)]
    assert [p.time_s for p in pictures] == [pytest.approx(40.9)]
    assert source.n_dropped == {"audio": 100, "vision": 399}
    times = [p.time_s if isinstance(p, VideoFrame) else p.start_s for p in packets if p]
    assert times == sorted(times)


def test_a_picture_is_the_stream_s_own() -> None:
    source, buffer = FedSource(), np.zeros((4, 6, 3), np.uint8)
    source.see(buffer)
    buffer[:] = 255
    source.end()
    (picture,) = source.packets()
    assert isinstance(picture, VideoFrame)
    assert not picture.rgb.any()


def test_a_camera_that_goes_on_does_not_hold_the_end_up() -> None:
    source = FedSource()
    source.see(PICTURE)
    source.end()
    for n_seen, _ in enumerate(source.packets()):
        source.see(PICTURE)
        source.hear(np.zeros(1_600, np.float32), 16_000)
        assert n_seen == 0


def test_nothing_need_come() -> None:
    source = FedSource()
    packets = source.packets()
    assert next(packets) is None
    threading.Timer(0.05, source.end).start()
    begun = time.monotonic()
    assert list(packets) in ([], [None])
    assert time.monotonic() - begun < 1.0


@pytest.mark.parametrize(
    "samples",
    [np.zeros((2, 2, 2), np.float32), np.zeros(4, np.int32), np.zeros(4, np.uint8),
     np.array(["a"])],
)  # fmt: skip
def test_other_sound_is_refused(samples: np.ndarray) -> None:
    with pytest.raises(UsageError):
        FedSource().hear(samples, 16_000)


def test_other_pictures_and_rates_are_refused() -> None:
    with pytest.raises(UsageError, match=r"\(H, W, 3\)"):
        FedSource().see(np.zeros((4, 4), np.uint8))
    with pytest.raises(UsageError, match="samples a second"):
        FedSource().hear(np.zeros(160, np.float32), 0)


def test_a_stream_that_is_fed(demo: Path) -> None:
    source = FedSource()

    def feed() -> None:
        with FileSource(str(demo), realtime=True) as file:
            for packet in file.packets():
                if isinstance(packet, AudioChunk):
                    source.hear(packet.samples, 16_000)
                elif packet is not None:
                    source.see(packet.rgb)
        source.end()

    with EmotionStream(source=source, stt_wait_ms=20_000) as stream:  # the machine may be busy
        feeding = threading.Thread(target=feed)
        feeding.start()
        events = list(stream)
        feeding.join()
    assert [event.type for event in events] == ["final", "final"]
    assert "amiable" in events[1].text
    assert events[0].modalities == dict.fromkeys(events[0].modalities, "present")
