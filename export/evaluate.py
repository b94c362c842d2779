"""How good a bundle is on your own people: `python -m export.evaluate --data FOLDER`.

Every item is judged as in the product, with its features, running statistics, prior and
calibration. torch is not needed.

| In the folder | What |
| --- | --- |
| `texts.csv` | columns `text` and `emotion`, `sentiment` in [-3, 3] or `arousal` in [-1, 1] |
| `voices/EMOTION/*` | sound files: the longest utterance, without its words |
| `faces/EMOTION/*` | pictures, shown for 2 s |
| `clips/EMOTION/*` | sound or video, words recognised: the longest utterance; by subset as well |
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime.config import option, parse
from runtime.errors import DmdLiveError, UsageError
from runtime.judging.calibration import CONVERSATION, PRIORS
from runtime.system.files import write_file

from .people import Product

__all__ = ["Options", "main", "run"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure a bundle on your own sentences, voices, faces and clips, as the product judges them.

    FOLDER holds any of texts.csv (columns text, emotion, sentiment), voices/EMOTION/*,
    faces/EMOTION/* and clips/EMOTION/*. EMOTION is anger, disgust, fear, happiness, neutral,
    sadness or surprise.
    """

    data: str = option(metavar="FOLDER", help="the folder described above")
    bundle: str | None = option(
        None, metavar="FOLDER", help="bundle to measure; default: the built-in one"
    )
    precision: str | None = option(None, metavar="NAME", help="which model of the bundle")
    prior: str = option(
        CONVERSATION, choices=PRIORS, help="how common each emotion is assumed to be"
    )
    session: str = option(
        "file",
        choices=("file", "folder"),
        help="file: each voice is the first that the device hears; folder: all of voices/ are "
        "heard one after the other, in a shuffled order, each against the speech before it",
    )
    stt: str = option(
        "auto",
        choices=("auto", "vosk", "moonshine", "none"),
        help="recogniser for the words of clips",
    )
    words_share: float | None = option(
        None,
        metavar="SHARE",
        help="what the reading of the words alone counts, from 0 to below 1, where they show an "
        "emotion and another sense is there; default: as the bundle says",
    )
    json: str | None = option(None, metavar="FILE", help="write all numbers to this file")


def main() -> int:
    """Run the command; returns the exit code."""
    options = parse(Options, None, prog="python -m export.evaluate")
    try:
        found = run(options)
        if options.json is not None:
            text = json.dumps(_without_nan(found), indent=1, allow_nan=False)
            write_file(Path(options.json), (text + "\n").encode())
    except DmdLiveError as error:
        print(f"export.evaluate: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"export.evaluate: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    return 0


def run(options: Options) -> dict[str, Any]:
    """Measure what there is and print it. Raises DmdLiveError."""
    folder = Path(options.data)
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    product = Product(
        None if options.bundle is None else Path(options.bundle),
        options.precision,
        prior=options.prior,
        stt=options.stt,
        together=options.session == "folder",
        words_share=options.words_share,
    )
    parts: dict[str, Callable[[Path], dict[str, Any]]] = {
        "texts": product.texts,
        "voices": product.voices,
        "faces": product.faces,
        "clips": product.clips,
    }
    found = {}
    for name, measure in parts.items():
        path = folder / ("texts.csv" if name == "texts" else name)
        if path.exists():
            how = {
                "prior": options.prior,
                "words_share": product.words_share,
                "model_sha256": product.model_sha256,
            }
            found[name] = measure(path) | how
    if not any(part["n"] or part["unreadable"] for part in found.values()):
        raise UsageError(
            f"{folder}: nothing to measure; it may hold texts.csv, voices/EMOTION/*, "
            "faces/EMOTION/* and clips/EMOTION/*"
        )
    _show(found)
    return found


def _without_nan(found: Any) -> Any:
    """The same with null for what is undefined, for JSON knows no NaN."""
    if isinstance(found, dict):
        return {name: _without_nan(value) for name, value in found.items()}
    return None if isinstance(found, float) and np.isnan(found) else found


def _show(found: dict[str, Any]) -> None:
    """A table for people."""
    names = (
        "n",
        "accuracy",
        "uar",
        "macro_f1",
        "ece",
        "uncertain",
        "sure_and_wrong",
        "false_alarms",
    )
    print(f"{'':<28}" + "".join(f"{name:>15}" for name in names))
    for part, scores in found.items():
        rows = {part: scores, **{f"  {s}": v for s, v in scores.get("subsets", {}).items()}}
        for name, values in rows.items():
            cells = [values.get(metric) for metric in names]
            print(f"{name:<28}" + "".join(f"{_cell(value):>15}" for value in cells))
        for name in ("sentiment", "arousal"):
            if name in scores:
                shown = "  ".join(f"{k} {_cell(v)}" for k, v in scores[name].items())
                print(f"  {name}: {shown}")
        left = {k: scores[k] for k in ("unreadable", "without_face", "not_heard_as_speech")
                if scores.get(k)}  # fmt: skip
        if left:
            print("  " + ", ".join(f"{n} {k.replace('_', ' ')}" for k, n in left.items()))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.3f}"


if __name__ == "__main__":
    sys.exit(main())
