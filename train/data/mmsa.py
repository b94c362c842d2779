"""CMU-MOSI, CMU-MOSEI and CH-SIMS as the feature pickles of MMSA.

Layout: github.com/thuiar/MMSA, `src/MMSA/data_loader.py`; `config/config_regression.json` has the
names (`aligned_50.pkl`, `unaligned_50.pkl`, CH-SIMS `unaligned_39.pkl`, v2 `sims_unaligned.pkl`).
The v2 files of github.com/thuiar/ch-sims-v2, `data/load_data.py`, are the same; their `train_mix`
of unlabelled utterances is not read.

CH-SIMS rates the whole utterance, and text, audio and vision each by itself, in [-1, 1]
(`regression_labels`, `regression_labels_T`, `_A`, `_V`). Times 3, ratings are on the scale that
everything here has.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .corpora import EMOTIONS, SPLITS, DataError
from .features import SCALE, Features, Split, checked_rows, make_finite, table_of
from .pickles import read_pickle

__all__ = ["Mmsa"]

_SIX = ("happiness", "sadness", "anger", "surprise", "disgust", "fear")  # MOSEI's order
_KNOWN = {(5, 20): "mosi", (74, 35): "mosei", (33, 709): "sims"}  # widths of audio and vision
_OWN = ("regression_labels_T", "regression_labels_A", "regression_labels_V")
_SIMS_SCALE = 1.0

_FEW = 20  # fewer labels of MOSI can all be small


class Mmsa(Features):
    """One pickle. `bert` gives the word pieces of `text_bert`, padded with 0, instead of the
    vectors of `text`. Raises DataError."""

    def __init__(self, path: Path, *, bert: bool, padded: bool, seed: int) -> None:
        content = read_pickle(path)
        text = "text_bert" if bert else "text"
        needed = ("audio", "id", "regression_labels", text, "vision")
        tables = {split: table_of(content, split, path, needed) for split in SPLITS}
        rated_alone = [split for split, table in tables.items() if _rated_alone(table)]
        if 0 < len(rated_alone) < len(SPLITS):
            raise DataError(f"{path}: only {rated_alone[0]} has {', '.join(_OWN)}; all splits must")
        scale = _SIMS_SCALE if rated_alone else SCALE
        splits = {
            split: _split(table, f"{path}: {split}", bert=bert, scale=scale)
            for split, table in tables.items()
        }
        train = splits["train"].sentiment
        if scale == SCALE and np.abs(train).max(initial=0.0) <= 1.0 and len(train) >= _FEW:
            raise DataError(
                f"{path}: all labels of train lie in [-1, 1], the scale of CH-SIMS, which also has "
                f"{', '.join(_OWN)}; take a file with them, or one of MOSI or MOSEI"
            )
        super().__init__(path, splits, padded=padded, seed=seed, scale=scale)
        self.aligned = len(set(self.lengths.values())) == 1
        self.dataset = _KNOWN.get((self.dims["audio"], self.dims["vision"]), "custom")


def _split(table: Mapping[str, Any], where: str, *, bert: bool, scale: float) -> Split:
    """Check and take one split; feature values that are not finite become 0 in place."""
    text = "text_bert" if bert else "text"
    sentiment = _labels(table, "regression_labels", where, scale)
    n = len(sentiment)
    rows = {m: checked_rows(table[m], f"{where}/{m}", n) for m in ("audio", "vision")}
    words = checked_rows(table[text], f"{where}/{text}", n)
    if bert and words.shape[1] != 3:
        raise DataError(f"{where}/text_bert has shape {words.shape}, expected ({n}, 3, steps)")
    ids = [str(name) for name in np.asarray(table["id"]).reshape(-1).tolist()]
    if len(ids) != n:
        raise DataError(f"{where}/id: {len(ids)} entries for {n} labels")
    n_bad = sum(make_finite(a) for a in (*rows.values(), *([] if bert else [words])))
    pieces = words[:, 0].astype(np.int64) if bert else words
    rows = {"text": pieces, **rows}
    ends = {m: _lengths(table, m, a, f"{where}/{m}") for m, a in rows.items()}
    return Split(
        ids=ids,
        rows=rows,
        kept={m: np.stack([np.zeros_like(end), end], axis=1) for m, end in ends.items()},
        emotion=_emotions(table, n, where),
        sentiment=sentiment,
        own_sentiment=_own_labels(table, n, where) if scale == _SIMS_SCALE else None,
        n_not_finite=n_bad,
    )


def _rated_alone(table: Mapping[str, Any]) -> bool:
    """Whether each modality has labels. MMSA-FET writes NaN for data sets that lack them."""
    try:
        found = [np.asarray(table.get(name, np.nan), np.float64) for name in _OWN]
    except (TypeError, ValueError):
        return True  # not numbers, which is said when they are read
    return not any(np.isnan(labels).all() for labels in found)


def _own_labels(table: Mapping[str, Any], n: int, where: str) -> NDArray[np.float32]:
    """(n, 3) in [-3, 3]: what text, audio and vision of CH-SIMS are rated by themselves."""
    found = [_labels(table, name, where, _SIMS_SCALE) for name in _OWN]
    for name, labels in zip(_OWN, found, strict=True):
        if len(labels) != n:
            raise DataError(f"{where}/{name}: {len(labels)} entries for {n} regression_labels")
    return np.stack(found, axis=1)


def _labels(table: Mapping[str, Any], name: str, where: str, scale: float) -> NDArray[np.float32]:
    """(n,) in [-3, 3], of ratings in [-scale, scale]."""
    try:
        labels = np.asarray(table[name], np.float32).reshape(-1)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}/{name}: not numbers") from error
    wrong = np.flatnonzero(~(np.abs(labels) <= scale))
    if len(wrong):
        raise DataError(
            f"{where}/{name}: row {wrong[0]} is {labels[wrong[0]]}, outside "
            f"[-{scale:g}, {scale:g}] ({len(wrong)} such rows)"
        )
    return labels * np.float32(SCALE / scale)


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
