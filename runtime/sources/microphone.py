"""Microphones by PortAudio (sounddevice)."""

import queue
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import SourceError
from ..features.spec import SPEC
from ..system.threads import join
from .base import AudioChunk, Packet
from .channels import Channels

__all__ = ["Block", "MicrophoneSource", "SoundClock"]

_BUFFER_S = 30.0
_BLOCK_S = 0.05
_SILENT_DEVICE_S = 3.0  # a running device delivers every 0.05 s
_CLOSE_S = 0.3
_MOST_DELAY_S = 1.0  # some drivers report none, or nonsense
_DRIFT_S = 0.02  # less than a picture's time on screen, more than the jitter of time stamps
_LOST_S = 0.25  # no crystal is that wrong: sound is missing
_MOST_SILENCE_S = 2.0  # more than ends any utterance; without a bound, hours would be made up
_MOST_CHANNELS = 8
_WRONG_CHANNELS = -9998  # PortAudio's paInvalidChannelCount
_N_LAGS = 200  # blocks: 10 s

Float = NDArray[np.float32]


class MicrophoneSource:
    """A microphone: "default", an index, or part of a device name; any native rate.

    `channel`: which one of several, see `Channels`.

    The callback only copies into a bounded buffer of 30 s. What does not fit, or what the driver
    says that it lost, is counted in `n_overruns` and replaced by silence, or left a gap where it is
    more than 2 s. Time is the sample count, anchored to `time.monotonic()` at capture and kept in
    step with it. Raises SourceError when PortAudio or the device is missing, or when the device
    stops delivering.
    """

    modalities = frozenset({"audio"})

    def __init__(self, name: str = "default", channel: str = "first") -> None:
        self._name, self._channel = name, channel
        self._channels = Channels(channel, SPEC.sample_rate_hz)
        self._stream: Any = None
        self._blocks: queue.Queue[Block | None] = queue.Queue()
        self._n_lost = 0
        self.n_overruns = 0

    def __enter__(self) -> "MicrophoneSource":
        try:
            import sounddevice
        except (OSError, ImportError) as error:
            raise SourceError(
                f"microphone: PortAudio is not installed ({error}); on Debian or Ubuntu run: "
                "sudo apt install libportaudio2"
            ) from error
        self._n_lost = 0
        self._blocks = queue.Queue(round(_BUFFER_S / _BLOCK_S))
        device: int | str | None = None if self._name == "default" else self._name
        if self._name.isdigit():
            device = int(self._name)
        try:
            info = sounddevice.query_devices(device, "input")
            self._rate_hz = round(info["default_samplerate"])
            self._channels = Channels(self._channel, self._rate_hz)
            self._stream = self._opened(sounddevice, device, info["max_input_channels"])
            self._stream.start()
        except (sounddevice.PortAudioError, ValueError) as error:
            self.__exit__()
            reason = str(error).splitlines()[0]
            raise SourceError(
                f"microphone {self._name!r}: {reason}; `dmd-live --list-devices` lists them"
            ) from error
        return self

    def _opened(self, sounddevice: Any, device: int | str | None, n_most: int) -> Any:
        """The device with as many channels as are wanted; some arrays take no other number than
        all they have."""
        refused: Exception | None = None
        for n_channels in _numbers(self._channel, n_most):
            try:
                return sounddevice.InputStream(
                    device=device,
                    channels=n_channels,
                    samplerate=self._rate_hz,
                    blocksize=round(_BLOCK_S * self._rate_hz),
                    dtype="float32",
                    callback=self._take,
                )
            except sounddevice.PortAudioError as error:
                if _WRONG_CHANNELS not in error.args:
                    raise
                refused = refused or error
        raise refused or ValueError(f"it has {n_most} channels, and channel is {self._channel}")

    def __exit__(self, *exc: object) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            # A sound server that hangs would hang the caller.
            closing = threading.Thread(target=stream.close, name="dmd-live-close", daemon=True)
            closing.start()
            join([closing], _CLOSE_S)
        try:
            self._blocks.put_nowait(None)
        except queue.Full:
            self._blocks.get_nowait()
            self._blocks.put_nowait(None)

    def packets(self) -> Iterator[Packet]:
        """Sound in chunks of about 0.05 s, until the microphone is closed."""
        import av

        resampler = av.AudioResampler("flt", "mono", SPEC.sample_rate_hz)
        clock: SoundClock | None = None
        while True:
            try:
                block = self._blocks.get(timeout=_SILENT_DEVICE_S)
            except queue.Empty:
                raise SourceError(
                    f"microphone {self._name!r}: delivers no sound any more; check its connection"
                ) from None
            if block is None:
                return
            frame = av.AudioFrame.from_ndarray(block.samples[None], format="flt", layout="mono")
            frame.sample_rate = self._rate_hz
            pieces = [out.to_ndarray()[0] for out in resampler.resample(frame)]
            if pieces:
                samples = np.concatenate(pieces).astype(np.float32)
                clock = clock or SoundClock(block.end_s - len(samples) / SPEC.sample_rate_hz)
                yield clock.chunk(samples, block)

    def _take(self, data: Float, n: int, times: Any, status: Any) -> None:
        """PortAudio's callback, on its thread: copy and return."""
        delay_s = times.currentTime - times.inputBufferAdcTime
        if not 0.0 <= delay_s <= _MOST_DELAY_S:
            delay_s = 0.0
        end_s = time.monotonic() - delay_s + n / self._rate_hz
        left_out = self._n_lost > _MOST_SILENCE_S * self._rate_hz
        silence = np.zeros(0 if left_out else self._n_lost, np.float32)
        samples = np.concatenate([silence, self._channels.mono(data)])
        overrun = bool(status.input_overflow)
        try:
            self._blocks.put_nowait(Block(samples, end_s, overrun or left_out))
            self._n_lost = 0
        except queue.Full:
            self._n_lost += n
            overrun = True
        self.n_overruns += overrun


def _numbers(channel: str, n_most: int) -> list[int]:
    """How many channels to ask for, in this order, of a device that has `n_most`."""
    if channel.isdigit():
        return sorted({n for n in (int(channel) + 1, n_most) if int(channel) < n <= n_most})
    # A sound server offers 32 channels, whatever it records.
    wanted = (n_most, 1, 2) if n_most <= _MOST_CHANNELS else (2, 1, n_most)
    return list(dict.fromkeys(n for n in wanted if 1 <= n <= n_most))


@dataclass(frozen=True, eq=False)
class Block:
    """What one callback brought: (n,) samples at the native rate, when the last of them was taken,
    and whether the driver lost some before it."""

    samples: Float
    end_s: float
    overrun: bool


class SoundClock:
    """Counts the samples of a sound card, in step with `time.monotonic()`.

    A card's crystal is off by up to 100 ppm, which is 9 s a day. Blocks are reported late at times,
    never early: the least lag of the last 10 s is taken for the true one. It is mended by one
    sample a block, and by silence where much is missing; where more than 2 s are, the next chunk
    begins later.
    """

    def __init__(self, start_s: float) -> None:
        self._start_s = start_s
        self._n = self._n_mended = 0
        self._lags: deque[float] = deque(maxlen=_N_LAGS)

    def chunk(self, samples: Float, block: Block) -> AudioChunk:
        """The block as a chunk; `samples`: the same, (n,) at 16 kHz."""
        rate = SPEC.sample_rate_hz
        # As if nothing had been mended, so that old lags stay comparable.
        n_counted = self._n + len(samples) - self._n_mended
        if block.overrun:
            self._lags.clear()  # they are of the time before sound was lost
        self._lags.append(block.end_s - self._start_s - n_counted / rate)
        lag_s = min(self._lags) - self._n_mended / rate
        n_mended = 0
        missing = lag_s > _LOST_S and (block.overrun or len(self._lags) == _N_LAGS)
        if missing and lag_s > _MOST_SILENCE_S:
            self._move(lag_s)
        elif missing:
            n_mended = round(lag_s * rate)
            samples = np.concatenate([np.zeros(n_mended, np.float32), samples])
        elif abs(lag_s) > _DRIFT_S and len(self._lags) == _N_LAGS:
            n_mended = 1 if lag_s > 0.0 else -1
            samples = np.append(samples, samples[-1:]) if n_mended > 0 else samples[:-1]
        start_s = self._start_s + self._n / rate
        self._n += len(samples)
        self._n_mended += n_mended
        return AudioChunk(start_s=start_s, samples=samples)

    def _move(self, by_s: float) -> None:
        """What comes from now on was captured later than the samples counted tell."""
        self._start_s += by_s
        self._lags = deque((lag_s - by_s for lag_s in self._lags), maxlen=_N_LAGS)
