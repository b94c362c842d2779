"""One channel of sound out of several."""

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError

__all__ = ["Channels", "check_choice"]

Float = NDArray[np.float32]

_NAMES = ("first", "mix", "loudest")
# Half-life of loudness. People may sit at different microphones, and answer at once.
_LEVEL_S = {"first": 0.1, "mix": 0.5, "loudest": 0.5}
_SIGN_S = 5.0  # half-life of how channels go together
_SIGNAL_DB = 20.0  # a channel that much below the loudest has no signal of its own
_LEAD_DB = 3.0  # the loudest stays until another is that much louder


def check_choice(choice: str) -> None:
    """Raises UsageError for what is neither a number nor one of the names."""
    if choice not in _NAMES and not choice.isdigit():
        raise UsageError(
            f"no channel {choice!r}: give a number from 0, or one of {', '.join(_NAMES)}"
        )


class Channels:
    """Makes mono of sound with several channels.

    A number takes that channel; "first" the first one with a signal; "loudest" the loudest; "mix"
    the mean, where a channel whose sign is turned is turned back, so that nothing cancels.
    """

    def __init__(self, choice: str, rate_hz: float) -> None:
        check_choice(choice)
        self._choice, self._rate_hz = choice, rate_hz
        self._power = np.zeros(0)  # (n_channels,) running mean
        self._together = np.zeros(0)  # (n_channels,) running product with the loudest
        self._present = 0

    def mono(self, samples: Float) -> Float:
        """(n, n_channels) float32 -> (n,) float32; raises UsageError for a channel that is not
        there."""
        n_channels = samples.shape[1]
        if self._choice.isdigit():
            if int(self._choice) >= n_channels:
                raise UsageError(
                    f"there is no channel {self._choice}: the sound has {n_channels}, from 0"
                )
            return np.ascontiguousarray(samples[:, int(self._choice)])
        if n_channels == 1 or not len(samples):
            return np.ascontiguousarray(samples[:, 0])
        if len(self._power) != n_channels:
            self._power, self._together = np.zeros(n_channels), np.zeros(n_channels)
            self._present = 0
        self._hear(samples)
        if self._choice == "mix":
            signs = np.where(self._together < 0.0, -1.0, 1.0).astype(np.float32)
            return np.asarray((samples * signs).mean(axis=1), np.float32)
        return np.ascontiguousarray(samples[:, self._chosen()])

    def _hear(self, samples: Float) -> None:
        length_s = len(samples) / self._rate_hz
        exact = samples.astype(np.float64)
        # Loud moments count at once, so that the first word is taken from the right channel.
        self._power = np.maximum(
            0.5 ** (length_s / _LEVEL_S[self._choice]) * self._power, (exact**2).mean(axis=0)
        )
        loudest = int(self._power.argmax())
        self._together *= 0.5 ** (length_s / _SIGN_S)
        self._together += exact.T @ exact[:, loudest]

    def _chosen(self) -> int:
        level = 10.0 * np.log10(self._power + 1e-12)
        if self._choice == "first":
            return int(np.argmax(level >= level.max() - _SIGNAL_DB))
        loudest = int(level.argmax())
        if level[loudest] > level[self._present] + _LEAD_DB:
            self._present = loudest
        return self._present
