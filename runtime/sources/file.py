"""Media files by PyAV: any container and codec that FFmpeg reads."""

import heapq
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import SourceError
from ..features.spec import SPEC
from .base import AudioChunk, FrameSampler, Packet, VideoFrame
from .channels import Channels

__all__ = ["FileSource"]

_ATTACHED_PICTURE = 0x400  # FFmpeg's AV_DISPOSITION_ATTACHED_PIC: cover art, not video
_CHUNK = 1_600  # samples: 0.1 s
# Time stamps that jump further than this are a gap (filled with silence) or an overlap (dropped).
_JITTER_S = 0.1
# A file whose packets end this much before what its header says has lost its end.
_TRUNCATED_S = 0.3


class FileSource:
    """A video or audio file: its first sound and its first picture stream, on media time.

    Time 0 is the earliest time stamp of the file. Packets depend on the file alone; `realtime`
    only paces them. Raises SourceError, in one line, when the file cannot be read to its end.
    """

    def __init__(self, path: str | Path, *, realtime: bool = False, channel: str = "first") -> None:
        self._path = Path(path)
        self._realtime, self._channel = realtime, channel
        self._containers: list[Any] = []
        self.modalities: frozenset[str] = frozenset()

    def __enter__(self) -> "FileSource":
        import av

        # FFmpeg stays silent, and its threads must not call Python while one is closed: a deadlock.
        av.logging.set_level(None)
        try:
            self._inspect()
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise self._unreadable(error) from error
        return self

    def __exit__(self, *exc: object) -> None:
        for container in self._containers:
            container.close()
        self._containers = []

    def packets(self) -> Iterator[Packet]:
        """Packets in order of time; a picture comes before the sound that ends after it."""
        import av

        streams = [self._sound()] if "audio" in self.modalities else []
        if "vision" in self.modalities:
            streams.append(self._pictures())
        started = time.monotonic()
        try:
            for at_s, _, packet in heapq.merge(*streams, key=lambda item: item[:2]):
                if self._realtime:
                    time.sleep(max(0.0, started + at_s - time.monotonic()))
                yield packet
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise SourceError(
                f"{self._path}: damaged ({_reason(error)}); what came before it was analysed; "
                "re-encode it with ffmpeg"
            ) from error

    def _inspect(self) -> None:
        """Find the streams, and read all packets once to see that the file is whole."""
        if not self._path.exists():
            raise SourceError(f"{self._path}: no such file")
        if self._path.is_dir():
            raise SourceError(f"{self._path}: a folder; name a video or audio file in it")
        if self._path.stat().st_size == 0:
            raise SourceError(f"{self._path}: empty (0 bytes); record or copy it again")
        self._check_riff()
        with self._open() as container:
            streams = {
                name: stream
                for name, stream in (("audio", _sound(container)), ("vision", _picture(container)))
                if stream is not None
            }
            if not streams:
                raise SourceError(f"{self._path}: holds neither sound nor pictures")
            starts: dict[int, int] = {}  # by stream index, in the stream's own ticks
            ends: dict[int, int] = {}
            last: dict[int, int] = {}
            for packet in container.demux(list(streams.values())):
                at = packet.pts if packet.pts is not None else packet.dts
                if at is None or packet.size == 0:
                    continue
                index = packet.stream.index
                length = packet.duration or max(0, at - last.get(index, at))
                last[index] = at
                starts[index] = min(starts.get(index, at), at)
                ends[index] = max(ends.get(index, at), at + length)
            filled = {
                n: s for n, s in streams.items() if ends.get(s.index, 0) > starts.get(s.index, 0)
            }
            if not filled:
                raise SourceError(f"{self._path}: its streams are empty; record or copy it again")
            # The streams' own start, not their first packet: encoders' priming lies before it.
            self._origin_s = min(
                float((starts[s.index] if s.start_time is None else s.start_time) * s.time_base)
                for s in filled.values()
            )
            self._check_length(container, filled, starts, ends)
            self.modalities = frozenset(filled)

    def _check_riff(self) -> None:
        """WAV and AVI state their own size, which FFmpeg does not hold against them."""
        with self._path.open("rb") as file:
            head = file.read(8)
        n_bytes = self._path.stat().st_size
        stated = int.from_bytes(head[4:8], "little") + 8
        # All ones: written to a pipe, the size was never known.
        if head[:4] == b"RIFF" and n_bytes < stated < 0xFFFFFFFF:
            raise SourceError(
                f"{self._path}: cut short: its header promises {stated} bytes, {n_bytes} are "
                "there; copy it again"
            )

    def _check_length(
        self, container: Any, streams: dict[str, Any], starts: dict[int, int], ends: dict[int, int]
    ) -> None:
        """Raises SourceError when packets end before what the header promises."""
        read_s = max(
            float((ends[s.index] - starts[s.index]) * s.time_base) for s in streams.values()
        )
        stated = [float(s.duration * s.time_base) for s in streams.values() if s.duration]
        if not stated and container.duration:
            stated = [container.duration / 1e6]
        if stated and max(stated) - read_s > _TRUNCATED_S:
            raise SourceError(
                f"{self._path}: cut short: its header promises {max(stated):.1f} s, "
                f"{read_s:.1f} s are there; copy it again, or keep what is left with "
                f"`ffmpeg -i {self._path.name} whole{self._path.suffix}`"
            )

    def _open(self) -> Any:
        import av

        container = av.open(str(self._path))
        self._containers.append(container)
        return container

    def _sound(self) -> Iterator[tuple[float, int, Packet]]:
        """Chunks of 0.1 s with the time of their end, gaps filled with silence."""
        import av

        container = self._open()
        stream = _sound(container)
        channels = Channels(self._channel, SPEC.sample_rate_hz)
        # Interleaved: PyAV reads past the planes of a frame of more than eight channels.
        resampler = av.AudioResampler("flt", stream.layout.name, SPEC.sample_rate_hz)
        origin_s: float | None = None
        n_out, pending = 0, np.zeros(0, np.float32)
        fed_s = 0.0
        for frame in _then_none(container.decode(stream)):
            if frame is not None:
                at_s = fed_s if frame.time is None else frame.time - self._origin_s
                if origin_s is None:
                    origin_s = fed_s = max(0.0, at_s)
                length_s = frame.samples / frame.sample_rate
                if at_s < fed_s - _JITTER_S and at_s + length_s <= fed_s:
                    continue
                if at_s > fed_s + _JITTER_S:
                    silence = np.zeros(round((at_s - fed_s) * SPEC.sample_rate_hz), np.float32)
                    pending = np.concatenate([pending, silence])
                    fed_s = at_s
                fed_s += length_s
                frame.pts = None  # the resampler would stretch sound over jumps by itself
            new = [
                channels.mono(f.to_ndarray().reshape(-1, f.layout.nb_channels))
                for f in resampler.resample(frame)
            ]
            pending = np.concatenate([pending, *new]) if new else pending
            while len(pending) >= _CHUNK or (frame is None and len(pending)):
                samples, pending = pending[:_CHUNK].astype(np.float32), pending[_CHUNK:]
                start_s = (origin_s or 0.0) + n_out / SPEC.sample_rate_hz
                n_out += len(samples)
                end_s = start_s + len(samples) / SPEC.sample_rate_hz
                yield end_s, 1, AudioChunk(start_s=start_s, samples=samples)

    def _pictures(self) -> Iterator[tuple[float, int, Packet]]:
        """The frames to analyse, upright."""
        container = self._open()
        stream = _picture(container)
        stream.thread_type = "AUTO"
        sampler = FrameSampler()
        for frame in container.decode(stream):
            if frame.time is None:
                continue
            time_s = max(0.0, frame.time - self._origin_s)
            if sampler.wants(time_s):
                rgb = _upright(frame.to_ndarray(format="rgb24"), getattr(frame, "rotation", 0))
                yield time_s, 0, VideoFrame(time_s=time_s, rgb=rgb)

    def _unreadable(self, error: Exception) -> SourceError:
        return SourceError(
            f"{self._path}: not a media file that FFmpeg can read ({_reason(error)}); "
            "check it with ffprobe, or record or copy it again"
        )


def _sound(container: Any) -> Any:
    return next((s for s in container.streams.audio if s.codec_context is not None), None)


def _picture(container: Any) -> Any:
    videos = container.streams.video
    known = (s for s in videos if s.codec_context is not None)  # those that can be decoded
    return next((s for s in known if not int(s.disposition) & _ATTACHED_PICTURE), None)


def _then_none(items: Iterator[Any]) -> Iterator[Any]:
    """All items, then the None that flushes a resampler."""
    yield from items
    yield None


def _upright(rgb: NDArray[np.uint8], rotation: int) -> NDArray[np.uint8]:
    """Phones store pictures as the sensor lies; `rotation` is in degrees, counterclockwise."""
    return np.ascontiguousarray(np.rot90(rgb, round(rotation / 90)))


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).splitlines()[0]
