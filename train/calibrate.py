"""How sure a model may be among strangers: `python -m train.calibrate --checkpoint FOLD ...`.

A model is rightly surer about people like those it has learned from than about anybody else, and a
device meets both. A fold is the same recipe trained without some corpora of words and voices. Its
temperatures and thresholds are fitted on as many utterances of strangers, composed of nothing but
those corpora (faces: of a validation split), as of its own validation split. They serve the model
that was trained with all of them. `export.graph --calibration FILE` puts them into the bundle.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from runtime.config import option, parse
from runtime.errors import DmdLiveError, UsageError
from runtime.judging.calibration import Calibration

from . import checkpoint
from .config import DataConfig
from .data import corpora
from .data.compose import Composer
from .data.open import compose
from .judging import Judge, calibrate
from .prepare import prepare
from .provenance import commit, write_json

__all__ = ["Options", "main", "read"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Fit temperatures and thresholds on corpora that a fold's training left out."""

    checkpoint: str = option(
        metavar="DIR", help="a fold: a checkpoint trained without these corpora"
    )
    corpora: str = option(
        metavar="NAMES", help='the corpora left out, in quotes, such as "meld ravdess"'
    )
    faces: str = option(
        "ferplus", metavar="NAMES", help="corpora whose validation split the faces are taken from"
    )
    data: str = option(metavar="DIR", help="folder of the corpora (train/data/corpora.py)")
    out: str = option("calibration.json", metavar="FILE", help="the file to write")
    n: int = option(1_400, metavar="N", help="how many utterances to compose of either kind")
    cache: str = option("build/features", metavar="DIR", help="where extracted features are kept")


def main() -> int:
    """Run the command; returns the exit code."""
    options = parse(Options, None, prog="python -m train.calibrate")
    try:
        run(options)
    except DmdLiveError as error:
        print(f"train.calibrate: {error}", file=sys.stderr)
        return 2
    return 0


def run(options: Options) -> None:
    """Fit and write. Raises DmdLiveError."""
    fold = checkpoint.load(Path(options.checkpoint))
    left_out = options.corpora.split()
    seen = {*fold.config.data.corpora.split()} & {*left_out}
    if seen:
        raise UsageError(f"{fold.folder}: was trained with {', '.join(sorted(seen))}")
    many = replace(fold.config.data, n_valid=options.n, n_told=options.n)
    both = [
        strangers(fold, many, left_out, options),
        compose(
            Path(options.data),
            replace(fold.config, data=many),
            fold.folder / "tokenizer.json",
            Path(options.cache),
        ),
    ]
    fitted = calibrate(
        Judge(fold.model, "fp32"),
        [u for composer in both for u in composer.held_out("valid")],
        fold.info["emotions"],
        [u for composer in both for u in composer.told("valid")],
    )
    for name, temperature in fitted.temperature.items():
        needed = fitted.uncertain_below[name]
        print(f"{name:<30} temperature {temperature}, uncertain below {needed}")
    write_json(
        Path(options.out),
        {
            **replace(fitted, fitted_on=tuple(left_out)).to_dict(),
            "fold": {
                "corpora": fold.config.data.corpora,
                "weights_sha256": fold.info["weights_sha256"],
                "commit": fold.info["commit"],
            },
            "commit": commit(),
        },
    )


def strangers(
    fold: checkpoint.Checkpoint, settings: DataConfig, left_out: Sequence[str], options: Options
) -> Composer:
    """Utterances composed from corpora that the fold has not seen: their validation sentences, all
    voices but those of the test split, and faces of the validation split."""
    data, cache = Path(options.data), Path(options.cache)
    features = prepare(data, cache, left_out, embeddings=fold.config.data.unheard_share < 1.0)
    seen = prepare(data, cache, options.faces.split()).faces
    return Composer(
        corpora.texts(data, left_out),
        replace(
            features,
            voices=[
                (replace(r, split="valid"), versions)
                for r, versions in features.voices
                if r.split != "test"
            ],
            faces=[(r, row) for r, row in seen if r.split == "valid"],
        ),
        fold.folder / "tokenizer.json",
        settings,
        seed=fold.config.seed,
    )


def read(path: Path, emotions: Sequence[str]) -> Calibration:
    """The calibration that `run` wrote. Raises DmdLiveError for anything else."""
    try:
        return Calibration.from_dict(emotions, json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; write it with train.calibrate") from error
    except (ValueError, AttributeError) as error:
        raise UsageError(f"{path}: not a calibration ({error})") from error


if __name__ == "__main__":
    sys.exit(main())
