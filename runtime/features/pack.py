"""Feature rows of one utterance -> the graph's inputs; the one place that knows their names."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FeatureError
from .embedding import EMBEDDING_DIM, no_embedding
from .spec import MODALITIES, SPEC

__all__ = ["INPUTS", "OPTIONAL", "OUTPUTS", "Rows", "pack"]

# name -> (numpy type, axes); B, Tt, Ta, Tv are dynamic.
INPUTS: dict[str, tuple[str, tuple[str | int, ...]]] = {
    "input_ids": ("int64", ("B", "Tt")),
    "text_mask": ("bool", ("B", "Tt")),
    "audio": ("float32", ("B", "Ta", SPEC.audio_dim)),
    "audio_mask": ("bool", ("B", "Ta")),
    "vision": ("float32", ("B", "Tv", SPEC.vision_dim)),
    "vision_mask": ("bool", ("B", "Tv")),
    "audio_embedding": ("float32", ("B", EMBEDDING_DIM)),
}
OPTIONAL = frozenset({"audio_embedding"})
"""Inputs that a graph may do without."""
OUTPUTS: dict[str, tuple[str | int, ...]] = {
    "sentiment": ("B",),
    "emotion": ("B", "n_emotions"),
    "arousal": ("B",),
    "modality_sentiment": ("B", len(MODALITIES)),
    "modality_weight": ("B", len(MODALITIES)),
}


@dataclass(frozen=True, kw_only=True)
class Rows:
    """One utterance: `text` (Tt,) int64 ids, `audio` (Ta, 43), `vision` (Tv, Dv) float32.

    A modality of zero rows is absent. `audio_embedding` (576,) is all zeros where it is not known.
    """

    text: NDArray[np.int64]
    audio: NDArray[np.float32]
    vision: NDArray[np.float32]
    audio_embedding: NDArray[np.float32] = field(default_factory=no_embedding)


def pack(rows: Rows) -> dict[str, NDArray[Any]]:
    """A batch of one. Raises FeatureError for wrong widths, too many rows or values not finite."""
    limits = {
        "text": SPEC.max_pieces,
        "audio": round(SPEC.max_utterance_s * SPEC.audio_rate_hz),
        "vision": round(SPEC.max_utterance_s * SPEC.vision_rate_hz),
    }
    widths = {"text": (), "audio": (SPEC.audio_dim,), "vision": (SPEC.vision_dim,)}
    batch: dict[str, NDArray[Any]] = {}
    for m in MODALITIES:
        values = getattr(rows, m)
        if values.shape[1:] != widths[m]:
            raise FeatureError(f"{m} rows have shape {values.shape}, expected (T, *{widths[m]})")
        if len(values) > limits[m]:
            raise FeatureError(f"{len(values)} {m} rows; an utterance has at most {limits[m]}")
        if not np.isfinite(values).all():
            raise FeatureError(f"{m} rows hold NaN or infinite values")
        present = len(values) > 0
        if not present:
            values = np.zeros((1, *widths[m]), values.dtype)
        batch["input_ids" if m == "text" else m] = values[None]
        batch[f"{m}_mask"] = np.full((1, len(values)), present)
    embedding = rows.audio_embedding
    if embedding.shape != (EMBEDDING_DIM,) or not np.isfinite(embedding).all():
        raise FeatureError(
            f"audio embedding of shape {embedding.shape} or not finite; expected "
            f"({EMBEDDING_DIM},) finite numbers"
        )
    batch["audio_embedding"] = embedding[None]
    return batch
