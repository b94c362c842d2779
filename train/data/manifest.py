"""A table of one's own recordings: `clips.csv`, one row per clip.

| Column | Content |
| --- | --- |
| path | video or audio file, absolute or relative to the table |
| start, end | seconds; empty: the whole file |
| text | what is said; empty: speech-to-text finds out |
| sentiment | in [-3, 3], or empty |
| emotion | anger, disgust, fear, happiness, neutral, sadness, surprise, or empty |
| speaker | any name: nobody should be in two splits |
| split | train, valid or test |
"""

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .corpora import EMOTIONS, SPLITS, DataError

__all__ = ["COLUMNS", "Clip", "Manifest", "read", "write"]

COLUMNS = ("path", "start", "end", "text", "sentiment", "emotion", "speaker", "split")
_ALIASES = {"joy": "happiness", "happy": "happiness", "sad": "sadness", "angry": "anger",
            "fearful": "fear", "disgusted": "disgust", "surprised": "surprise"}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One row. `end_s` is infinite up to the file's end; `emotion` -1, `sentiment` NaN: unknown."""

    path: Path
    start_s: float
    end_s: float
    text: str
    sentiment: float
    emotion: int
    speaker: str
    split: str


@dataclass(frozen=True)
class Manifest:
    """The clips whose files are there, the rows whose files are not, and speakers in two splits."""

    clips: list[Clip]
    missing: list[str]
    shared_speakers: list[str]


def read(path: Path) -> Manifest:
    """Read and check a whole table before any work starts.

    Raises DataError that names the first wrong row, what is wrong with it, and the other rows.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file)
            absent = set(COLUMNS) - set(table.fieldnames or ())
            rows = list(enumerate(table, 2))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a table ({error})") from error
    if absent:
        raise DataError(f"{path}: lacks the columns {', '.join(sorted(absent))}")
    if not rows:
        raise DataError(f"{path}: has no rows")
    clips, wrong, seen = [], [], dict[tuple[Path, float, float], int]()
    for n, row in rows:
        try:
            clip = _clip(row, path.parent)
            first = seen.setdefault((clip.path, clip.start_s, clip.end_s), n)
            if first != n:
                raise ValueError(f"the same clip as row {first}")
            clips.append((n, clip))
        except ValueError as error:
            wrong.append((n, str(error)))
    if wrong:
        more = f"; also wrong: rows {', '.join(str(n) for n, _ in wrong[1:20])}" * (len(wrong) > 1)
        raise DataError(f"{path}: row {wrong[0][0]}: {wrong[0][1]}{more} ({len(wrong)} in all)")
    splits: dict[str, set[str]] = {}
    for _, clip in clips:
        splits.setdefault(clip.speaker, set()).add(clip.split)
    return Manifest(
        [clip for _, clip in clips if clip.path.is_file()],
        [f"row {n}: {clip.path}: no such file" for n, clip in clips if not clip.path.is_file()],
        sorted(name for name, found in splits.items() if name and len(found) > 1),
    )


def write(path: Path, rows: Iterable[Mapping[str, object]]) -> int:
    """Write a table under a temporary name, then rename; returns the number of rows."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, restval="")
        table.writeheader()
        n = 0
        for n, row in enumerate(rows, 1):  # noqa: B007
            table.writerow(row)
    partial.replace(path)
    return n


def _clip(row: dict[str, str | None], folder: Path) -> Clip:
    """One row; raises ValueError that says what is wrong."""
    cells = {name: (row.get(name) or "").strip() for name in COLUMNS}
    if not cells["path"]:
        raise ValueError("no path")
    if cells["split"] not in SPLITS:
        raise ValueError(f"split {cells['split']!r} is not one of {', '.join(SPLITS)}")
    emotion = _ALIASES.get(cells["emotion"].lower(), cells["emotion"].lower())
    if emotion and emotion not in EMOTIONS:
        raise ValueError(f"emotion {cells['emotion']!r} is not one of {', '.join(EMOTIONS)}")
    start_s, end_s = _number(cells, "start", 0.0), _number(cells, "end", math.inf)
    if not 0.0 <= start_s < end_s:
        raise ValueError(f"start {start_s:g} and end {end_s:g}: need 0 <= start < end")
    sentiment = _number(cells, "sentiment", math.nan)
    if abs(sentiment) > 3.0:
        raise ValueError(f"sentiment {sentiment:g} is outside [-3, 3]")
    return Clip(
        path=folder / cells["path"],
        start_s=start_s,
        end_s=end_s,
        text=cells["text"],
        sentiment=sentiment,
        emotion=EMOTIONS.index(emotion) if emotion else -1,
        speaker=cells["speaker"],
        split=cells["split"],
    )


def _number(cells: dict[str, str], name: str, empty: float) -> float:
    if not cells[name]:
        return empty
    value = float(cells[name]) if _is_number(cells[name]) else math.nan
    if math.isnan(value):
        raise ValueError(f"{name} {cells[name]!r} is not a number")
    return value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
