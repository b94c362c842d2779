"""Dialogues with one vector of each modality for every utterance: IEMOCAP and MELD.

A pickle is a tuple of dictionaries by dialogue, whose values have one entry for each utterance:

| File | Content | Source of the layout |
| --- | --- | --- |
| `IEMOCAP_features.pkl`, `IEMOCAP_features_raw.pkl` | 9: ids, speakers, labels, text, audio, vision, sentences, training dialogues, test dialogues | github.com/hujingwen6666/MMGCN, `dataloader.py` |
| `MELD_features_raw1.pkl` | 10: the same, and one that is not read | the same file |
| `MELD_features_raw.pkl` | 9: ids, speakers, labels, text, audio, sentences, training dialogues, test dialogues, sentiments; no vision | github.com/declare-lab/conv-emotion, `DialogueRNN/dataloader.py` |

The files have no validation split: every tenth training dialogue is one, by its name. An utterance
is one step long, and is seen without those before it.
"""  # noqa: E501

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .features import Features, Split
from .labels import EMOTIONS, DataError
from .pickles import read_pickle

__all__ = ["dialogues"]

# In the order of the labels: conv-emotion, `DialogueRNN/dataloader.py`.
_IEMOCAP = ("happiness", "sadness", "neutral", "anger", "excitement", "frustration")
_MELD = ("neutral", "surprise", "fear", "sadness", "happiness", "disgust", "anger")
_EVERY = 10  # training dialogues, of which one is for validation


def dialogues(path: Path, *, seed: int) -> Features:
    """The data set in one file. Raises DataError."""
    content = _content(read_pickle(path), path)
    splits = {name: _split(content, keys, path) for name, keys in content.keys.items()}
    classes = _IEMOCAP if content.classes == _IEMOCAP else EMOTIONS
    return Features(path, splits, padded=False, seed=seed, classes=classes)


@dataclass(frozen=True)
class _Content:
    """The parts of a file that are read; `keys`: the dialogues of each split."""

    classes: tuple[str, ...]
    labels: Mapping[Any, Any]
    rows: Mapping[str, Mapping[Any, Any]]
    keys: Mapping[str, list[Any]]


def _content(parts: Any, path: Path) -> _Content:
    """Which of the three layouts it is, told by the number of parts and where the sentences are."""
    n = len(parts) if isinstance(parts, tuple | list) else 0
    if n not in (9, 10) or not all(isinstance(part, dict) and part for part in parts[2:6]):
        raise DataError(
            f"{path}: not a tuple of 9 or 10 parts by dialogue; docs/from-mmsa.md says which "
            "--data-format a file needs"
        )
    rows = {"text": parts[3], "audio": parts[4], "vision": parts[5]}
    classes, trained, tested = (_IEMOCAP if n == 9 else _MELD), parts[7], parts[8]
    if _is_text(parts[5]):
        del rows["vision"]
        classes, trained, tested = _MELD, parts[6], parts[7]
    if not all(isinstance(names, list | tuple | set) and names for names in (trained, tested)):
        raise DataError(f"{path}: no lists of training and test dialogues where they should be")
    ordered = sorted(trained, key=str)
    valid = ordered[_EVERY - 1 :: _EVERY] or ordered[-1:]
    keys = {
        "train": [name for name in ordered if name not in valid],
        "valid": valid,
        "test": sorted(tested, key=str),
    }
    if set(trained) & set(tested):
        raise DataError(f"{path}: a dialogue is in training and in test; take the published file")
    return _Content(classes, parts[2], rows, keys)


def _is_text(part: Mapping[Any, Any]) -> bool:
    return all(isinstance(sentence, str) for sentence in next(iter(part.values())))


def _split(content: _Content, keys: list[Any], path: Path) -> Split:
    """The utterances of these dialogues, in order."""
    names = [f"{key}_{k}" for key in keys for k in range(len(_of(content.labels, key, path)))]
    labels = np.array([int(v) for key in keys for v in content.labels[key]], np.int64)
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(content.classes):
        wrong = labels[(labels < 0) | (labels >= len(content.classes))][0]
        raise DataError(f"{path}: label {wrong}; there are 0 to {len(content.classes) - 1}")
    rows = {
        m: _vectors([v for key in keys for v in _of(table, key, path)], len(labels), f"{path}: {m}")
        for m, table in content.rows.items()
    }
    rows.setdefault("vision", np.zeros((len(labels), 1, 1), np.float32))  # nobody is seen
    if content.classes == _MELD:
        labels = np.array([EMOTIONS.index(name) for name in _MELD])[labels]
    return Split.of_classes(names, rows, labels)


def _of(table: Mapping[Any, Any], key: Any, path: Path) -> Any:
    if key not in table:
        raise DataError(f"{path}: dialogue {key} is not in all parts; copy the file again")
    return table[key]


def _vectors(values: Iterable[Any], n: int, where: str) -> NDArray[np.float32]:
    """(n, 1, width), one vector for each utterance."""
    try:
        found = np.array([np.asarray(v, np.float32).reshape(-1) for v in values], np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: vectors of different widths, or no numbers") from error
    if found.ndim != 2 or len(found) != n or not found.shape[1]:
        raise DataError(f"{where}: {found.shape} for {n} labels, not one vector for each")
    return found[:, None]
