"""What every source yields, and the protocol it follows."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..features.spec import SPEC

__all__ = ["AudioChunk", "FrameSampler", "Packet", "Source", "VideoFrame"]


@dataclass(frozen=True, kw_only=True)
class AudioChunk:
    """Consecutive sound. `samples`: (n,) float32 in [-1, 1], 16 kHz mono.

    `start_s` is the time of the first sample. Within one source chunks follow one another without
    gap or overlap, so that the stream's clock is its sample count.
    """

    start_s: float
    samples: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class VideoFrame:
    """One picture. `rgb`: (H, W, 3) uint8; `time_s` on the same clock as the sound."""

    time_s: float
    rgb: NDArray[np.uint8]


Packet = AudioChunk | VideoFrame


class Source(Protocol):
    """A context manager that opens a device or file on entry and releases it on exit.

    `packets()` yields in order of time; both kinds share one clock in seconds. A live source may
    yield None when nothing has come for a while. It ends when the medium ends; it raises
    SourceError when the medium cannot be read any further.
    """

    @property
    def modalities(self) -> frozenset[str]:
        """The subset of {"audio", "vision"} that this source delivers; known once opened."""
        ...

    def __enter__(self) -> "Source": ...

    def __exit__(self, *exc: object) -> None: ...

    def packets(self) -> Iterator[Packet | None]:
        """The packets in order of time."""
        ...


class FrameSampler:
    """Picks the frames to analyse: the first one in each slot of 1 / `SPEC.vision_rate_hz`.

    Sources ask it before they convert a picture, so that frames not analysed cost nothing more.
    """

    def __init__(self) -> None:
        self._slot = -1

    def wants(self, time_s: float) -> bool:
        """Whether the frame at `time_s` (never decreasing) opens a new slot."""
        # Half a millisecond of slack: containers round 1/15 s to their own tick.
        slot = int((time_s + 5e-4) * SPEC.vision_rate_hz)
        if slot <= self._slot:
            return False
        self._slot = slot
        return True
