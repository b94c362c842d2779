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

import csv
import hashlib
import html
import random
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runtime.errors import DmdLiveError

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

EMOTIONS = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")
NEUTRAL = EMOTIONS.index("neutral")
SPLITS = ("train", "valid", "test")
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
UNKNOWN = -1

_NAMES = {
    **{name: k for k, name in enumerate(EMOTIONS)},
    "joy": EMOTIONS.index("happiness"),
    "happy": EMOTIONS.index("happiness"),
    "surprised": EMOTIONS.index("surprise"),
}
_EMODB = {
    "W": "anger",
    "E": "disgust",
    "A": "fear",
    "F": "happiness",
    "T": "sadness",
    "N": "neutral",
}
# 02, calm, has no counterpart among the seven: neither neutral nor any other.
_RAVDESS = {"01": "neutral", "03": "happiness", "04": "sadness", "05": "anger", "06": "fear",
            "07": "disgust", "08": "surprise"}  # fmt: skip
# A woman and a man each for test, and one of either for validation, which leaves more to learn
# from. EmoDB: 15 is a man, 14 and 16 are women; RAVDESS: odd men, even women.
_HELD_OUT = {
    "emodb": {"14": "valid", "15": "test", "16": "test"},
    "ravdess": {"09": "valid", "11": "test", "12": "test"},
    "nemo": {"MP0": "valid", "IC0": "test", "TP0": "test"},  # a man; a woman and a man
    "digits": {"theo": "valid"},
}
# Salts the hash: the first that gives validation and test 4 people of each emotion at least. The
# unsalted one leaves a single sad person for validation.
_CKPLUS_SALT = "9"
_POLARITY = {"positive": 1.0, "neutral": 0.0, "negative": -1.0}
# Ratings in [-4, 4] to the [-3, 3] of MOSI.
_VADER_SCALE = 0.75
# Valence in [1, 5] to the [-3, 3] of MOSI. Arousal is taken as its distance from the middle, 3: no
# sentence of EmoBank is further than 1.5 from it.
_EMOBANK_SCALE = 1.5


# Columns of FER+'s label files after file and box.
VOTES = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt",
         "unknown", "not a face")  # fmt: skip
_FERPLUS = {"FER2013Train": "train", "FER2013Valid": "valid", "FER2013Test": "test"}


class DataError(DmdLiveError, ValueError):
    """A corpus is missing, or a row of it is not what its layout says."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """One sentence. `emotion`: index into EMOTIONS or -1; `rating`: human sentiment in [-3, 3] or
    None; `polarity`: -1, 0, 1 or None; `arousal`: human rating in [-1, 1] or None."""

    text: str
    emotion: int
    rating: float | None
    polarity: float | None
    split: str
    corpus: str
    arousal: float | None = None


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One sound or picture file of one person showing one emotion (index into EMOTIONS).

    `votes`: of FER+'s pictures, how many people said each of VOTES. `parts`: files that are joined
    to one sound, the first of which is `path`.
    """

    path: Path
    emotion: int
    person: str
    split: str
    corpus: str
    votes: tuple[int, ...] = ()
    parts: tuple[Path, ...] = ()


def missing(data: Path, only: Collection[str] = tuple(CORPORA)) -> list[str]:
    """One line per corpus of `only` that is not below `data` and is therefore left out."""
    folders = [data / folder for name, folder in CORPORA.items() if name in only]
    return [f"{folder}: not there, left out" for folder in folders if not folder.is_dir()]


def texts(data: Path, only: Collection[str] = tuple(CORPORA)) -> list[Text]:
    """All sentences of these corpora. Raises DataError for a malformed row."""
    readers = {
        "goemotions": _goemotions,
        "meld": _meld,
        "vader": _vader,
        "mosi": lambda folder: _mosi(folder, "mosi"),
        "mosei": lambda folder: _mosi(folder, "mosei"),
        "emobank": _emobank,
    }
    return _read(readers, data, only, "text")


def voices(data: Path, only: Collection[str] = tuple(CORPORA)) -> list[Recording]:
    """All clips of these corpora whose emotion is one of the seven."""
    readers = {
        "emodb": _emodb,
        "ravdess": _ravdess,
        "nemo": _nemo,
        "digits": _digits,
        "plain": _plain,
    }
    return _read(readers, data, only, "audio")


def faces(data: Path, only: Collection[str] = tuple(CORPORA)) -> list[Recording]:
    """All pictures of ckplus48 and ferplus whose emotion, or commonest vote, is one of the seven
    (contempt is not)."""
    found: list[Recording] = _read(
        {"ckplus48": _ckplus48, "ferplus": ferplus}, data, only, "vision"
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
        raise DataError(f"{data}: no {modality} corpus in it; it may hold: {names}")
    return found


def _emodb(data: Path) -> Iterator[Recording]:
    for path in sorted((data / "emodb").glob("*.flac")):
        if len(path.stem) != 7 or path.stem[5] not in {*_EMODB, "L"}:  # L: boredom, dropped
            raise DataError(f"{path}: not an EmoDB name (such as 03a01Fa.flac)")
        if path.stem[5] in _EMODB:
            yield _recording(path, "emodb", _EMODB[path.stem[5]], path.stem[:2])


def _ravdess(data: Path) -> Iterator[Recording]:
    for path in sorted((data / "ravdess").glob("*.flac")):
        fields = path.stem.split("-")
        if len(fields) != 7 or fields[2] not in {*_RAVDESS, "02"}:
            raise DataError(f"{path}: not a RAVDESS name (such as 03-01-05-01-01-01-12.flac)")
        if fields[2] in _RAVDESS:
            yield _recording(path, "ravdess", _RAVDESS[fields[2]], fields[6])


def _nemo(data: Path) -> Iterator[Recording]:
    path = data / "nemo" / "data.tsv"
    if not path.exists():
        return
    with path.open(encoding="utf-8", newline="") as rows:
        for n, row in enumerate(csv.DictReader(rows, delimiter="\t"), 2):
            try:
                clip, emotion, person = row["file_id"], row["emotion"], row["speaker_id"]
                yield _recording(path.parent / clip, "nemo", emotion, person)
            except (KeyError, TypeError) as error:
                raise DataError(f"{path}:{n}: unknown or missing {error}") from error


def _digits(data: Path) -> Iterator[Recording]:
    """Each person's digits in a shuffled order, three to six a time, all of them twice."""
    by_person: dict[str, list[Path]] = {}
    for path in sorted((data / "digits").glob("*.flac")):
        fields = path.stem.split("_")
        if len(fields) != 3:
            raise DataError(f"{path}: not a name of a digit (such as 7_jackson_32.flac)")
        by_person.setdefault(fields[1], []).append(path)
    for person, paths in by_person.items():
        rng = random.Random(person)
        for _ in range(2):
            rng.shuffle(paths)
            rest = list(paths)
            while len(rest) >= 3:
                n = rng.randint(3, 6)
                parts, rest = tuple(rest[:n]), rest[n:]
                recording = _recording(parts[0], "digits", "neutral", person)
                yield replace(recording, parts=parts)


def _plain(data: Path) -> Iterator[Recording]:
    for path in sorted((data / "plain").glob("*_*.wav")):
        voice = path.stem.split("_")[0]
        recording = _recording(path, "plain", "neutral", voice)
        yield replace(recording, split=split_by_hash(voice))


def _ckplus48(data: Path) -> Iterator[Recording]:
    for folder in sorted((data / "ckplus48").glob("*")):
        if folder.name in _NAMES:
            for path in sorted(folder.glob("*.png")):
                yield _recording(path, "ckplus48", folder.name, path.stem.split("_")[0])


def ferplus(data: Path) -> Iterator[Recording]:
    """All pictures of ferplus; the emotion is the most frequent of its votes, UNKNOWN where that is
    none of the seven. Nobody knows who is in them: each picture is a person of its own. Half of the
    validation pictures are for testing, for those that are meant for it may not be there."""
    for folder, split in _FERPLUS.items():
        path = data / "ferplus" / folder / "label.csv"
        if not path.exists():
            continue
        with path.open(encoding="utf-8", newline="") as rows:
            for n, row in enumerate(csv.reader(rows), 1):
                counts = row[2:]
                if len(counts) != len(VOTES) or not all(c.isdigit() for c in counts):
                    raise DataError(f"{path}:{n}: expected file, box and {len(VOTES)} vote counts")
                votes = tuple(int(count) for count in counts)
                halved = split == "valid" and split_by_half(row[0]) == "test"
                yield Recording(
                    path=path.parent / row[0],
                    emotion=_NAMES.get(VOTES[votes.index(max(votes))], UNKNOWN),
                    person=row[0],
                    split="test" if halved else split,
                    corpus="ferplus",
                    votes=votes,
                )


def _goemotions(data: Path) -> Iterator[Text]:
    names = None
    for split, file in zip(SPLITS, ("train", "dev", "test"), strict=True):
        path = data / "goemotions" / "ekman" / f"{file}.tsv"
        if not path.exists():
            continue
        names = names or (path.parent / "labels.txt").read_text(encoding="utf-8").split()
        for n, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            fields = line.split("\t")
            labels = fields[1].split(",") if len(fields) == 3 else []
            if not labels or not all(x.isdigit() and int(x) < len(names) for x in labels):
                raise DataError(f"{path}:{n}: expected text, label ids and comment id")
            # A sentence with two emotions teaches each, and is no test of either.
            for label in labels if len(labels) == 1 or split == "train" else ():
                yield Text(
                    text=fields[0],
                    emotion=_NAMES[names[int(label)]],
                    rating=None,
                    polarity=None,
                    split=split,
                    corpus="goemotions",
                )


def _meld(data: Path) -> Iterator[Text]:
    for split, file in zip(SPLITS, ("train", "dev", "test"), strict=True):
        path = data / "meld" / f"{file}_sent_emo.csv"
        if not path.exists():
            continue
        with path.open(encoding="utf-8", newline="") as rows:
            for n, row in enumerate(csv.DictReader(rows), 2):
                try:
                    yield Text(
                        text=row["Utterance"],
                        emotion=_NAMES[row["Emotion"]],
                        rating=None,
                        polarity=_POLARITY[row["Sentiment"]],
                        split=split,
                        corpus="meld",
                    )
                except KeyError as error:
                    raise DataError(f"{path}: row {n}: unknown or missing {error}") from error


def _vader(data: Path) -> Iterator[Text]:
    for path in sorted((data / "vader").glob("*_GroundTruth.txt")):
        for n, line in enumerate(
            path.read_text(encoding="utf-8", errors="replace").splitlines(), 1
        ):
            fields = line.split("\t", 2)
            try:
                rating = float(fields[1])
                text = html.unescape(fields[2])  # tweets hold "&amp;"; nobody says "amp"
            except (IndexError, ValueError) as error:
                raise DataError(f"{path}:{n}: expected id, rating and text") from error
            if not -4.0 <= rating <= 4.0:
                raise DataError(f"{path}:{n}: rating {rating} is outside [-4, 4]")
            # Ids such as 12_3 are sentences of one document, which stays in one split.
            document = f"{path.name} {fields[0].split('_')[0]}" if "_" in fields[0] else text
            yield Text(
                text=text,
                emotion=UNKNOWN,
                rating=_VADER_SCALE * rating,
                polarity=None,
                split=split_by_hash(document),
                corpus=f"vader/{path.name.split('_')[0]}",
            )


def _mosi(data: Path, corpus: str) -> Iterator[Text]:
    path = data / corpus / "label.csv"
    if not path.exists():
        return
    with path.open(encoding="utf-8", newline="") as rows:
        for n, row in enumerate(csv.DictReader(rows), 2):
            try:
                text, rating, split = row["text"], float(row["label"]), row["mode"]
            except (KeyError, ValueError, TypeError) as error:
                raise DataError(f"{path}:{n}: expected columns text, label and mode") from error
            if not -3.0 <= rating <= 3.0 or split not in SPLITS:
                raise DataError(f"{path}:{n}: rating {rating} or mode {split!r} is out of range")
            yield Text(
                text=text,
                emotion=UNKNOWN,
                rating=rating,
                polarity=None,
                split=split,
                corpus=corpus,
            )


def _emobank(data: Path) -> Iterator[Text]:
    path = data / "emobank" / "emobank.csv"
    if not path.exists():
        return
    splits = {"train": "train", "dev": "valid", "test": "test"}
    with path.open(encoding="utf-8", newline="") as rows:
        for n, row in enumerate(csv.DictReader(rows), 2):
            try:
                valence, arousal, split = float(row["V"]), float(row["A"]), splits[row["split"]]
            except (KeyError, ValueError, TypeError) as error:
                raise DataError(f"{path}:{n}: expected columns split, V, A and text") from error
            yield Text(
                text=row["text"],
                emotion=UNKNOWN,
                rating=min(3.0, max(-3.0, _EMOBANK_SCALE * (valence - 3.0))),
                polarity=None,
                split=split,
                corpus="emobank",
                arousal=min(1.0, max(-1.0, arousal - 3.0)),
            )


def _recording(path: Path, corpus: str, emotion: str, person: str) -> Recording:
    held_out = _HELD_OUT.get(corpus)
    split = held_out.get(person, "train") if held_out else split_by_hash(f"{_CKPLUS_SALT}:{person}")
    return Recording(path=path, emotion=_NAMES[emotion], person=person, split=split, corpus=corpus)


def split_by_hash(key: str) -> str:
    """A split that never changes: 70 % train, 10 % valid, 20 % test."""
    slot = int(hashlib.sha256(key.encode()).hexdigest(), 16) % 10
    return "valid" if slot == 0 else "test" if slot in (1, 2) else "train"


def split_by_half(key: str) -> str:
    """`valid` or `test`, one as likely as the other; never changes."""
    return ("valid", "test")[int(hashlib.sha256(key.encode()).hexdigest(), 16) % 2]
