"""A live source whose packets are known."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from runtime.sources.base import Packet, VideoFrame

PATIENT = 60_000  # ms: words come late, for a script plays faster than people speak


def start_of(packet: Packet) -> float:
    return packet.time_s if isinstance(packet, VideoFrame) else packet.start_s


def later(packet: Packet, by_s: float) -> Packet:
    if isinstance(packet, VideoFrame):
        return replace(packet, time_s=packet.time_s + by_s)
    return replace(packet, start_s=packet.start_s + by_s)


class Script:
    """Plays packets, at once or at their time, and does something at times of theirs (`cues`)."""

    def __init__(
        self,
        packets: list[Packet],
        *,
        paced: bool = False,
        cues: Mapping[float, Callable[[], object]] | None = None,
    ) -> None:
        self.modalities = frozenset({"audio", "vision"})
        self.cues = dict(cues or {})
        self._packets, self._paced = packets, paced

    def __enter__(self) -> "Script":
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def packets(self) -> Iterator[Packet]:
        begun = time.monotonic()
        for packet in self._packets:
            if self._paced:
                end_s = packet.time_s if isinstance(packet, VideoFrame) else packet.start_s + 0.1
                time.sleep(max(0.0, begun + end_s - time.monotonic()))
            for time_s in [t for t in self.cues if t <= start_of(packet)]:
                self.cues.pop(time_s)()
            yield packet
