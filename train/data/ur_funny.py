"""UR-FUNNY as its authors publish it: a folder of six pickles by the id of a segment.

Layout: github.com/ROC-HCI/UR-FUNNY, `README.md` and `humor_dataloader.ipynb` (version 2).

| File | Content |
| --- | --- |
| `data_folds.pkl` | lists of ids: `train`, `dev`, `test` |
| `word_embedding_list.pkl` | one vector (300) for each word |
| `language_sdk.pkl` | `punchline_embedding_indexes`: indices of its words |
| `covarep_features_sdk.pkl` | `punchline_features` (words, 81) |
| `openface_features_sdk.pkl` | `punchline_features` (words, 371) |
| `humor_label_sdk.pkl` | 1 for humour, else 0 |

The punchline is read. The context before it is not.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .features import Features, Split
from .labels import DataError
from .mult import NO_OR_YES
from .pickles import read_pickle

__all__ = ["ur_funny"]

_FOLDS = {"train": "train", "valid": "dev", "test": "test"}
_FILES = ("data_folds", "word_embedding_list", "language_sdk", "covarep_features_sdk",
          "openface_features_sdk", "humor_label_sdk")  # fmt: skip
_FEATURES = {"audio": ("covarep_features_sdk", 81), "vision": ("openface_features_sdk", 371)}


def ur_funny(folder: Path, *, seed: int) -> Features:
    """The data set in a folder. Raises DataError."""
    if missing := [name for name in _FILES if not (folder / f"{name}.pkl").is_file()]:
        raise DataError(f"{folder}: no {missing[0]}.pkl; pass the folder of UR-FUNNY's six pickles")
    content = {name: read_pickle(folder / f"{name}.pkl") for name in _FILES}
    try:
        words = np.array(content["word_embedding_list"], np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"{folder / 'word_embedding_list.pkl'}: not one vector a word") from error
    folds = content["data_folds"]
    if not isinstance(folds, dict) or not set(_FOLDS.values()) <= folds.keys():
        raise DataError(f"{folder / 'data_folds.pkl'}: lacks {', '.join(_FOLDS.values())}")
    splits = {split: _split(content, words, folds[fold], folder) for split, fold in _FOLDS.items()}
    return Features(folder, splits, padded=False, seed=seed, classes=NO_OR_YES)


def _split(
    content: Mapping[str, Any], words: NDArray[np.float32], ids: list[Any], folder: Path
) -> Split:
    """The punchlines of these segments; `words` (n, 300): the vector of each word."""
    rows: dict[str, list[NDArray[np.float32]]] = {"text": [], "audio": [], "vision": []}
    labels = []
    for name in ids:
        try:
            chosen = content["language_sdk"][name]["punchline_embedding_indexes"]
            rows["text"].append(words[np.asarray(chosen, np.int64)])
            for m, (file, width) in _FEATURES.items():
                rows[m].append(_rows(content[file][name]["punchline_features"], width))
            labels.append({0: 0, 1: 1}[int(content["humor_label_sdk"][name])])
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise DataError(
                f"{folder}: segment {name} is not complete ({error!r}); unpack UR-FUNNY's version 2"
            ) from error
    return Split.of_classes([str(name) for name in ids], rows, np.array(labels, np.int64))


def _rows(values: Any, width: int) -> NDArray[np.float32]:
    """(words, width); raises ValueError for anything else."""
    found = np.array(values, np.float32)
    if not found.size:
        return np.zeros((0, width), np.float32)
    if found.shape != (len(found), width):
        raise ValueError(f"shape {found.shape} is not (words, {width})")
    return found
