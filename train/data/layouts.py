"""A manifest from the folder layouts in which corpora of recordings are published:
`python -m train.data.layouts --layout meld --data DIR --out clips.csv`.

| Layout | What is read below the data folder |
| --- | --- |
| `mmsa` | `label.csv` (video_id, clip_id, text, label, ..., mode) and `Raw/VIDEO/CLIP.mp4`: CMU-MOSI, CMU-MOSEI |
| `meld` | `{train,dev,test}_sent_emo.csv` and the folders `train_splits`, `dev_splits_complete`, `output_repeated_splits_test` with `diaD_uttU.mp4`, wherever they were unpacked |
| `iemocap` | `SessionN/dialog/EmoEvaluation/DIALOGUE.txt`, `SessionN/dialog/transcriptions/DIALOGUE.txt` and `SessionN/sentences/wav/DIALOGUE/TURN.wav`: voice and words, for a picture shows two people |
| `crema-d` | `VideoFlash/*.flv`, else `AudioWAV/*.wav`: `ACTOR_SENTENCE_EMOTION_LEVEL` |
| `ravdess` | `01-01-...mp4` (face and voice), else `03-01-...wav` (voice), in any folders |

Splits are the publishers' where they exist (mmsa, meld). IEMOCAP's session 5 is for test, 4 for
validation. CREMA-D's 91 actors are split by a hash of
the actor: 64 train, 9 valid, 18 test. RAVDESS' 24 actors: 17 train, 3 valid, 4 test,
the same people as in `corpora.py`. Paths are absolute; nobody opens the media here.
"""  # noqa: E501

import csv
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.config import option, parse

from . import manifest
from .corpora import SPLITS, DataError, split_by_hash
from .labels import RAVDESS_EMOTIONS, RAVDESS_HELD_OUT

__all__ = ["LAYOUTS", "Options", "Row", "crema_d", "iemocap", "meld", "mmsa", "ravdess"]

Row = dict[str, str]  # by the manifest's columns; those left out are empty

_MMSA_COLUMNS = ("video_id", "clip_id", "text", "label", "mode")
_MELD_COLUMNS = ("Dialogue_ID", "Utterance_ID", "Utterance", "Speaker", "Emotion")
_MELD = {
    "train": ("train_sent_emo.csv", "train_splits"),
    "valid": ("dev_sent_emo.csv", "dev_splits_complete"),
    "test": ("test_sent_emo.csv", "output_repeated_splits_test"),
}
_IEMOCAP_TURN = re.compile(r"\[[\d.]+ - [\d.]+\]\t(Ses0([1-5])[FM]_\w+)_([FM])(\d+)\t([a-z]{3})\t")
_IEMOCAP_SENTENCE = re.compile(r"(Ses\w+) \[[\d.]+-[\d.]+\]: *(.*)")
# Frustration (fru) has no counterpart among the seven; oth and xxx are no emotion.
_IEMOCAP_EMOTIONS = {"ang": "anger", "dis": "disgust", "exc": "happiness", "fea": "fear",
                     "hap": "happiness", "neu": "neutral", "sad": "sadness",
                     "sur": "surprise"}  # fmt: skip
_IEMOCAP_SPLITS = {"4": "valid", "5": "test"}
# Salts the hash: the first that gives CREMA-D 70, 10 and 20 % of its actors.
_CREMA_SALT = "crema-d 1"
_CREMA_NAME = re.compile(r"(\d{4})_([A-Z]{3})_(ANG|DIS|FEA|HAP|NEU|SAD)_[A-Z]{1,2}")
_CREMA_EMOTIONS = {"ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happiness",
                   "NEU": "neutral", "SAD": "sadness"}  # fmt: skip
_CREMA_SENTENCES = {
    "IEO": "It's eleven o'clock",
    "TIE": "That is exactly what happened",
    "IOM": "I'm on my way to the meeting",
    "IWW": "I wonder what this is about",
    "TAI": "The airplane is almost full",
    "MTI": "Maybe tomorrow it will be cold",
    "IWL": "I would like a new alarm clock",
    "ITH": "I think I have a doctor's appointment",
    "DFA": "Don't forget a jacket",
    "ITS": "I think I've seen this before",
    "TSI": "The surface is slick",
    "WSI": "We'll stop in a couple of minutes",
}
_RAVDESS_NAME = re.compile(r"\d{2}-\d{2}-\d{2}-\d{2}-0[12]-\d{2}-\d{2}")
_RAVDESS_SENTENCES = {"01": "Kids are talking by the door", "02": "Dogs are sitting by the door"}
_AUDIO_VISUAL, _AUDIO_ONLY, _SPEECH = "01", "03", "01"


def mmsa(data: Path) -> list[Row]:
    """CMU-MOSI or CMU-MOSEI as MMSA lays them out. A video is one speaker.

    Raises DataError for labels on another scale: those of SIMS lie in [-1, 1].
    """
    path = data / "label.csv"
    rows = []
    for n, row in enumerate(_table(path, _MMSA_COLUMNS), 2):
        rows.append(
            {
                "path": str(data / "Raw" / row["video_id"] / f"{row['clip_id']}.mp4"),
                "text": row["text"],
                "sentiment": row["label"],
                "speaker": row["video_id"],
                "split": _known(path, n, row["mode"], ("train", "valid", "test")),
            }
        )
    try:
        largest = max(abs(float(row["sentiment"])) for row in rows)
    except ValueError as error:
        raise DataError(f"{path}: no rows, or a label that is not a number ({error})") from error
    if largest <= 1.0:
        raise DataError(
            f"{path}: all labels lie in [-1, 1], the scale of SIMS; this reads MOSI and MOSEI, "
            "rated in [-3, 3]"
        )
    return rows


def meld(data: Path) -> list[Row]:
    """MELD with its videos. Its sentiment has three classes and no rating, so it is left empty."""
    rows = []
    for split, (table, folder_name) in _MELD.items():
        path, folder = _below(data, table), _below(data, folder_name)
        for n, row in enumerate(_table(path, _MELD_COLUMNS), 2):
            name = f"dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}.mp4"
            # Some test clips exist only under this name.
            media = next(
                (p for p in (folder / name, folder / f"final_videos_test{name}") if p.exists()),
                folder / name,
            )
            emotions = ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")
            rows.append(
                {
                    "path": str(media),
                    "text": row["Utterance"],
                    "emotion": _known(path, n, row["Emotion"], emotions),
                    "speaker": row["Speaker"],
                    "split": split,
                }
            )
    return rows


def iemocap(data: Path) -> list[Row]:
    """IEMOCAP's turns of the seven emotions; excitement counts as happiness."""
    rows = []
    for path in sorted(data.rglob("dialog/EmoEvaluation/Ses*.txt")):
        session = path.parents[2]
        sentences = _matches(path.parents[1] / "transcriptions" / path.name, _IEMOCAP_SENTENCE)
        said = {turn: words for turn, words in sentences}
        for dialogue, number, sex, turn, emotion in _matches(path, _IEMOCAP_TURN):
            name = f"{dialogue}_{sex}{turn}"
            if emotion in _IEMOCAP_EMOTIONS:
                rows.append(
                    {
                        "path": str(session / "sentences" / "wav" / dialogue / f"{name}.wav"),
                        "text": said.get(name, ""),
                        "emotion": _IEMOCAP_EMOTIONS[emotion],
                        "speaker": f"{number}{sex}",
                        "split": _IEMOCAP_SPLITS.get(number, "train"),
                    }
                )
    return _some(rows, data, "SessionN/dialog/EmoEvaluation/Ses*.txt with rated turns")


def crema_d(data: Path) -> list[Row]:
    """CREMA-D; the emotion is the one the actor was asked for. No clip shows surprise."""
    files = sorted((data / "VideoFlash").glob("*.flv")) or sorted((data / "AudioWAV").glob("*.wav"))
    rows = []
    for path in files:
        match = _CREMA_NAME.fullmatch(path.stem)
        if not match or match[2] not in _CREMA_SENTENCES:
            raise DataError(f"{path}: not a CREMA-D name (such as 1001_DFA_ANG_XX.flv)")
        rows.append(
            {
                "path": str(path),
                "text": _CREMA_SENTENCES[match[2]],
                "emotion": _CREMA_EMOTIONS[match[3]],
                "speaker": match[1],
                "split": split_by_hash(f"{_CREMA_SALT}:{match[1]}"),
            }
        )
    return _some(rows, data, "VideoFlash/*.flv or AudioWAV/*.wav")


def ravdess(data: Path) -> list[Row]:
    """RAVDESS' spoken takes of the seven emotions; songs and calm takes are left out.

    A take comes once: with its face where the video is there, else as sound.
    """
    takes: dict[str, Path] = {}
    for path in sorted(p for p in data.rglob("[!.]*") if p.suffix in (".mp4", ".wav", ".flac")):
        if not _RAVDESS_NAME.fullmatch(path.stem):
            raise DataError(f"{path}: not a RAVDESS name (such as 01-01-05-01-01-01-12.mp4)")
        modality, channel, emotion = path.stem.split("-")[:3]
        wanted = modality in (_AUDIO_VISUAL, _AUDIO_ONLY) and channel == _SPEECH
        if wanted and emotion in RAVDESS_EMOTIONS:
            take = path.stem[3:]
            if take not in takes or modality < takes[take].stem[:2]:
                takes[take] = path
    rows = []
    for path in takes.values():
        _, _, emotion, _, sentence, _, actor = path.stem.split("-")
        rows.append(
            {
                "path": str(path),
                "text": _RAVDESS_SENTENCES[sentence],
                "emotion": RAVDESS_EMOTIONS[emotion],
                "speaker": actor,
                "split": RAVDESS_HELD_OUT.get(actor, "train"),
            }
        )
    return _some(rows, data, "01-01-....mp4 or 03-01-....wav")


LAYOUTS: dict[str, Callable[[Path], list[Row]]] = {
    "mmsa": mmsa,
    "meld": meld,
    "iemocap": iemocap,
    "crema-d": crema_d,
    "ravdess": ravdess,
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Write the manifest of a published corpus, for train.prepare --manifest."""

    layout: str = option(choices=tuple(LAYOUTS), help="how the corpus is laid out")
    data: str = option(metavar="DIR", help="the folder that it was unpacked to")
    out: str = option("clips.csv", metavar="CSV", help="the manifest to write")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = parse(Options, argv, prog="python -m train.data.layouts")
    try:
        rows = LAYOUTS[options.layout](Path(options.data).resolve())
        manifest.write(Path(options.out), rows)
    except (DataError, OSError) as error:
        print(f"train.data.layouts: {error}", file=sys.stderr)
        return 2
    counts = ", ".join(f"{sum(row['split'] == s for row in rows)} {s}" for s in SPLITS)
    n_missing = sum(not Path(row["path"]).is_file() for row in rows)
    print(f"{options.out}: {len(rows)} clips ({counts}), {n_missing} of them without a file")
    return 0


def _table(path: Path, columns: tuple[str, ...]) -> list[Row]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            lacking = [name for name in columns if name not in (reader.fieldnames or ())]
            if lacking:
                raise DataError(f"{path}: no column {', '.join(lacking)}")
            return [{name: row[name] or "" for name in columns} for row in reader]
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; see train/data/layouts.py") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a CSV file in UTF-8 ({error})") from error


def _matches(path: Path, pattern: re.Pattern[str]) -> list[tuple[str, ...]]:
    """The groups of every line of a text that the pattern fits."""
    try:
        lines = path.read_text(encoding="latin1").splitlines()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; see train/data/layouts.py") from error
    return [match.groups() for line in lines if (match := pattern.match(line))]


def _known(path: Path, n: int, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise DataError(f"{path}: row {n}: {value!r} is not one of {', '.join(known)}")
    return value


def _below(data: Path, name: str) -> Path:
    """The first file or folder of that name, at any depth."""
    found = min(data.rglob(name), default=None)
    if found is None:
        raise DataError(f"{data}: no {name} found; unpack all of MELD.Raw's archives there")
    return found


def _some(rows: list[Row], data: Path, expected: str) -> list[Row]:
    if not rows:
        raise DataError(f"{data}: no {expected} found")
    return rows


if __name__ == "__main__":
    sys.exit(main())
