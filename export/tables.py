"""Writes measured figures into the tables of the model card and the docs:
`python -m export.tables --found FOUND --files docs/measured.md --files ...`.

FOUND holds `SOURCE.json`, what `export.evaluate --json` found on each folder that
`train.data.held_out` wrote. In a file, what stands between `<!-- table NAME -->` and
`<!-- /table -->` is replaced.
"""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.config import option, parse
from runtime.errors import DmdLiveError, UsageError
from runtime.features.vision import APPEARANCE
from runtime.judging.calibration import SUBSETS, UNHEARD_SUBSETS
from runtime.system.files import write_file

from .bundle import update
from .measure import Measured, table

__all__ = ["Options", "main"]

_MODELS = ("torch", "fp32", "int8")
# Source, what of it, by which subset of modalities ("": as it is), and its name in the table.
_WILD = (
    ("ferplus", "faces", "", "FER+ faces, half of the validation pictures"),
    ("digits", "voices", "", "an ordinary man reads digits, voice alone"),
    ("digits", "clips", "", "the same, with the words as recognised"),
    ("robot", "texts", "", "sentences to a robot, words alone"),
    ("robot_spoken", "clips", "", "the same in three synthetic voices"),
    ("robot_spoken", "clips", "text+audio", "of these, where words were recognised: both"),
    ("robot_spoken", "clips", "text", "the same clips, by those words alone"),
)
_RATED = (
    ("mosi", "sentiment", "MOSI, sentiment"),
    ("mosei", "sentiment", "MOSEI, sentiment"),
    ("emobank", "sentiment", "EmoBank, valence"),
    ("emobank", "arousal", "EmoBank, arousal"),
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Write measured figures into the tables of Markdown files."""

    bundle: str = option(
        "runtime/default_bundle",
        metavar="FOLDER",
        help="a bundle measured by export.parity and export.measure",
    )
    found: str = option(
        metavar="FOLDER", help="folder with one SOURCE.json of export.evaluate for each source"
    )
    files: str = option(metavar="FILE", joined_by="\n", help="may be given several times")


def main() -> int:
    """Run the command; returns the exit code."""
    options = parse(Options, None, prog="python -m export.tables")
    try:
        made = tables(Path(options.bundle), Path(options.found))
        for path in map(Path, options.files.split("\n")):
            fill(path, made)
    except DmdLiveError as error:
        print(f"export.tables: {error}", file=sys.stderr)
        return 2
    return 0


def tables(bundle: Path, found: Path) -> dict[str, Callable[[], str]]:
    """How each table is made, by name. Raises UsageError for figures of another model."""
    _check_model(bundle, found)
    return {
        "headline": lambda: _headline(bundle, found),
        "wild": lambda: _wild(found),
        "rated": lambda: _rated(found),
        "studio": lambda: table(
            [Measured(**line) for line in _read(bundle / "bundle.json")["measured"]["lines"]]
        ),
        "composed": lambda: _composed(_read(bundle / "certificate.json")),
        "thresholds": lambda: _thresholds(_read(bundle / "bundle.json")),
    }


def _check_model(bundle: Path, found: Path) -> None:
    models = {model["sha256"] for model in _read(bundle / "certificate.json")["models"].values()}
    for path in sorted(found.glob("*.json")):
        if not {part.get("model_sha256") for part in _read(path).values()} <= models:
            raise UsageError(f"{path}: is of another model; run python -m export.evaluate again")


def fill(path: Path, made: dict[str, Callable[[], str]]) -> None:
    """Replace the tables of a file; a bundle's document may change. Raises UsageError for a table
    that there is not."""

    def new(match: re.Match[str]) -> str:
        if match[1] not in made:
            raise UsageError(f"{path}: no table {match[1]!r}; there are: {', '.join(made)}")
        return f"<!-- table {match[1]} -->\n{made[match[1]]()}\n<!-- /table -->"

    text = path.read_text(encoding="utf-8")
    pattern = r"<!-- table (\w+) -->\n.*?<!-- /table -->"
    write_file(path, re.sub(pattern, new, text, flags=re.DOTALL).encode())
    description = path.with_name("bundle.json")
    if description.exists() and path.name in _read(description).get("documents", []):
        update(path.parent, {})  # the bundle has a hash of each document


def _headline(bundle: Path, found: Path) -> str:
    """The README's five numbers."""
    faces = _read(found / "ferplus.json")["faces"]
    digits = _read(found / "digits.json")["clips"]
    alone = _read(found / "robot.json")["texts"]
    spoken = _read(found / "robot_spoken.json")["clips"]
    mosei = _read(found / "mosei.json")["texts"]["sentiment"]
    evaluate = "`export.evaluate --data PEOPLE/"
    rows = [
        [
            "Faces in the wild (FER+): right; of the neutral ones",
            f"{_percent(faces['accuracy'])} %; {_percent(faces['recall']['neutral'])} %",
            f"{evaluate}ferplus`",
        ],
        [
            "An ordinary man reads digits: neutral; false alarms",
            f"{_percent(digits['accuracy'])} %; {_percent(digits['false_alarms'])} %",
            f"{evaluate}digits`",
        ],
        [
            "Sentences to a robot: right as words; in synthetic voices",
            f"{_percent(alone['accuracy'])} %; {_percent(spoken['accuracy'])} %",
            f"{evaluate}robot`, `.../robot_spoken`",
        ],
        [
            "MOSEI sentences, validation: Acc-2; correlation",
            f"{_percent(mosei['acc2_nonzero'])} %; {mosei['corr']:.2f}",
            f"{evaluate}mosei`",
        ],
        [
            "Model and face networks on disk",
            f"{_megabytes(bundle):.1f} MB",
            "`wc -c runtime/default_bundle/* runtime/assets/*`",
        ],
    ]
    return _table(["What", "Measured", "Command"], rows)


def _megabytes(bundle: Path) -> float:
    """Of the bundle and of the networks that come with the package."""
    folders = (bundle, APPEARANCE.parent)
    return sum(f.stat().st_size for folder in folders for f in folder.iterdir()) / 1e6


def _wild(found: Path) -> str:
    rows = []
    for source, part, subset, name in _WILD:
        scores = _read(found / f"{source}.json")[part]
        scores = scores["subsets"][subset] if subset else scores
        neutral = scores["recall"].get("neutral")
        rows.append(
            [name, str(scores["n"])]
            + [_percent(value) for value in (scores["accuracy"], scores["uar"], neutral)]
            + [f"{scores['ece']:.2f}"]
            + [_percent(scores[key]) for key in ("uncertain", "sure_and_wrong", "false_alarms")]
        )
    head = ["Tried", "Items", "Accuracy", "UAR", "Neutral right", "ECE", "Uncertain",
            "Sure and wrong", "False alarms"]  # fmt: skip
    return _table(head, rows)


def _rated(found: Path) -> str:
    rows = []
    for source, scale, name in _RATED:
        scores = _read(found / f"{source}.json")["texts"][scale]
        two = [_percent(scores.get(key)) for key in ("acc2_nonzero", "acc2_haszero")]
        if source == "emobank":
            two = ["", ""]
        rows.append([name, str(scores["n"]), *two, f"{scores['mae']:.2f}", f"{scores['corr']:.3f}"])
    head = [
        "Rated sentences, validation",
        "Items",
        "Acc-2, non-zero",
        "Acc-2, has zero",
        "MAE",
        "r",
    ]
    return _table(head, rows)


def _composed(certificate: dict[str, Any]) -> str:
    metrics: dict[str, dict[str, dict[str, float]]] = {}
    for row in certificate["rows"]:
        metrics.setdefault(row["subset"], {})[row["model"]] = row["metrics"]
    rows = []
    for subset, by_model in metrics.items():
        torch, fp32, int8 = (by_model[model] for model in _MODELS)
        cells = ["", "", ""]
        if "accuracy" in int8:
            accuracy = " / ".join(_percent(m["accuracy"]) for m in (torch, fp32, int8))
            f1 = f"{_percent(torch['macro_f1'])} / {_percent(int8['macro_f1'])}"
            cells = [accuracy, f1, f"{int8['ece']:.2f}"]
        name = f"{subset} (human ratings)" if subset == "rated text" else subset
        rows.append([name, *cells, f"{int8['mae']:.2f}", f"{int8['corr']:.2f}"])
    head = ["Modalities", "Accuracy torch / fp32 / int8", "Macro-F1 torch / int8", "ECE int8",
            "Sentiment MAE int8", "Correlation int8"]  # fmt: skip
    return _table(head, rows)


def _thresholds(info: dict[str, Any]) -> str:
    fitted = info["calibration"]
    rows = [
        [s, f"{fitted['temperature'][s]:.2f}", f"{fitted['uncertain_below'][s]:.2f}"]
        for s in sorted((*SUBSETS, *UNHEARD_SUBSETS), key=lambda s: -s.count("+"))
        if s in fitted["temperature"]
    ]
    return _table(["Present", "Temperature", "Uncertain below"], rows)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: {error}; measure first, see docs/measured.md") from error
    return found


if __name__ == "__main__":
    sys.exit(main())
