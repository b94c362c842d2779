"""Data sets that bring ready feature rows: what they have in common once their file is read."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .labels import EMOTIONS, SPLITS, DataError
from .utterance import Utterance

__all__ = ["SCALE", "Features", "Split", "checked_rows", "make_finite", "table_of", "unpadded"]

SCALE = 3.0  # sentiments lie in [-3, 3] here


@dataclass(frozen=True, kw_only=True)
class Split:
    """The n utterances of a split.

    `rows`: by modality, rows (T, D) or word pieces (T,) for each utterance, as one array or as a
    list of arrays; `kept` (n, 2): from where to where they are not padding. `emotion` (n,) class or
    -1, `sentiment` (n,) in [-3, 3] or NaN; `own_sentiment` (n, 3): that of text, audio and vision,
    each rated by itself. `n_not_finite`: how many values were NaN or infinite, and are 0.
    """

    ids: Sequence[str]
    rows: Mapping[str, Any]
    kept: Mapping[str, NDArray[np.int64]]
    emotion: NDArray[np.int64]
    sentiment: NDArray[np.float32]
    own_sentiment: NDArray[np.float32] | None = None
    n_not_finite: int = 0

    @classmethod
    def of_classes(
        cls, ids: Sequence[str], rows: Mapping[str, Any], emotion: NDArray[np.int64]
    ) -> "Split":
        """Utterances of classes alone; values that are not finite become 0 in place, and zero
        rows at either end are padding."""
        n_bad = sum(make_finite(array) for array in rows.values())
        kept = {m: unpadded(array) for m, array in rows.items()}
        unrated = np.full(len(ids), np.nan, np.float32)
        return cls(
            ids=ids, rows=rows, kept=kept, emotion=emotion, sentiment=unrated, n_not_finite=n_bad
        )

    def utterance(self, index: int, padded: bool) -> Utterance:
        """One sample, its arrays copied out as the model wants them."""
        taken: dict[str, Any] = {}
        for m, rows in self.rows.items():
            begin, end = (0, len(rows[index])) if padded else self.kept[m][index]
            kind = np.float32 if rows[index].ndim == 2 else np.int64
            taken[m] = rows[index][begin:end].astype(kind)
        own: Any = None if self.own_sentiment is None else tuple(self.own_sentiment[index].tolist())
        return Utterance(
            **taken,
            emotion=int(self.emotion[index]),
            sentiment=float(self.sentiment[index]),
            own_sentiment=own,
            id=self.ids[index],
        )


class Features:
    """A data set in memory. `dims`, `lengths`: width and stored steps of each modality; `classes`:
    names of the classes; `scale`: the largest sentiment in the file's own unit; `n_not_finite`:
    how many feature values were NaN or infinite and count as 0.

    `padded` passes rows as they are stored, zero padding included (the published model takes it
    for data); else padding is cut off, and a modality that is all zero is absent. Raises DataError
    where the splits do not fit each other.
    """

    def __init__(
        self,
        path: Path,
        splits: Mapping[str, Split],
        *,
        padded: bool,
        seed: int,
        classes: tuple[str, ...] = EMOTIONS,
        scale: float = SCALE,
    ) -> None:
        self._padded, self._seed, self._splits = padded, seed, splits
        self.classes, self.scale = classes, scale
        for split, found in splits.items():
            if not len(found.ids):
                raise DataError(f"{path}: {split} has no utterances")
        train = splits["train"]
        self.n_training = len(train.ids)
        self.dims = {m: _shape(r)[-1] for m, r in train.rows.items() if len(_shape(r)) == 2}
        self.lengths = {m: _shape(rows)[0] for m, rows in train.rows.items()}
        for split, found in splits.items():
            for m, rows in found.rows.items():
                if _shape(rows) != _shape(train.rows[m]):
                    raise DataError(
                        f"{path}: {split}/{m} has shape {(len(rows), *_shape(rows))}, train/{m} "
                        f"{(self.n_training, *_shape(train.rows[m]))}; all splits need the same "
                        "steps and widths"
                    )
        self.n_not_finite = sum(found.n_not_finite for found in splits.values())

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
class _Utterances:
    """A split that can be gone through again and again."""

    split: Split
    padded: bool

    def __iter__(self) -> Iterator[Utterance]:
        return (self.split.utterance(k, self.padded) for k in range(len(self.split.ids)))


def _shape(rows: Any) -> tuple[int, ...]:
    """Steps and width of every utterance; of a list of arrays, whose steps differ, 0 and width."""
    return tuple(rows.shape[1:]) if isinstance(rows, np.ndarray) else (0, rows[0].shape[-1])


def table_of(content: Any, split: str, path: Path, needed: Sequence[str]) -> Mapping[str, Any]:
    """A split as a file of splits has it, with all that is needed. Raises DataError."""
    where = f"{path}: {split}"
    if not isinstance(content, dict) or not isinstance(content.get(split), dict):
        raise DataError(f"{where}: no such split in the file; it needs {', '.join(SPLITS)}")
    table: Mapping[str, Any] = content[split]
    if missing := [name for name in needed if name not in table]:
        raise DataError(
            f"{where}: lacks {', '.join(missing)}; docs/from-mmsa.md says which --data-format a "
            "file needs"
        )
    return table


def checked_rows(values: Any, where: str, n: int) -> NDArray[Any]:
    """`values` as an array (n, steps, width); raises DataError where they are no such numbers."""
    array = np.asarray(values)
    if array.ndim != 3 or len(array) != n or 0 in array.shape or array.dtype.kind not in "fiu":
        raise DataError(
            f"{where} has shape {array.shape} of {array.dtype}, not numbers ({n}, steps, width)"
        )
    return array


def make_finite(arrays: Any) -> int:
    """Set NaN and infinite values to 0 (the published loader: -inf in audio); returns how many.

    It goes utterance by utterance, so that no second copy of the file is in memory.
    """
    n = 0
    for rows in arrays:
        bad = ~np.isfinite(rows)
        if bad.any():
            rows[bad] = 0.0
            n += int(bad.sum())
    return n


def unpadded(arrays: Any) -> NDArray[np.int64]:
    """(n, 2): the first row of each utterance that is not all zero, and the one after the last;
    both 0 where all are."""
    found = [np.flatnonzero(rows.any(axis=1)) for rows in arrays]
    return np.array([(here[0], here[-1] + 1) if len(here) else (0, 0) for here in found], np.int64)
