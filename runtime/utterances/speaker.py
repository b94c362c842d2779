"""Who of the people in view says an utterance: lips that move with the voice.

An active-speaker score as in audio-visual speech work since Cutler and Davis (2000): how much the
gap between the lips changes, and how well it correlates with the loudness of the voice, at the lag
that suits best. No network, nothing to train: with few pictures it is a guess, and says so.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Speaker", "who_speaks"]

Float = NDArray[np.float64]

# Deviation of the lips' gap, over the height of the face. A face that is still has 0.004, by noise
# of the landmarks; one that talks 0.01 to 0.08.
_MOVING = 0.0065
_MOVING_WEIGHT, _MOST_MOVING = 6.0, 3.0
_TOGETHER, _TOGETHER_WEIGHT = 0.3, 5.0  # the best of several lags is above 0 by chance
_LAGS_S = (-0.13, -0.07, 0.0, 0.07, 0.13)
_FEWEST = 8  # pictures with the face: fewer prove nothing
_KNOWN = 0.5  # confidence in a face without proof


class Speaker(NamedTuple):
    """`id` of the face, None when none in view speaks; how sure that is, in [0, 1]."""

    id: int | None
    confidence: float


def who_speaks(
    lips: Mapping[int, tuple[Float, Float]], at_s: Float, loudness: Float, last: int | None
) -> Speaker:
    """The speaker of an utterance.

    `lips`: by face, the (n,) times of its pictures and (n,) gaps; `at_s` and `loudness`: (m,) times
    and log-energies of the sound; `last`: who spoke before, believed where nothing is proven.
    """
    scores = {
        face: _score(times, gaps, at_s, loudness)
        for face, (times, gaps) in lips.items()
        if len(times) >= _FEWEST
    }
    if not scores:
        seen = sorted(lips, key=lambda face: (face != last, -len(lips[face][0])))
        return Speaker(seen[0], _KNOWN / len(seen)) if seen else Speaker(None, 1.0)
    faces = list(scores)
    odds = np.exp(np.array([0.0, *scores.values()]) - max(0.0, *scores.values()))
    shares = odds / odds.sum()
    best = int(shares.argmax())
    return Speaker(None if best == 0 else faces[best - 1], float(shares[best]))


def _score(times: Float, gaps: Float, at_s: Float, loudness: Float) -> float:
    """Log-odds that these lips speak, against a face that only listens."""
    moving = _MOVING_WEIGHT * np.log(max(float(gaps.std()), 1e-6) / _MOVING)
    score = float(np.clip(moving, -_MOST_MOVING, _MOST_MOVING))
    if len(at_s) < 2:
        return score
    together = max(_correlation(gaps, np.interp(times + lag, at_s, loudness)) for lag in _LAGS_S)
    return score + _TOGETHER_WEIGHT * (together - _TOGETHER)


def _correlation(a: Float, b: Float) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / max(float(np.sqrt((a @ a) * (b @ b))), 1e-12))
