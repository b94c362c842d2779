"""A source fed by callbacks: frames of a robot's middleware, of a call, of a capture loop."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..features.spec import SPEC
from .base import Packet, VideoFrame
from .microphone import Block, SoundClock
from .waiting import Waiting

__all__ = ["FedSource"]

_TICK_S = 0.1
_PAUSE_S = 5.0  # a callback that is held up, and then all at once, is not that late
_RATES_HZ = range(8_000, 192_001)


class FedSource:
    """`hear` and `see` take sound and pictures from any thread, at once; the stream reads them.

    Times are those of `time.monotonic()`. The buffer keeps 30 s of sound, then the oldest is lost,
    and the newest picture only; `n_dropped` counts what is lost, by modality. Nothing needs to
    come: the stream waits until `end` says that nothing will.
    """

    monotonic = True
    """The packets' clock is `time.monotonic()`."""

    def __init__(self, *, pictures: bool = True) -> None:
        self.modalities = frozenset({"audio", "vision"} if pictures else {"audio"})
        self._change = threading.Condition()
        self._waiting = Waiting()
        self.n_dropped = self._waiting.n_dropped
        self._rate_hz = 0
        self._resampler: Any = None
        self._clock: SoundClock | None = None
        self._heard_s = 0.0  # when the newest sound ended
        self._ended = False

    def __enter__(self) -> "FedSource":
        return self

    def __exit__(self, *exc: object) -> None:
        self.end()

    def hear(
        self, samples: NDArray[Any], rate_hz: int, *, end_s: float | None = None, lost: bool = False
    ) -> None:
        """Take sound. `samples`: (n,) or (n, channels), int16, or float in [-1, 1].

        `end_s`: when the last sample was captured; now, if left out. It may be late, never early.
        `lost`: some was lost just before, as it is taken to be after a pause of 5 s. Raises
        UsageError for another type or shape.
        """
        mono = _mono(samples)
        if not mono.size:
            return
        end_s = time.monotonic() if end_s is None else end_s
        with self._change:
            at_16_khz = self._resampled(mono, rate_hz)
            if not at_16_khz.size or self._ended:
                return
            start_s = end_s - len(at_16_khz) / SPEC.sample_rate_hz
            lost |= start_s - self._heard_s > _PAUSE_S
            self._clock = self._clock or SoundClock(start_s)
            self._heard_s = end_s
            self._waiting.put(self._clock.chunk(at_16_khz, Block(at_16_khz, end_s, lost)))
            self._change.notify_all()

    def see(self, rgb: NDArray[np.uint8], *, at_s: float | None = None) -> None:
        """Take a picture. `rgb`: (H, W, 3) uint8; `at_s`: when it was captured, or now.

        Raises UsageError for another type or shape.
        """
        if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or not rgb.size:
            raise UsageError(f"a picture is (H, W, 3) uint8, not {rgb.shape} {rgb.dtype}")
        # A copy: callers reuse their buffers.
        frame = VideoFrame(time_s=time.monotonic() if at_s is None else at_s, rgb=rgb.copy())
        with self._change:
            if self._ended:
                return
            self._waiting.put(frame)
            self._change.notify_all()

    def end(self) -> None:
        """Nothing more comes, and what comes is ignored: the stream judges what it has and ends."""
        with self._change:
            self._ended = True
            self._change.notify_all()

    def packets(self) -> Iterator[Packet | None]:
        """Packets as they come, those that wait together in order of time; None when nothing came
        for 0.1 s."""
        while True:
            with self._change:
                if not self._waiting:
                    if self._ended:
                        return
                    self._change.wait(_TICK_S)
                packet = self._waiting.take()
            yield packet

    def _resampled(self, mono: NDArray[np.float32], rate_hz: int) -> NDArray[np.float32]:
        """(n,) at 16 kHz. The resampler holds back a few samples until more come."""
        import av

        if rate_hz not in _RATES_HZ:
            raise UsageError(f"sound has 8,000 to 192,000 samples a second, not {rate_hz}")
        if rate_hz == SPEC.sample_rate_hz:
            return mono
        if rate_hz != self._rate_hz:
            self._rate_hz = rate_hz
            self._resampler = av.AudioResampler("flt", "mono", SPEC.sample_rate_hz)
        frame = av.AudioFrame.from_ndarray(mono[None], format="flt", layout="mono")
        frame.sample_rate = rate_hz
        pieces = [found.to_ndarray()[0] for found in self._resampler.resample(frame)]
        resampled: NDArray[np.float32] = np.concatenate([mono[:0], *pieces])
        return resampled


def _mono(samples: NDArray[Any]) -> NDArray[np.float32]:
    """(n,) float32 in [-1, 1], a copy: callers reuse their buffers."""
    if samples.ndim not in (1, 2) or samples.dtype.kind not in "fi":
        raise UsageError(f"sound is (n,) or (n, channels), int16 or float, not {samples.shape}")
    if samples.dtype.kind == "i" and samples.dtype != np.int16:
        raise UsageError(f"whole samples are int16, not {samples.dtype}")
    scale = 32_768.0 if samples.dtype == np.int16 else 1.0
    mono: NDArray[np.float32] = samples.astype(np.float32) / np.float32(scale)
    mono = mono if mono.ndim == 1 else mono.mean(axis=1, dtype=np.float32)
    return np.clip(np.nan_to_num(mono), np.float32(-1.0), np.float32(1.0))
