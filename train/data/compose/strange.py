"""Rows that are like nothing in training: a modality from another world."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["strange_embedding", "strange_rows"]

Float = NDArray[np.float32]
Rng = np.random.Generator


def strange_rows(rng: Rng, rows: Float, kept: int) -> Float:
    """Rows (T, dim) of something that no training corpus resembles: columns scaled, shifted and
    mixed at random, pieces of time exchanged. Column `kept` stays 0 where it is, and with -1 the
    last one, which says whether there is a face, is left alone."""
    n, dim = rows.shape
    scale = np.exp(rng.normal(0.0, 0.4, dim))
    smooth = np.convolve(rng.normal(0.0, 1.0, dim + 8), np.ones(9) / 3.0, "valid")
    out = rows * scale + rng.uniform(0.5, 1.5) * smooth * np.maximum(rows.std(axis=0), 0.1)
    pieces = np.array_split(np.arange(n), max(1, n // int(rng.integers(4, 16))))
    out = out[np.concatenate([pieces[k] for k in rng.permutation(len(pieces))])]
    if kept == -1:
        out[:, -1] = rows[:, -1]
        out *= rows[:, -1:] > 0
    else:
        out[:, kept] *= rows[:, kept] != 0
    return out.astype(np.float32)


def strange_embedding(rng: Rng, embedding: Float) -> Float:
    """The embedding (576,) of a voice that no training corpus resembles: scaled and shifted."""
    scale = np.exp(rng.normal(0.0, 0.4, len(embedding)))
    shift = rng.normal(0.0, 1.0, len(embedding)) * rng.uniform(0.2, 1.0) * embedding.std()
    return np.asarray(embedding * scale + shift, np.float32)
