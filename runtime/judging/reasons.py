"""What was measured that speaks for an event, in plain words.

Faces in Action Units by their FACS names (Ekman and Friesen 1978), from the blendshapes that
measure them; voices against the same speaker's usual; words by leaving each out.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..features.normal import SpeechStatistics
from ..features.pack import Rows, pack
from ..features.spec import SPEC
from ..features.text import TextFeatures

__all__ = ["MOST", "Rest", "disagreement", "face_reason", "voice_reason", "word_reason"]

Float = NDArray[np.float32]

MOST = 3
"""So many reasons an event has at most."""

# Action Units that speech itself moves (lips apart, jaw, funnel, pucker) are left out.
_UNITS: dict[str, tuple[str, ...]] = {
    "AU1 inner brow raiser": ("browInnerUp",),
    "AU2 outer brow raiser": ("browOuterUpLeft", "browOuterUpRight"),
    "AU4 brow lowerer": ("browDownLeft", "browDownRight"),
    "AU5 upper lid raiser": ("eyeWideLeft", "eyeWideRight"),
    "AU6 cheek raiser": ("cheekSquintLeft", "cheekSquintRight"),
    "AU7 lid tightener": ("eyeSquintLeft", "eyeSquintRight"),
    "AU9 nose wrinkler": ("noseSneerLeft", "noseSneerRight"),
    "AU10 upper lip raiser": ("mouthUpperUpLeft", "mouthUpperUpRight"),
    "AU12 lip corner puller": ("mouthSmileLeft", "mouthSmileRight"),
    "AU14 dimpler": ("mouthDimpleLeft", "mouthDimpleRight"),
    "AU15 lip corner depressor": ("mouthFrownLeft", "mouthFrownRight"),
    "AU17 chin raiser": ("mouthShrugLower",),
    "AU20 lip stretcher": ("mouthStretchLeft", "mouthStretchRight"),
    "AU24 lip pressor": ("mouthPressLeft", "mouthPressRight"),
}
_COLUMNS = [[SPEC.blendshapes.index(name) for name in names] for names in _UNITS.values()]
_SHOWN, _ABOVE_REST = 0.4, 0.15  # least strength of a unit, and least above the resting face
_MOST_UNITS = 2

_F0, _VOICING, _ENERGY = SPEC.n_mels, SPEC.n_mels + 1, SPEC.n_mels + 2
_SEMITONES, _DB, _FASTER = 2.0, 4.0, 1.3  # less of a difference is no reason
_FEW_WORDS = 3  # fewer have no rate
_COUNTS = 0.1  # of the emotion's probability that a word must be worth
_MOST_LEFT_OUT = 31  # words, and the whole: the largest batch that engines are prepared for
_STEP = 0.2  # an utterance's share in the running means

# Two modalities disagree when one is pleasant, one unpleasant, they are apart and both count.
_SIGN, _APART, _LEAST_WEIGHT = 0.3, 1.2, 0.1


class Rest:
    """How a person's face is at most times, and how fast they speak."""

    def __init__(self) -> None:
        self.units: NDArray[np.float64] | None = None
        self.words_per_s = 0.0

    def learn(self, vision: Float, n_words: int, length_s: float) -> None:
        """Take in a final utterance: (Tv, Dv) rows, and how many words in what time."""
        if len(vision) and vision[:, -1].any():
            units = _units(vision)
            old = units if self.units is None else self.units
            self.units = old + _STEP * (units - old)
        if n_words >= _FEW_WORDS:
            rate = n_words / length_s
            old_rate = self.words_per_s or rate
            self.words_per_s = old_rate + _STEP * (rate - old_rate)


def _units(vision: Float) -> NDArray[np.float64]:
    """(n_units,) mean strength in [0, 1] over the rows with a face."""
    seen = vision[vision[:, -1] > 0].astype(np.float64)
    return np.array([seen[:, columns].mean() for columns in _COLUMNS])


def face_reason(vision: Float, rest: Rest) -> str:
    """The strongest Action Units of (Tv, Dv) rows; "" without any."""
    units = _units(vision)
    usual = rest.units
    above = units if usual is None else units - usual
    least = _SHOWN if usual is None else _ABOVE_REST
    strongest = [k for k in np.argsort(-above)[:_MOST_UNITS] if above[k] >= least]
    names = list(_UNITS)
    parts = [
        f"{names[k]} {units[k]:.1f}" + ("" if usual is None else f" (at rest {usual[k]:.1f})")
        for k in strongest
    ]
    return f"face: {', '.join(parts)}" if parts else ""


def voice_reason(
    audio: Float, speech: SpeechStatistics, rest: Rest, n_words: int, length_s: float
) -> str:
    """How (Ta, 43) raw rows differ from this speaker's usual; "" where that is not known."""
    usual = speech.usual()
    voiced = audio[audio[:, _VOICING] >= SPEC.voicing_threshold]
    if usual is None or not len(voiced):
        return ""
    parts = []
    semitones = 12.0 * float(voiced[:, _F0].mean() - usual[_F0])
    if abs(semitones) >= _SEMITONES:
        parts.append(f"{abs(semitones):.0f} semitones {'higher' if semitones > 0 else 'lower'}")
    decibels = float(voiced[:, _ENERGY].mean() - usual[_ENERGY]) * 10.0 / np.log(10.0)
    if abs(decibels) >= _DB:
        parts.append(f"{abs(decibels):.0f} dB {'louder' if decibels > 0 else 'softer'}")
    found = [f"{', '.join(parts)} than usual"] if parts else []
    faster = n_words / length_s / rest.words_per_s if rest.words_per_s else 1.0
    if n_words >= _FEW_WORDS and faster >= _FASTER:
        found.append(f"{faster:.1f} times as fast as usual")
    elif n_words >= _FEW_WORDS and faster <= 1.0 / _FASTER:
        found.append(f"{1.0 / faster:.1f} times as slow as usual")
    return f"voice: {', '.join(found)}" if found else ""


def word_reason(
    words: Sequence[str],
    rows: Rows,
    text: TextFeatures,
    judge: Callable[[dict[str, NDArray[Any]]], NDArray[np.float64]],
) -> str:
    """The one or two words without which the emotion is least likely; "" where none counts.

    One inference for all, each with a word left out. `rows`: what the event was judged from;
    `judge`: the graph's inputs -> (n, n_emotions) probabilities.
    """
    words = words[-_MOST_LEFT_OUT:]
    if len(words) < 2:
        return ""
    left_out = [" ".join((*words[:k], *words[k + 1 :])) for k in range(len(words))]
    shares = judge(_batch([rows.text, *(text.ids(part) for part in left_out)], rows))
    emotion = int(shares[0].argmax())
    worth = shares[0, emotion] - shares[1:, emotion]
    best = [k for k in np.argsort(-worth)[:2] if worth[k] >= _COUNTS]
    named = " and ".join(f'"{words[k]}"' for k in sorted(best))
    return f"words: {named} {'count' if len(best) > 1 else 'counts'} most" if best else ""


def _batch(ids: list[NDArray[np.int64]], rows: Rows) -> dict[str, NDArray[Any]]:
    """The same sound and pictures with different words."""
    batch = {name: np.repeat(array, len(ids), axis=0) for name, array in pack(rows).items()}
    longest = max(len(part) for part in ids)
    batch["input_ids"] = np.zeros((len(ids), longest), np.int64)
    batch["text_mask"] = np.zeros((len(ids), longest), bool)
    for k, part in enumerate(ids):
        batch["input_ids"][k, : len(part)] = part
        batch["text_mask"][k, : len(part)] = True
    return batch


def disagreement(
    sentiment: Mapping[str, float | None], weight: Mapping[str, float]
) -> tuple[str, ...]:
    """The two modalities that clearly disagree in sentiment, () when none do."""
    said = {
        name: value
        for name, value in sentiment.items()
        if value is not None and weight[name] >= _LEAST_WEIGHT
    }
    if len(said) < 2:
        return ()
    low, high = min(said, key=lambda name: said[name]), max(said, key=lambda name: said[name])
    apart = said[high] - said[low] >= _APART
    if not apart or said[low] > -_SIGN or said[high] < _SIGN:
        return ()
    return tuple(name for name in sentiment if name in (low, high))
