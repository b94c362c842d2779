"""Ways in which an utterance can be spoiled, each with a rate from 0 to 1.

| Kind | What is lost |
| --- | --- |
| `random` | each row of each modality with this probability, as LNLN does (Zhang et al., NeurIPS 2024; `core/dataset.py` of Haoyu-ha/LNLN): a lost word piece becomes [UNK], but for the first and the last; lost rows of numbers become 0 |
| `block` | one run of this share of the rows of each modality, anywhere: structural temporal drop |
| `whole` | each modality with this probability, but never all three |
| `noise` | nothing; Gaussian noise of this share of each column's deviation is added, and each word piece is another one of the data set with this probability |

What a recogniser's encoder made of a voice (`audio_embedding`) sums up all rows: `random`
and `block` lose it with the probability of their rate, `whole` with the voice; `noise` is added to it.

`random` draws as LNLN does: NumPy's old generator, one seed for all three modalities, an array of
all utterances by all stored steps. On a feature file the very same rows are lost.
"""  # noqa: E501

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.features.embedding import no_embedding
from runtime.features.spec import MODALITIES

from .data.utterance import Utterance

__all__ = ["KINDS", "spoil"]

KINDS = ("random", "block", "whole", "noise")
Array = NDArray[Any]


def spoil(
    utterances: Sequence[Utterance],
    kind: str,
    rate: float,
    *,
    seed: int,
    unknown: int,
    lengths: dict[str, int] | None = None,
) -> list[Utterance]:
    """The utterances, spoiled; at rate 0 they are as before.

    `unknown` is the word piece [UNK]; `lengths` the stored steps of each modality, where a data set
    pads; else the longest utterance counts.
    """
    if rate == 0.0:
        return list(utterances)
    if kind == "whole":
        return _whole(utterances, rate, seed)
    changed: dict[str, Any] = {}
    for k, m in enumerate(MODALITIES):
        rows = [np.asarray(getattr(u, m)) for u in utterances]
        if kind == "noise":
            changed[m] = _noisy(rows, rate, np.random.default_rng((seed, k)))
            continue
        longest = (lengths or {}).get(m) or max(len(r) for r in rows)
        drawn = np.random.RandomState(seed).uniform(size=(len(rows), max(1, longest)))
        changed[m] = [
            _lose(r, _kept(len(r), kind, rate, own), unknown)
            for r, own in zip(rows, drawn, strict=True)
        ]
    changed["audio_embedding"] = _spoiled_embeddings(utterances, kind, rate, seed)
    return [replace(u, **{m: changed[m][i] for m in changed}) for i, u in enumerate(utterances)]


def _spoiled_embeddings(
    utterances: Sequence[Utterance], kind: str, rate: float, seed: int
) -> list[Array]:
    embeddings = [u.audio_embedding for u in utterances]
    rng = np.random.default_rng((seed, len(MODALITIES)))
    if kind == "noise":
        return [rows[0] for rows in _noisy([e[None] for e in embeddings], rate, rng)]
    kept = rng.random(len(embeddings)) > rate
    return [e if k else no_embedding() for e, k in zip(embeddings, kept, strict=True)]


def _kept(n: int, kind: str, rate: float, drawn: Array) -> Array:
    """(n,) bool: which rows stay; `drawn` are uniform numbers, at least n of them."""
    if kind == "random":
        return np.asarray(drawn[:n] > rate)
    n_lost = round(rate * n)
    start = int(drawn[0] * (n - n_lost + 1))
    at = np.arange(n)
    return (at < start) | (at >= start + n_lost)


def _lose(rows: Array, kept: Array, unknown: int) -> Array:
    if rows.ndim == 1:  # word pieces; what opens and closes a sentence stays
        inside = np.ones(len(rows), bool)
        inside[[0, -1] if len(rows) else []] = False
        return np.where(inside & ~kept, unknown, rows)
    return rows * kept[:, None]


def _whole(utterances: Sequence[Utterance], rate: float, seed: int) -> list[Utterance]:
    drawn = np.random.default_rng(seed).random((len(utterances), len(MODALITIES)))
    out = []
    for u, own in zip(utterances, drawn, strict=True):
        there = [k for k, m in enumerate(MODALITIES) if len(getattr(u, m))]
        lost = [k for k in there if own[k] < rate]
        if there and len(lost) == len(there):
            lost.remove(max(lost, key=lambda k: own[k]))
        changed = {MODALITIES[k]: getattr(u, MODALITIES[k])[:0] for k in lost}
        if "audio" in changed:
            changed["audio_embedding"] = no_embedding()
        out.append(replace(u, **changed))
    return out


def _noisy(rows: list[Array], rate: float, rng: np.random.Generator) -> list[Array]:
    if rows[0].ndim == 1:
        pieces = np.concatenate([r[1:-1] for r in rows])
        return [_swapped(r, pieces, rate, rng) for r in rows]
    every = np.concatenate(rows)
    told = every[every.any(axis=1)]  # not padding
    if not len(told):
        return rows
    deviation = rate * told.std(axis=0)
    out = []
    for own in rows:
        there: Array = np.any(own, axis=1, keepdims=True)
        out.append((own + deviation * rng.standard_normal(own.shape) * there).astype(own.dtype))
    return out


def _swapped(pieces: Array, known: Array, rate: float, rng: np.random.Generator) -> Array:
    swap: Array = rng.random(len(pieces)) < rate
    swap[[0, -1] if len(pieces) else []] = False
    others = rng.choice(known, len(pieces)) if len(known) else pieces
    return np.where(swap, others, pieces)
