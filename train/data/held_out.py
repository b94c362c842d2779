"""Held-out people and sentences as folders for `export.evaluate`:
`python -m train.data.held_out --data DATA --out PEOPLE`.

Each folder of PEOPLE holds one source. `ferplus`, `ckplus48`: faces; `digits`: an ordinary man who
reads, as voices and as clips; `emodb`, `ravdess`, `nemo`: actors of the test split; `robot`:
sentences to a robot (robot.csv, ours; no training has them) and, with espeak-ng, `robot_spoken`:
the same in three voices that `plain` does not use; `mosi`, `mosei`, `emobank`: rated sentences.
"""

import csv
import io
import shutil
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from runtime.config import option, parse
from runtime.errors import DmdLiveError
from runtime.outputs.media import wav_bytes
from runtime.system.files import write_file

from . import corpora
from .corpora import EMOTIONS, Recording
from .plain import speak
from .sounds import joined

__all__ = ["Options", "main"]

_ROBOT = Path(__file__).with_name("robot.csv")
_VOICES = ("en-us", "en-gb-x-rp+anika", "en-us+travis")
_N_DIGITS = 120
_N_DIGIT_CLIPS = 40
_RATED = ("mosi", "mosei", "emobank")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Write the people and sentences that no training saw as folders for export.evaluate."""

    data: str = option(metavar="DIR", help="folder of the corpora (train/data/corpora.py)")
    out: str = option(metavar="DIR", help="where one folder of each source goes")


def main() -> int:
    """Run the command; returns the exit code."""
    options = parse(Options, None, prog="python -m train.data.held_out")
    data, out = Path(options.data), Path(options.out)
    try:
        for line in corpora.missing(data):
            print(f"train.data.held_out: warning: {line}", file=sys.stderr)
        _faces(data, out)
        _voices(data, out)
        _rated(data, out)
        _robot(out)
    except DmdLiveError as error:
        print(f"train.data.held_out: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"train.data.held_out: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    return 0


def _faces(data: Path, out: Path) -> None:
    there = [name for name in ("ckplus48", "ferplus") if (data / corpora.CORPORA[name]).is_dir()]
    for picture in corpora.faces(data, there):
        if picture.split == "test":
            _copy(picture.path, _place(out, picture.corpus, "faces", picture))


def _voices(data: Path, out: Path) -> None:
    """Actors as they are; the reader's digits joined, as training joins those of others."""
    names = ("emodb", "ravdess", "nemo", "digits")
    there = [name for name in names if (data / corpora.CORPORA[name]).is_dir()]
    n_read = 0
    for clip in tqdm(corpora.voices(data, there), "voices", unit="clip"):
        if clip.split != "test":
            continue
        if clip.corpus != "digits":
            _copy(clip.path, _place(out, clip.corpus, "voices", clip))
        elif n_read < _N_DIGITS:
            rng = np.random.default_rng(zlib.crc32(clip.path.name.encode()))
            samples = joined(rng, clip)
            for part, n in (("voices", _N_DIGITS), ("clips", _N_DIGIT_CLIPS)):
                if n_read < n:
                    place = _place(out, "digits", part, clip)
                    write_file(place.with_name(f"{n_read:03d}.wav"), wav_bytes(samples))
            n_read += 1


def _rated(data: Path, out: Path) -> None:
    for name in _RATED:
        if (data / corpora.CORPORA[name]).is_dir():
            found = [t for t in corpora.texts(data, [name]) if t.split == "valid"]
            rows = [
                {"text": t.text, "sentiment": t.rating}
                | ({} if t.arousal is None else {"arousal": t.arousal})
                for t in found
            ]
            _write_csv(out / name / "texts.csv", rows)


def _robot(out: Path) -> None:
    (out / "robot").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(_ROBOT, out / "robot" / "texts.csv")
    if shutil.which("espeak-ng") is None:
        print("train.data.held_out: warning: no espeak-ng, no robot_spoken", file=sys.stderr)
        return
    with _ROBOT.open(encoding="utf-8", newline="") as rows:
        sentences = list(csv.DictReader(rows))
    for k, sentence in enumerate(tqdm(sentences, "robot", unit="sentence")):
        for n, voice in enumerate(_VOICES):
            folder = out / "robot_spoken" / "clips" / sentence["emotion"]
            folder.mkdir(parents=True, exist_ok=True)
            speak(sentence["text"], voice, folder / f"{k:02d}_{n}.wav")


def _place(out: Path, source: str, part: str, recording: Recording) -> Path:
    """Where a copy of a recording goes; its folder is there afterwards."""
    folder = out / source / part / EMOTIONS[recording.emotion]
    folder.mkdir(parents=True, exist_ok=True)
    return folder / recording.path.name


def _copy(source: Path, target: Path) -> None:
    if not target.exists():
        shutil.copyfile(source, target)


def _write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    if not rows:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_file(path, text.getvalue().encode())


if __name__ == "__main__":
    sys.exit(main())
