"""How the graph reads an utterance: words that show an emotion are also read by themselves.

The fused answer leans on the sense that the model trusts, and so a flat voice, or one that
resembles no training voice, can outvote clear words. Where the words alone show an emotion, the
answer is therefore the weighted mean of both readings: a logarithmic opinion pool (Genest and Zidek
1986). Neutral words say little, and leave the answer to the voice and the face.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engines.base import Arrays, Engine
from .calibration import Calibration

__all__ = ["pooled", "read", "words_alone"]

_POOLED = ("sentiment", "emotion", "arousal", "modality_weight")


def read(
    engine: Engine, inputs: Arrays, calibration: Calibration, prior: str
) -> dict[str, NDArray[Any]]:
    """The graph's outputs for its inputs; `calibration` says what the words' own reading counts.

    Raises what `Engine.infer` raises.
    """
    fused = engine.infer(inputs)
    others = inputs["audio_mask"].any() or inputs["vision_mask"].any()
    if not (calibration.words_share and others and inputs["text_mask"].any()):
        return fused
    alone = engine.infer(words_alone(inputs))
    share = calibration.share_of_words(alone["emotion"], prior).astype(np.float32)
    return fused | {name: pooled(fused[name], alone[name], share) for name in _POOLED}


def words_alone(inputs: Arrays) -> dict[str, NDArray[Any]]:
    """The same utterances without voice and face: one row of each, which is masked."""
    out = dict(inputs)
    for m in ("audio", "vision"):
        out[m], out[f"{m}_mask"] = inputs[m][:, :1], np.zeros_like(inputs[f"{m}_mask"][:, :1])
    out["audio_embedding"] = np.zeros_like(inputs["audio_embedding"])
    return out


def pooled(fused: NDArray[Any], alone: NDArray[Any], share: NDArray[Any]) -> NDArray[Any]:
    """The mean of two (n, ...) readings, by the (n,) shares of `alone`."""
    share = share.reshape(-1, *[1] * (fused.ndim - 1))
    return np.asarray((1 - share) * fused + share * alone)
