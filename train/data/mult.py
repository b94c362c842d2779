"""Feature pickles in the layout of MulT: IEMOCAP of four emotions, UR-FUNNY and MUStARD.

`train`, `valid` and `test` each have `text`, `audio` and `vision` (n, steps, width), padded with
zero rows, `labels` and perhaps `id`.

| File | Source of the layout | Labels |
| --- | --- | --- |
| `iemocap_data.pkl`, `iemocap_data_noalign.pkl` | github.com/yaohungt/Multimodal-Transformer, `src/dataset.py`, `src/eval_metrics.py` | (n, 4, 2): no or yes for neutral, happy, sad, angry |
| `humor.pkl` (UR-FUNNY), `sarcasm.pkl` (MUStARD) | github.com/pliang279/MultiBench, `datasets/affect/get_data.py` | (n, 1) or (n, 1, 1): 0 or -1 for no, 1 for yes |

IEMOCAP's utterances that have none of the four emotions, or several, count as unlabelled.
"""  # noqa: E501

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .features import Features, Split, checked_rows, table_of
from .labels import SPLITS, UNKNOWN, DataError
from .pickles import read_pickle

__all__ = ["NO_OR_YES", "mult"]

NO_OR_YES = ("no", "yes")
_IEMOCAP = ("neutral", "happiness", "sadness", "anger")
_NEEDED = ("text", "audio", "vision", "labels")


def mult(path: Path, *, padded: bool, seed: int) -> Features:
    """The data set in one file. Raises DataError."""
    content = read_pickle(path)
    splits, classes = {}, set[tuple[str, ...]]()
    for name in SPLITS:
        where = f"{path}: {name}"
        table = table_of(content, name, path, _NEEDED)
        emotion, named = _labels(np.asarray(table["labels"]), where)
        rows = {
            m: checked_rows(table[m], f"{where}/{m}", len(emotion))
            for m in ("text", "audio", "vision")
        }
        splits[name] = Split.of_classes(_ids(table, name, len(emotion)), rows, emotion)
        classes.add(named)
    if len(classes) > 1:
        raise DataError(f"{path}: splits differ in what their labels are; take one data set's")
    return Features(path, splits, padded=padded, seed=seed, classes=classes.pop())


def _labels(labels: NDArray[Any], where: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """(n,) classes or -1, and what the classes are called."""
    numbers = labels.dtype.kind in "fiub"
    if numbers and labels.shape[1:] == (len(_IEMOCAP), 2):
        yes = labels.argmax(axis=2)
        return np.where(yes.sum(axis=1) == 1, yes.argmax(axis=1), UNKNOWN), _IEMOCAP
    one_each = labels.ndim > 0 and labels.size == len(labels)
    if numbers and one_each and set(np.unique(labels)) in ({0, 1}, {-1, 1}, {0}, {1}, {-1}):
        return (labels.reshape(-1) > 0).astype(np.int64), NO_OR_YES
    raise DataError(
        f"{where}/labels of shape {labels.shape}: expected (n, 4, 2) of IEMOCAP, or (n, 1) of two "
        "classes, 1 and 0 or -1; MOSI and MOSEI are read from MMSA's files"
    )


def _ids(table: Mapping[str, Any], split: str, n: int) -> list[str]:
    """Names of the utterances, numbers where the file has none."""
    found = list(table.get("id", ()))
    if len(found) != n:
        return [f"{split}_{k}" for k in range(n)]
    return ["_".join(_text(part) for part in np.ravel(name).tolist()) for name in found]


def _text(part: Any) -> str:
    return part.decode(errors="replace") if isinstance(part, bytes) else str(part)
