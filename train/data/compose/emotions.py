"""Which emotion is drawn, how often, and which modalities show it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from runtime.features.spec import MODALITIES
from train.config import DataConfig

from ..labels import EMOTIONS, NEUTRAL, UNKNOWN
from .faces import Faces
from .sentences import Sentence
from .voices import Voices

__all__ = ["class_weights", "emotions_shown", "lacking", "log_prior", "weak_arousal"]

# An emotion that is drawn less often than this share of its fair part counts as drawn so often.
_RAREST = 0.05
# Arousal of each emotion, in [-1, 1]: where it lies on the circumplex (Russell 1980; Russell
# and Mehrabian 1977, table 1, rounded).
_AROUSAL = {"anger": 0.6, "disgust": 0.3, "fear": 0.6, "happiness": 0.5, "neutral": -0.2,
            "sadness": -0.3, "surprise": 0.6}  # fmt: skip


def weak_arousal(emotion: int, intensity: float = 1.0) -> float:
    """The arousal in [-1, 1] that an emotion lets expect: from that of neutral to the emotion's
    own, which intensity 1 reaches and more goes beyond."""
    calm = _AROUSAL[EMOTIONS[NEUTRAL]]
    expected = calm + intensity * (_AROUSAL[EMOTIONS[emotion]] - calm)
    return min(1.0, max(-1.0, expected))


def emotions_shown(
    rng: np.random.Generator, emotion: int, config: DataConfig, oddness: NDArray[np.float64]
) -> dict[str, int]:
    """The emotion that each modality of an utterance labelled `emotion` shows.

    People do not show everything everywhere: one or two modalities may be neutral, or one may
    say something else than the other two, who are believed; `oddness` (3,): how often which.
    """
    shown = dict.fromkeys(MODALITIES, emotion)
    kind = rng.random()
    if kind < config.neutral_share:
        if emotion != NEUTRAL:
            for m in rng.choice(MODALITIES, int(rng.integers(1, 3)), replace=False):
                shown[m] = NEUTRAL
    elif kind < config.neutral_share + config.conflict_share:
        others = [e for e in range(len(EMOTIONS)) if e != emotion]
        odd = rng.choice(MODALITIES, p=oddness)
        shown[str(odd)] = int(rng.choice(others))
    return shown


def class_weights(
    kind: str,
    config: DataConfig,
    sentences: Sequence[Sentence],
    n_told: Sequence[int],
    voices: Voices,
    faces: Faces,
) -> NDArray[np.float64]:
    """(7,) how often each emotion is drawn in training batches of a kind; sums to 1.

    `sentences`: of batches of text alone; `n_told` (7,): sentences of each emotion.
    """
    if kind == "text":
        told = [s.emotion for s in sentences if s.emotion != UNKNOWN]
        weights = np.bincount(told, minlength=len(EMOTIONS)).astype(float)
    elif kind == "whole":
        weights = np.array(n_told, float) ** config.class_power
    elif kind == "vision" and faces.counts("train")[NEUTRAL]:
        weights = faces.counts("train") ** config.face_power
    else:
        weights = np.ones(len(EMOTIONS))
        weights[NEUTRAL] = config.neutral_weight
    if kind in ("audio", "vision"):
        weights[lacking(voices if kind == "audio" else faces)] = 0.0
    return weights / max(weights.sum(), 1e-9)


def log_prior(weights: NDArray[np.float64]) -> tuple[float, ...]:
    """Logarithms of (7,) weights; an emotion that is never drawn counts as a rare one."""
    return tuple(np.log(np.maximum(weights * len(EMOTIONS), _RAREST)).tolist())


def lacking(found: Voices | Faces) -> list[int]:
    """The emotions that nobody shows in training."""
    return sorted({*range(len(EMOTIONS))} - {*found.known("train")})
