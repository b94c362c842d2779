"""The samples of recordings, and what other microphones, rooms, phones and ways of speaking would
have made of them.

What belongs to the place (`Channel`: band, codec, room, noise, gain) is the same for all that a
person says there; what belongs to the moment (`spoken_again`: tempo, pitch, pauses) is not. Samples
are (n,) float32 in [-1, 1] at 16 kHz.
"""

import io
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.features.spec import SPEC
from runtime.utterances.segmenter import SegmenterConfig

from .labels import DataError, Recording

__all__ = ["Channel", "decode_audio", "joined", "spoken", "spoken_again"]

Float = NDArray[np.float32]
Rng = np.random.Generator

_RATE_HZ = SPEC.sample_rate_hz
# Container, codec, its rate in Hz and bits a second of a line that speech may have come over.
_CODECS = (("wav", "pcm_mulaw", 8_000, 0), ("wav", "pcm_alaw", 8_000, 0),
           ("ogg", "libopus", 16_000, 12_000), ("ogg", "libopus", 16_000, 24_000))  # fmt: skip
# Frames this far below the loudest one are silence. On the training speakers the cut serves as
# well as the device's own voice activity detector, at a hundredth of its time.
_SILENCE_DB = 30.0
_PAUSE_S = 0.4  # the longest between two parts of a clip
_FRAME = 320  # 20 ms: pauses are looked for and made in such steps


def decode_audio(path: Path) -> Float:
    """(n,) float32 samples in [-1, 1] at 16 kHz mono of any audio file."""
    import av

    try:
        with av.open(str(path)) as container:
            resampler = av.AudioResampler("flt", "mono", SPEC.sample_rate_hz)
            frames = [
                resampled.to_ndarray()[0]
                for frame in (*container.decode(audio=0), None)
                for resampled in resampler.resample(frame)
            ]
    except (OSError, IndexError, ValueError) as error:
        raise DataError(f"{path}: cannot be decoded ({error}); replace or remove it") from error
    return np.concatenate([np.zeros(0, np.float32), *frames])


def joined(rng: np.random.Generator, clip: Recording) -> Float:
    """(n,) samples of a clip, or of its parts with short pauses, or none, between them."""
    pieces: list[Float] = []
    for part in clip.parts or (clip.path,):
        pause_s = max(0.0, rng.uniform(-0.15, _PAUSE_S)) if pieces else 0.0
        # Not silence: what the microphone hears of a room when nobody speaks.
        samples = decode_audio(part)
        level = 1e-6 + (float(np.abs(samples[:160]).mean()) if len(samples) else 0.0)
        quiet = rng.normal(0.0, level, round(pause_s * SPEC.sample_rate_hz))
        pieces += [quiet.astype(np.float32), samples]
    return np.concatenate(pieces)


def spoken(samples: Float) -> Float:
    """(n,) samples in [-1, 1] without the silence before and after speech, but for the device's
    padding. Acted clips have a second of it, which an utterance cut by the device never has."""
    frames = samples[: len(samples) // SPEC.hop * SPEC.hop].reshape(-1, SPEC.hop)
    power = frames.var(axis=1)
    if not power.any():
        return samples
    loud = np.flatnonzero(power > power.max() * 10.0 ** (-_SILENCE_DB / 10.0))
    pad = round(SegmenterConfig().pad_s * SPEC.sample_rate_hz)
    return samples[max(0, loud[0] * SPEC.hop - pad) : (loud[-1] + 1) * SPEC.hop + pad]


@dataclass(frozen=True)
class Channel:
    """A place and a microphone; all about it follows from `seed`."""

    seed: tuple[int, ...]

    def through(self, samples: Float) -> Float:
        """(n,) samples as recorded there; (n,) again."""
        rng = np.random.default_rng(self.seed)
        out = samples.astype(np.float64)
        if rng.random() < 0.4:
            out = _in_a_room(rng, out)
        if rng.random() < 0.5:
            out = _tilted(rng, out)
        if rng.random() < 0.6:
            out = _with_noise(rng, out)
        kind = rng.random()
        if kind < 0.25:
            out = _banded(out, 8_000)
        elif kind < 0.32:
            out = _banded(out, 4_000)
        elif kind < 0.52:
            out = _coded(rng, out)
        out *= 10.0 ** (rng.uniform(-25.0, 6.0) / 20.0)
        if rng.random() < 0.1:
            limit = np.quantile(np.abs(out), rng.uniform(0.97, 0.999))
            out = np.clip(out, -limit, limit)
        return np.clip(out, -1.0, 1.0).astype(np.float32)


def spoken_again(rng: Rng, samples: Float) -> Float:
    """(n,) samples in another tempo and pitch and with other pauses; another length."""
    if rng.random() < 0.5:
        percent = int(rng.integers(88, 115))
        samples = _resampled(samples, 100, percent).astype(np.float32)
    kind = rng.random()
    if kind < 0.35:
        samples = _apart(rng, samples)
    elif kind < 0.55:
        samples = _hurried(samples)
    return samples.astype(np.float32)


def _resampled(samples: NDArray[Any], rate_in: int, rate: int) -> NDArray[np.float64]:
    from scipy.signal import resample_poly

    ratio = Fraction(rate, rate_in)
    return np.asarray(resample_poly(samples, ratio.numerator, ratio.denominator), np.float64)


def _banded(samples: NDArray[np.float64], rate_hz: int) -> NDArray[np.float64]:
    """Without what a line of this sampling rate does not carry."""
    there = _resampled(samples, _RATE_HZ, rate_hz)
    return _resampled(there, rate_hz, _RATE_HZ)[: len(samples)]


def _coded(rng: Rng, samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Encoded and decoded by a codec of telephony."""
    import av

    container, codec, rate_hz, bits = _CODECS[int(rng.integers(len(_CODECS)))]
    there = _resampled(samples, _RATE_HZ, rate_hz) if rate_hz != _RATE_HZ else samples
    pcm = np.clip(there * 32_767.0, -32_768, 32_767).astype(np.int16)[None]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream: Any = out.add_stream(codec, rate=rate_hz, layout="mono")
        if bits:
            stream.bit_rate = bits
        frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
        frame.sample_rate = rate_hz
        for packet in (*stream.encode(frame), *stream.encode(None)):
            out.mux(packet)
    buffer.seek(0)
    with av.open(buffer) as found:
        resampler = av.AudioResampler("flt", "mono", _RATE_HZ)
        pieces = [
            part.to_ndarray()[0]
            for frame in (*found.decode(audio=0), None)
            for part in resampler.resample(frame)
        ]
    decoded = np.concatenate([np.zeros(0), *pieces])[: len(samples)]
    return np.pad(decoded, (0, len(samples) - len(decoded))).astype(np.float64)


def _in_a_room(rng: Rng, samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Echoes that decay by 60 dB in 0.1 to 0.8 s, weaker than the direct sound (Polack 1988)."""
    from scipy.signal import fftconvolve

    decay_s = rng.uniform(0.1, 0.8)
    t = np.arange(int(decay_s * _RATE_HZ)) / _RATE_HZ
    response = rng.normal(0.0, 1.0, len(t)) * 10.0 ** (-3.0 * t / decay_s)
    response *= 10.0 ** (rng.uniform(-12.0, 0.0) / 20.0) / np.sqrt((response**2).sum())
    response[0] += 1.0
    return np.asarray(fftconvolve(samples, response)[: len(samples)], np.float64)


def _tilted(rng: Rng, samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """A microphone that favours highs or lows, by up to 6 dB an octave around 1 kHz."""
    spectrum = np.fft.rfft(samples)
    hz = np.fft.rfftfreq(len(samples), 1.0 / _RATE_HZ)
    octaves = np.log2(np.clip(hz, 80.0, 8_000.0) / 1_000.0)
    gain = 10.0 ** (rng.uniform(-3.0, 3.0) * octaves / 20.0)
    return np.asarray(np.fft.irfft(spectrum * gain, len(samples)), np.float64)


def _with_noise(rng: Rng, samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Noise of a random colour 5 to 40 dB below the speech, now and then with a hum."""
    n = len(samples)
    hz = np.maximum(np.fft.rfftfreq(n, 1.0 / _RATE_HZ), 20.0)
    spectrum = np.fft.rfft(rng.normal(0.0, 1.0, n)) * hz ** -rng.uniform(0.0, 1.2)
    noise = np.fft.irfft(spectrum, n)
    if rng.random() < 0.2:
        t, mains_hz = np.arange(n) / _RATE_HZ, rng.choice([50.0, 60.0])
        hum = sum(np.sin(2.0 * np.pi * k * mains_hz * t) / k for k in (1, 2, 3, 5))
        noise = noise / max(noise.std(), 1e-12) + rng.uniform(0.3, 2.0) * hum
    level = np.sqrt(np.mean(samples**2)) * 10.0 ** (-rng.uniform(5.0, 40.0) / 20.0)
    return np.asarray(samples + noise * level / max(float(noise.std()), 1e-12), np.float64)


def _quiet_frames(samples: NDArray[Any]) -> NDArray[np.bool_]:
    """(n_frames,) whether 20 ms are more than 25 dB below the loud ones."""
    frames = samples[: len(samples) // _FRAME * _FRAME].reshape(-1, _FRAME)
    power = np.mean(np.square(frames, dtype=np.float64), axis=1)
    loud = np.quantile(power, 0.95) if len(power) else 0.0
    return np.asarray(power < loud * 10.0**-2.5)


def _apart(rng: Rng, samples: Float) -> Float:
    """Words further apart: at up to four of the quietest places, 0.05 to 0.5 s of that quiet."""
    n = len(samples) // _FRAME
    if n < 20:
        return samples
    frames = samples[: n * _FRAME].reshape(n, _FRAME)
    power = np.mean(np.square(frames, dtype=np.float64), axis=1)
    inner = np.arange(5, n - 5)
    order = inner[np.argsort(power[inner])]
    places: list[int] = []
    n_places = int(rng.integers(1, 5))
    for k in order:
        if all(abs(k - other) > 10 for other in places):
            places.append(int(k))
        if len(places) == n_places:
            break
    pieces, begin = [], 0
    for place in sorted(places):
        end = (place + 1) * _FRAME
        quiet = samples[place * _FRAME : end]
        n_more = round(rng.uniform(0.05, 0.5) * _RATE_HZ / _FRAME)
        fade = np.linspace(1.0, 0.1, max(n_more, 1))[:, None]
        pieces += [samples[begin:end], (np.tile(quiet[::-1], (n_more, 1)) * fade[:n_more]).ravel()]
        begin = end
    return np.concatenate([*pieces, samples[begin:]])


def _hurried(samples: Float) -> Float:
    """Without pauses: of every run of quiet frames, two are left."""
    quiet = _quiet_frames(samples)
    run, keep = 0, np.ones(len(quiet), bool)
    for k, silent in enumerate(quiet):
        run = run + 1 if silent else 0
        keep[k] = run <= 2
    if keep.sum() < 20:
        return samples
    return samples[: len(keep) * _FRAME].reshape(-1, _FRAME)[keep].ravel()
