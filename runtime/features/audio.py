"""Audio rows: log-mel spectrum and prosody, one row every `SPEC.hop` samples.

Row k covers samples [k * hop, k * hop + window) of the stream and depends on nothing else, so that
any chunking of a signal yields the same rows.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from ..errors import FeatureError
from .spec import SPEC

__all__ = ["AudioFeatures", "audio_rows"]

Float = NDArray[np.float32]


def audio_rows(samples: Float) -> Float:
    """All rows of a whole signal.

    `samples`: (n,) float in [-1, 1] at 16 kHz. Returns (T, 43) float32 with
    T = floor((n - window) / hop) + 1, or (0, 43) for a signal shorter than one window.
    Raises FeatureError when `samples` is not one-dimensional or not finite.
    """
    return AudioFeatures().push(samples)


class AudioFeatures:
    """Streaming extraction: push chunks of any size, get the rows that became complete."""

    def __init__(self) -> None:
        self._tail = np.zeros(0, np.float32)
        self.n_rows = 0

    def push(self, samples: Float) -> Float:
        """Append (n,) samples in [-1, 1]; returns the (t, 43) float32 rows they complete."""
        samples = np.asarray(samples, np.float32)
        if samples.ndim != 1:
            raise FeatureError(f"audio must be one channel (n,), got shape {samples.shape}")
        if not np.isfinite(samples).all():
            raise FeatureError("audio holds NaN or infinite samples; check the capture device")
        self._tail = np.concatenate([self._tail, samples])
        n = max(0, (len(self._tail) - SPEC.window) // SPEC.hop + 1)
        if n == 0:
            return np.zeros((0, SPEC.audio_dim), np.float32)
        frames = np.lib.stride_tricks.sliding_window_view(self._tail, SPEC.window)
        rows = _rows(frames[: n * SPEC.hop : SPEC.hop])
        self._tail = self._tail[n * SPEC.hop :].copy()
        self.n_rows += n
        return rows


def _rows(frames: Float) -> Float:
    """(T, window) frames -> (T, 43) rows: 40 log-mel, log-F0, voicing, log-energy."""
    frames = frames - frames.mean(axis=1, keepdims=True)
    power = np.abs(np.fft.rfft(frames * np.hanning(SPEC.window), axis=1)) ** 2 / SPEC.window
    log_mel = np.log(power @ _mel_filters().T + SPEC.log_floor)
    f0_hz, voicing = _pitch(frames)
    voiced = voicing >= SPEC.voicing_threshold
    # Octaves around 150 Hz, between typical male and female speech; 0 where there is no pitch.
    log_f0 = np.where(voiced, np.log2(f0_hz / 150.0), 0.0)
    log_energy = np.log(np.mean(frames**2, axis=1) + SPEC.log_floor)
    return np.column_stack([log_mel, log_f0, voicing, log_energy]).astype(np.float32)


def _pitch(frames: Float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """F0 in Hz and voicing in [0, 1], each (T,), by normalised autocorrelation.

    The autocorrelation is divided by that of the window, which removes the taper's bias (Boersma
    1993, eq. 9); the highest peak between the lags of `f0_high_hz` and `f0_low_hz` wins, shorter
    lags being favoured slightly against octave errors, and is refined by a parabola.
    """
    n, window = SPEC.window, np.hanning(SPEC.window)
    shortest = int(SPEC.sample_rate_hz / SPEC.f0_high_hz)
    longest = int(SPEC.sample_rate_hz / SPEC.f0_low_hz) + 1
    spectrum = np.abs(np.fft.rfft(frames * window, 2 * n, axis=1)) ** 2
    acf = np.fft.irfft(spectrum, axis=1)[:, : longest + 2]
    window_acf = np.fft.irfft(np.abs(np.fft.rfft(window, 2 * n)) ** 2)[: longest + 2]
    energy = acf[:, :1] + n * SPEC.log_floor
    acf = acf / energy / (window_acf / window_acf[0])
    lags = np.arange(shortest, longest + 1)
    octave_cost = 0.01 * np.log2(lags / shortest)
    best = shortest + np.argmax(acf[:, lags] - octave_cost, axis=1)
    row = np.arange(len(frames))
    left, peak, right = acf[row, best - 1], acf[row, best], acf[row, best + 1]
    curvature = left - 2 * peak + right
    is_peak = curvature < -1e-9
    shift = np.where(is_peak, 0.5 * (left - right) / np.where(is_peak, curvature, 1.0), 0.0)
    lag = best + np.clip(shift, -0.5, 0.5)
    return SPEC.sample_rate_hz / lag, np.clip(peak, 0.0, 1.0)


@cache
def _mel_filters() -> NDArray[np.float64]:
    """(n_mels, window // 2 + 1) triangular filters, evenly spaced on the HTK mel scale."""

    def mel(hz: float) -> float:
        return float(2595.0 * np.log10(1.0 + hz / 700.0))

    points = np.linspace(mel(SPEC.mel_low_hz), mel(SPEC.mel_high_hz), SPEC.n_mels + 2)
    edges = 700.0 * (10.0 ** (points / 2595.0) - 1.0)
    bins = np.fft.rfftfreq(SPEC.window, 1.0 / SPEC.sample_rate_hz)
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (bins - low) / (centre - low), (high - bins) / (high - centre)
    return np.maximum(0.0, np.minimum(rising, falling))
