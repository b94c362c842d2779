"""Audio rows against this session's speech: what is constant in a voice, a room or a microphone
is not emotion.

On logarithms, gain, distance, band and most of a speaker are constants of each column. They are
taken out by a mean and a deviation over voiced rows, a MAP estimate (Gauvain and Lee 1994): what
was heard before, blended with a prior from training by the number of rows heard. The first
utterance of a session has the prior alone, at its own loudness; after some more, how loud, how high
and how shrill an utterance is against the speaker's usual becomes visible.
"""

import numpy as np
from numpy.typing import NDArray

from .spec import SPEC

__all__ = ["SpeechStatistics", "voiced_sums"]

Float = NDArray[np.float32]

_F0, _VOICING, _ENERGY = SPEC.n_mels, SPEC.n_mels + 1, SPEC.n_mels + 2
_PRIOR_VARIANCE = np.full(SPEC.audio_dim, SPEC.speech_deviation**2)
_PRIOR_VARIANCE[_F0] = SPEC.speech_f0_deviation**2
_PRIOR_VARIANCE[_ENERGY] = SPEC.speech_energy_deviation**2
_KNOWN = 50.0  # voiced rows, 2 s: then somebody's usual voice is known
_FEWEST = 5  # with fewer voiced rows, all rows count


def voiced_sums(rows: Float) -> NDArray[np.float64]:
    """(3, 43): number, sum and sum of squares of each column over the voiced rows of (T, 43) rows;
    sums of several utterances add up."""
    voiced = rows[rows[:, _VOICING] >= SPEC.voicing_threshold]
    chosen = (voiced if len(voiced) >= _FEWEST else rows).astype(np.float64)
    n = np.full(SPEC.audio_dim, float(len(chosen)))
    sums = np.stack([n, chosen.sum(axis=0), (chosen**2).sum(axis=0)])
    pitch = voiced[:, _F0].astype(np.float64)  # where nothing is voiced, there is none
    sums[:, _F0] = len(pitch), pitch.sum(), (pitch**2).sum()
    return np.asarray(sums)


class SpeechStatistics:
    """Running statistics of a session's speech; the same rows in the same order give the same.

    The last `SPEC.speech_memory` voiced rows count, about a minute, so that another speaker is
    soon usual.
    """

    def __init__(self) -> None:
        self._sums = np.zeros((3, SPEC.audio_dim))

    def reset(self) -> None:
        """Forget all speech."""
        self._sums = np.zeros((3, SPEC.audio_dim))

    def learn(self, rows: Float) -> None:
        """Take in the (T, 43) raw rows of one utterance."""
        if len(rows):
            self.add(voiced_sums(rows))

    def add(self, sums: NDArray[np.float64]) -> None:
        """Take in what `voiced_sums` gave, of one or of several utterances."""
        total = self._sums + sums
        most = SPEC.speech_memory / np.maximum(total[0], 1e-9)
        self._sums = total * np.minimum(1.0, most)

    def usual(self) -> NDArray[np.float64] | None:
        """(43,) mean of each column over the speech heard; None while that is too little."""
        n = self._sums[0]
        if n.min() < _KNOWN:
            return None
        return np.asarray(self._sums[1] / n)

    def normalise(self, rows: Float) -> Float:
        """(T, 43) raw rows of an utterance -> (T, 43) rows of about mean 0 and deviation 1.

        F0 stays 0 where there is none; voicing goes from [0, 1] to [-1, 1].
        """
        if not len(rows):
            return rows
        own = voiced_sums(rows)
        own_mean = own[1] / np.maximum(own[0], 1e-9)
        own_variance = own[2] / np.maximum(own[0], 1e-9) - own_mean**2
        n, total, squares = self._sums
        k = SPEC.speech_prior
        mean = (total + k * _prior_mean(own_mean)) / (n + k)
        heard = np.maximum(squares - total**2 / np.maximum(n, 1e-9), 0.0)  # n times the variance
        own_weight = np.where(own[0] > 0.0, SPEC.speech_own, 0.0)
        variance = heard + own_weight * np.maximum(own_variance, 0.0) + k * _PRIOR_VARIANCE
        out = (rows - mean) / np.sqrt(variance / (n + own_weight + k))
        out[:, _F0] = np.where(rows[:, _VOICING] >= SPEC.voicing_threshold, out[:, _F0], 0.0)
        out[:, _VOICING] = 2.0 * rows[:, _VOICING] - 1.0
        return np.asarray(out, np.float32)


def _prior_mean(own: NDArray[np.float64]) -> NDArray[np.float64]:
    """(43,) the prior's mean of each column, at the loudness of these means (43,)."""
    mean = np.zeros(SPEC.audio_dim)
    level = own[: SPEC.n_mels].mean()
    mean[: SPEC.n_mels] = np.array(SPEC.speech_shape) + level
    mean[_F0], mean[_ENERGY] = SPEC.speech_f0, SPEC.speech_energy + level
    return mean
