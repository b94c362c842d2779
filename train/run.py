"""Train a DMD model: `python -m train.run --config configs/quick.toml --data DIR`.

Reads top to bottom: features once, utterances composed anew every epoch, early stopping on the
validation split, calibration, one look at the test split, `checkpoint/`. Interrupted at any moment,
the same command goes on with the last finished epoch and ends with the same result.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from runtime.config import option, parse
from runtime.errors import DmdLiveError

from . import config

__all__ = ["Options", "main", "train"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train a DMD model on utterances composed from text, audio and face corpora."""

    data: str = option(metavar="DIR", help="folder of the corpora (layout: train/data/corpora.py)")
    config: str = option("configs/quick.toml", metavar="FILE", help="TOML file with all options")
    out: str = option("checkpoint", metavar="DIR", help="where the checkpoint goes")
    cache: str = option("build/features", metavar="DIR", help="extracted features, made once")
    seed: int | None = option(None, metavar="N", help="instead of the configuration's seed")
    device: str = option("cpu", help="cpu, cuda or cuda:N")
    set: str | None = option(
        None, metavar="KEY=VALUE", help='override, e.g. "optim.epochs=2"; several: separate by ";"'
    )
    restart: bool = option(False, help="forget an interrupted or finished run in --out")


def main() -> int:
    """Run the command; returns the exit code."""
    options = parse(Options, None, prog="python -m train.run")
    try:
        overrides = tuple(filter(None, (options.set or "").split(";")))
        settings = config.load(Path(options.config), overrides, options.seed)
        train(settings, options)
    except (DmdLiveError, FloatingPointError) as error:
        print(f"train.run: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ntrain.run: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0
