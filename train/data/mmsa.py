"""CMU-MOSI and CMU-MOSEI as the feature pickles of MMSA (`aligned_50.pkl`, `unaligned_50.pkl`)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .corpora import EMOTIONS, SPLITS, DataError
from .pickles import read_pickle
from .utterance import Utterance

__all__ = ["Mmsa"]

_SIX = ("happiness", "sadness", "anger", "surprise", "disgust", "fear")  # MOSEI's order
_KNOWN = {(5, 20): "mosi", (74, 35): "mosei"}  # widths of audio and vision

_FEW = 20  # fewer labels of MOSI can all be small


class Mmsa:
    """One pickle. `dims`, `lengths`: width and stored steps of each modality; `n_not_finite`: how
    many feature values were NaN or infinite and count as 0.

    `padded` passes rows as they are stored, zero padding included (the published model takes it
    for data); else padding is cut off, and a modality that is all zero is absent. `bert` gives the
    word pieces of `text_bert`, padded with 0, instead of the vectors of `text`. Raises DataError.
    """

    def __init__(self, path: Path, *, bert: bool, padded: bool, seed: int) -> None:
        content = read_pickle(path)
        self._padded, self._seed = padded, seed
        self._splits = {
            split: _Split.read(content, split, path, bert=bert, padded=padded) for split in SPLITS
        }
        train = self._splits["train"]
        largest = np.nanmax(np.abs(train.sentiment), initial=0.0)
        if largest <= 1.0 and len(train.ids) >= _FEW:
            scale = "the scale of CH-SIMS; this reads MOSI and MOSEI, rated in [-3, 3]"
            raise DataError(f"{path}: all labels of train lie in [-1, 1], {scale}")
        self.n_training = len(train.ids)
        self.dims = {m: rows.shape[-1] for m, rows in train.rows.items() if rows.ndim == 3}
        self.lengths = {m: rows.shape[1] for m, rows in train.rows.items()}
        self.aligned = len(set(self.lengths.values())) == 1
        self.dataset = _KNOWN.get((self.dims["audio"], self.dims["vision"]), "custom")
        for split, found in self._splits.items():
            for m, rows in found.rows.items():
                if rows.shape[1:] != train.rows[m].shape[1:]:
                    raise DataError(
                        f"{path}: {split}/{m} has shape {rows.shape}, train/{m} "
                        f"{train.rows[m].shape}; all splits need the same steps and widths"
                    )
        self.n_not_finite = sum(found.n_not_finite for found in self._splits.values())

    def training(self, epoch: int, index: int) -> Utterance:
        """Utterance `index` of the epoch's own order."""
        order = _order(self._seed, epoch, self.n_training)
        return self._splits["train"].utterance(int(order[index]), self._padded)

    def held_out(self, split: str) -> "_Utterances":
        """A split in the file's order, made as it is read."""
        return _Utterances(self._splits[split], self._padded)


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, n: int) -> NDArray[np.intp]:
    return np.random.default_rng((seed, epoch)).permutation(n)


@dataclass(frozen=True)
class _Split:
    """Rows (n, T, D) or pieces (n, T) by modality, and how many of them are not padding."""

    ids: list[str]
    rows: dict[str, NDArray[Any]]
    n_rows: dict[str, NDArray[np.int64]]
    sentiment: NDArray[np.float32]
    emotion: NDArray[np.int64]
    n_not_finite: int

    @classmethod
    def read(cls, content: Any, split: str, path: Path, *, bert: bool, padded: bool) -> "_Split":
        """Check and take one split; feature values that are not finite become 0 in place."""
        where = f"{path}: {split}"
        if not isinstance(content, dict) or not isinstance(content.get(split), dict):
            raise DataError(f"{where}: no such split in the file; it needs {', '.join(SPLITS)}")
        table: Mapping[str, Any] = content[split]
        text = "text_bert" if bert else "text"
        missing = {"id", "regression_labels", "audio", "vision", text} - table.keys()
        if missing:
            raise DataError(f"{where}: lacks {', '.join(sorted(missing))}")
        sentiment = _labels(table["regression_labels"], where)
        n = len(sentiment)
        rows = {m: _array(table[m], f"{where}/{m}", n) for m in ("audio", "vision")}
        words = _array(table[text], f"{where}/{text}", n)
        if bert and words.shape[1] != 3:
            raise DataError(f"{where}/text_bert has shape {words.shape}, expected ({n}, 3, steps)")
        ids = [str(name) for name in np.asarray(table["id"]).reshape(-1).tolist()]
        if len(ids) != n:
            raise DataError(f"{where}/id: {len(ids)} entries for {n} labels")
        n_bad = sum(_make_finite(a) for a in (*rows.values(), *([] if bert else [words])))
        pieces = words[:, 0].astype(np.int64) if bert else words
        rows = {"text": pieces, **rows}
        lengths = {m: _lengths(table, m, a, f"{where}/{m}") for m, a in rows.items()}
        return cls(ids, rows, lengths, sentiment, _emotions(table, n, where), n_bad)

    def utterance(self, index: int, padded: bool) -> Utterance:
        """One sample, its arrays copied out as the model wants them."""
        taken: dict[str, Any] = {}
        for m, rows in self.rows.items():
            n = rows.shape[1] if padded else int(self.n_rows[m][index])
            kind = np.float32 if rows.ndim == 3 else np.int64
            taken[m] = rows[index, :n].astype(kind)
        return Utterance(
            **taken,
            emotion=int(self.emotion[index]),
            sentiment=float(self.sentiment[index]),
            id=self.ids[index],
        )


@dataclass(frozen=True)
class _Utterances:
    """A split that can be gone through again and again."""

    split: _Split
    padded: bool

    def __iter__(self) -> Iterator[Utterance]:
        return (self.split.utterance(k, self.padded) for k in range(len(self.split.ids)))


def _array(values: Any, where: str, n: int) -> NDArray[Any]:
    array = np.asarray(values)
    if array.ndim != 3 or len(array) != n or 0 in array.shape or array.dtype.kind not in "fiu":
        raise DataError(
            f"{where} has shape {array.shape} of {array.dtype}, not numbers ({n}, steps, width)"
        )
    return array


def _labels(values: Any, where: str) -> NDArray[np.float32]:
    try:
        labels = np.asarray(values, np.float32).reshape(-1)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}/regression_labels: not numbers") from error
    wrong = np.flatnonzero(~(np.abs(labels) <= 3.0))
    if len(wrong):
        raise DataError(
            f"{where}/regression_labels: row {wrong[0]} is {labels[wrong[0]]}, outside [-3, 3] "
            f"({len(wrong)} such rows)"
        )
    return labels


def _make_finite(array: NDArray[Any]) -> int:
    """Set NaN and infinite values to 0 (the published loader: -inf in audio); returns how many.

    It goes utterance by utterance, so that no second copy of the file is in memory.
    """
    n = 0
    for rows in array:
        bad = ~np.isfinite(rows)
        if bad.any():
            rows[bad] = 0.0
            n += int(bad.sum())
    return n


def _lengths(table: Mapping[str, Any], m: str, rows: NDArray[Any], where: str) -> NDArray[np.int64]:
    """(n,) rows that are not padding: as the file says, else up to the last one that is not 0."""
    if rows.ndim == 2:
        mask = np.asarray(table["text_bert"])[:, 1] != 0
    elif m in ("audio", "vision") and f"{m}_lengths" in table:
        found = np.asarray(table[f"{m}_lengths"], np.int64).reshape(-1)
        if len(found) != len(rows) or (found < 0).any() or (found > rows.shape[1]).any():
            raise DataError(
                f"{where}_lengths: must be {len(rows)} numbers from 0 to {rows.shape[1]}"
            )
        empty = np.array([not row.any() for row in rows])
        return np.where(empty, 0, np.maximum(found, 1))
    else:
        mask = np.array([row.any(axis=1) for row in rows])
    return np.where(mask.any(axis=1), mask.shape[1] - mask[:, ::-1].argmax(axis=1), 0)


def _emotions(table: Mapping[str, Any], n: int, where: str) -> NDArray[np.int64]:
    """(n,) classes: the strongest of MOSEI's six intensities, neutral where all are 0; else -1."""
    if "emotion_labels" not in table:
        return np.full(n, -1, np.int64)
    strength = np.asarray(table["emotion_labels"], np.float64)
    if strength.shape != (n, len(_SIX)) or not np.isfinite(strength).all() or (strength < 0).any():
        raise DataError(
            f"{where}/emotion_labels: expected ({n}, 6) intensities of {', '.join(_SIX)}"
        )
    classes = np.array([EMOTIONS.index(name) for name in _SIX])[strength.argmax(axis=1)]
    return np.where(strength.any(axis=1), classes, EMOTIONS.index("neutral"))
