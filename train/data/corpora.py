"""Readers of the corpora's own folder layouts, below one data folder.

| Folder | Modality | Layout |
| --- | --- | --- |
| `goemotions/ekman` | text | `train.tsv`, `dev.tsv`, `test.tsv`: text, label ids, comment id |
| `meld` | text | `train_sent_emo.csv`, `dev_sent_emo.csv`, `test_sent_emo.csv` |
| `vader` | text | `*_GroundTruth.txt`: id, mean rating in [-4, 4], text |
| `mosi`, `mosei` | text | `label.csv`: columns text, label in [-3, 3], mode (train, valid, test) |
| `emobank` | text | `emobank.csv`: columns V and A in [1, 5], text, split |
| `emodb` | audio | `SSxxxEv.flac`: speaker, sentence, emotion letter, version |
| `ravdess` | audio | `MM-CC-EE-II-SS-RR-AA.flac`: emotion third, actor last |
| `nemo` | audio | `data.tsv`: file_id, emotion, speaker_id; sound beside it |
| `digits` | audio | `DIGIT_SPEAKER_NUMBER.flac`: ordinary people, three to six digits joined |
| `plain` | audio | `VOICE_NUMBER.wav`: a synthesiser's, see `train/data/plain.py` |
| `ckplus48` | vision | `emotion/SUBJECT_*.png`, 48x48 grey |
| `ferplus` | vision | `FER2013Train/`, `FER2013Valid/`: `label.csv` with file, box and ten votes |

A corpus whose folder is missing is left out; a modality without any of its corpora is an error.
Splits are the publishers' where they exist, else by person, so that nobody is in two of them.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from . import read_recordings, read_texts
from .labels import (
    EMOTIONS,
    NEUTRAL,
    SPLITS,
    UNKNOWN,
    VOTES,
    DataError,
    Recording,
    Text,
    split_by_hash,
)
from .read_recordings import ferplus

__all__ = [
    "CORPORA",
    "EMOTIONS",
    "NEUTRAL",
    "SPLITS",
    "VOTES",
    "DataError",
    "Recording",
    "Text",
    "faces",
    "ferplus",
    "missing",
    "people",
    "split_by_hash",
    "texts",
    "voices",
]

# Folder of each corpus.
CORPORA = {
    "goemotions": "goemotions/ekman",
    "meld": "meld",
    "vader": "vader",
    "mosi": "mosi",
    "mosei": "mosei",
    "emobank": "emobank",
    "emodb": "emodb",
    "ravdess": "ravdess",
    "nemo": "nemo",
    "digits": "digits",
    "plain": "plain",
    "ckplus48": "ckplus48",
    "ferplus": "ferplus",
}


def missing(data: Path, only: Collection[str] = tuple(CORPORA)) -> list[str]:
    """One line per corpus of `only` that is not below `data` and is therefore left out."""
    folders = [data / folder for name, folder in CORPORA.items() if name in only]
    return [f"{folder}: not there, left out" for folder in folders if not folder.is_dir()]


def texts(data: Path, only: Collection[str] = tuple(CORPORA)) -> list[Text]:
    """All sentences of these corpora. Raises DataError for a malformed row."""
    readers = {
        "goemotions": read_texts.goemotions,
        "meld": read_texts.meld,
        "vader": read_texts.vader,
        "mosi": lambda folder: read_texts.mosi(folder, "mosi"),
        "mosei": lambda folder: read_texts.mosi(folder, "mosei"),
        "emobank": read_texts.emobank,
    }
    return _read(readers, data, only, "text")


def voices(data: Path, only: Collection[str] = tuple(CORPORA)) -> list[Recording]:
    """All clips of these corpora whose emotion is one of the seven."""
    readers = {
        "emodb": read_recordings.emodb,
        "ravdess": read_recordings.ravdess,
        "nemo": read_recordings.nemo,
        "digits": read_recordings.digits,
        "plain": read_recordings.plain,
    }
    return _read(readers, data, only, "audio")


def faces(data: Path, only: Collection[str] = tuple(CORPORA)) -> list[Recording]:
    """All pictures of ckplus48 and ferplus whose emotion, or commonest vote, is one of the seven
    (contempt is not)."""
    found: list[Recording] = _read(
        {"ckplus48": read_recordings.ckplus48, "ferplus": read_recordings.ferplus},
        data,
        only,
        "vision",
    )
    return [recording for recording in found if recording.emotion != UNKNOWN]


def people(data: Path, only: Collection[str] = tuple(CORPORA)) -> list[tuple[str, str, str]]:
    """(corpus, person, split) of everybody who is known to be heard or seen, sorted; nobody knows
    who is in FER+."""
    known = [r for r in (*voices(data, only), *faces(data, only)) if not r.votes]
    found = {(r.corpus, r.person, r.split) for r in known}
    return sorted(found)


def _read(
    readers: Mapping[str, Callable[[Path], Iterator[Any]]],
    data: Path,
    only: Collection[str],
    modality: str,
) -> list[Any]:
    chosen = [name for name in readers if name in only]
    found = [item for name in chosen for item in readers[name](data)]
    if chosen and not found:
        names = ", ".join(CORPORA[name] for name in chosen)
        raise DataError(f"{data}: no {modality} corpus found; it may hold: {names}")
    return found
