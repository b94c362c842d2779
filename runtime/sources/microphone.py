"""Microphones by PortAudio (sounddevice)."""

import queue
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import SourceError
from ..features.spec import SPEC
from .base import AudioChunk, Packet

__all__ = ["MicrophoneSource"]

_BUFFER_S = 30.0
_BLOCK_S = 0.05
_SILENT_DEVICE_S = 3.0  # a running device delivers every 0.05 s


class MicrophoneSource:
    """A microphone: "default", an index, or part of a device name; any native rate.

    The callback only copies into a bounded buffer of 30 s; what does not fit is dropped, counted
    in `n_dropped` (samples at the native rate) and replaced by silence, so that the clock stays
    right. Time is the sample count, anchored to `time.monotonic()` at capture. Raises SourceError
    when PortAudio or the device is missing, or when the device stops delivering.
    """

    modalities = frozenset({"audio"})

    def __init__(self, name: str = "default") -> None:
        self._name = name
        self._stream: Any = None
        self._blocks: queue.Queue[NDArray[np.float32] | None] = queue.Queue()
        self._start_s: float | None = None
        self._n_lost = 0
        self.n_dropped = 0

    def __enter__(self) -> "MicrophoneSource":
        try:
            import sounddevice
        except (OSError, ImportError) as error:
            raise SourceError(
                f"microphone: PortAudio is not installed ({error}); on Debian or Ubuntu run: "
                "sudo apt install libportaudio2"
            ) from error
        self._start_s, self._n_lost = None, 0
        self._blocks = queue.Queue(round(_BUFFER_S / _BLOCK_S))
        device: int | str | None = None if self._name == "default" else self._name
        if self._name.isdigit():
            device = int(self._name)
        try:
            info = sounddevice.query_devices(device, "input")
            self._rate_hz = round(info["default_samplerate"])
            self._stream = sounddevice.InputStream(
                device=device,
                channels=1,
                samplerate=self._rate_hz,
                blocksize=round(_BLOCK_S * self._rate_hz),
                dtype="float32",
                callback=self._take,
            )
            self._stream.start()
        except (sounddevice.PortAudioError, ValueError) as error:
            self.__exit__()
            reason = str(error).splitlines()[0]
            raise SourceError(
                f"microphone {self._name!r}: {reason}; `dmd-live --list-devices` lists them"
            ) from error
        return self

    def __exit__(self, *exc: object) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        try:
            self._blocks.put_nowait(None)
        except queue.Full:
            self._blocks.get_nowait()
            self._blocks.put_nowait(None)

    def packets(self) -> Iterator[Packet]:
        """Sound in chunks of about 0.05 s, until the microphone is closed."""
        import av

        resampler = av.AudioResampler("flt", "mono", SPEC.sample_rate_hz)
        n_out = 0
        while True:
            try:
                block = self._blocks.get(timeout=_SILENT_DEVICE_S)
            except queue.Empty:
                raise SourceError(
                    f"microphone {self._name!r}: delivers no sound any more; check its connection"
                ) from None
            if block is None:
                return
            frame = av.AudioFrame.from_ndarray(block[None], format="flt", layout="mono")
            frame.sample_rate = self._rate_hz
            pieces = [out.to_ndarray()[0] for out in resampler.resample(frame)]
            if pieces:
                samples = np.concatenate(pieces).astype(np.float32)
                start_s = (self._start_s or 0.0) + n_out / SPEC.sample_rate_hz
                n_out += len(samples)
                yield AudioChunk(start_s=start_s, samples=samples)

    def _take(self, data: NDArray[np.float32], n: int, times: Any, status: Any) -> None:
        """PortAudio's callback, on its thread: copy and return."""
        if self._start_s is None:
            delay_s = max(0.0, times.currentTime - times.inputBufferAdcTime)
            self._start_s = time.monotonic() - delay_s
        block = np.concatenate([np.zeros(self._n_lost, np.float32), data[:, 0]])
        try:
            self._blocks.put_nowait(block)
            self._n_lost = 0
        except queue.Full:
            self._n_lost += n
            self.n_dropped += n
