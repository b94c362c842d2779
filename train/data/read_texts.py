"""Readers of the corpora of sentences; `corpora.py` says which there are."""

import csv
import html
from collections.abc import Iterator
from pathlib import Path

from .labels import (
    NAMES,
    SPLITS,
    UNKNOWN,
    DataError,
    Text,
    split_by_hash,
)

__all__ = ["emobank", "goemotions", "meld", "mosi", "vader"]

_POLARITY = {"positive": 1.0, "neutral": 0.0, "negative": -1.0}
# Ratings in [-4, 4] to the [-3, 3] of MOSI.
_VADER_SCALE = 0.75
# Valence in [1, 5] to the [-3, 3] of MOSI. Arousal is taken as its distance from the middle, 3: no
# sentence of EmoBank is further than 1.5 from it.
_EMOBANK_SCALE = 1.5


def goemotions(data: Path) -> Iterator[Text]:
    """Comments; one with two emotions teaches each, and is no test of either."""
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
                    emotion=NAMES[names[int(label)]],
                    rating=None,
                    polarity=None,
                    split=split,
                    corpus="goemotions",
                )


def meld(data: Path) -> Iterator[Text]:
    """Dialogue of a television series."""
    for split, file in zip(SPLITS, ("train", "dev", "test"), strict=True):
        path = data / "meld" / f"{file}_sent_emo.csv"
        if not path.exists():
            continue
        with path.open(encoding="utf-8", newline="") as rows:
            for n, row in enumerate(csv.DictReader(rows), 2):
                try:
                    yield Text(
                        text=row["Utterance"],
                        emotion=NAMES[row["Emotion"]],
                        rating=None,
                        polarity=_POLARITY[row["Sentiment"]],
                        split=split,
                        corpus="meld",
                    )
                except KeyError as error:
                    raise DataError(f"{path}: row {n}: unknown or missing {error}") from error


def vader(data: Path) -> Iterator[Text]:
    """Rated sentences of four kinds."""
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


def mosi(data: Path, corpus: str) -> Iterator[Text]:
    """Rated sentences of MOSI or MOSEI, which have the same layout."""
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


def emobank(data: Path) -> Iterator[Text]:
    """Sentences rated for valence and arousal."""
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
