"""How much a model stands: `python -m train.robust --checkpoint DIR --data DATA`.

The utterances of a split are spoiled at rates 0 to 0.9 (`train/spoil.py`). Told are every rate, the
mean over the rates (LNLN's tables) and the area under the curve, divided by its width.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.integrate import trapezoid

from runtime.config import option, parse
from runtime.errors import DmdLiveError, UsageError

from . import checkpoint, parallel
from .data.features import SCALE, Features
from .data.open import FORMATS, open_corpus
from .data.utterance import Utterance
from .evaluate import Infer, Row, batches, print_table
from .loop import evaluate, predict
from .provenance import commit
from .spoil import KINDS, spoil

__all__ = ["RATES", "Options", "area", "curve", "main"]

RATES = tuple(k / 10 for k in range(10))
_UNKNOWN = 100  # [UNK] of BERT's word pieces


@dataclass(frozen=True, kw_only=True)
class Options:
    """Spoil the utterances of a split step by step, and tell what is left of the metrics."""

    checkpoint: str = option("checkpoint", metavar="DIR", help="what train.run wrote, of any kind")
    data: str = option(metavar="PATH", help="the data set: a folder, or a feature file")
    data_format: str = option("corpora", choices=FORMATS, help="what PATH is")
    split: str = option("valid", choices=("valid", "test"), help="which utterances")
    kind: str = option("random", choices=KINDS, help="how they are spoiled: train/spoil.py")
    seeds: int = option(3, metavar="N", help="draws, over which metrics are averaged")
    cache: str = option("build/features", metavar="DIR", help="extracted features of the corpora")
    json: str | None = option(None, metavar="FILE", help="write the curves here as well")
    device: str = option("cpu", help="cpu, cuda or cuda:N")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = parse(Options, argv, prog="python -m train.robust")
    try:
        _run(options)
    except DmdLiveError as error:
        print(f"train.robust: {error}", file=sys.stderr)
        return 2
    return 0


def _run(options: Options) -> None:
    if options.seeds < 1:
        raise UsageError("--seeds must be 1 or more")
    source = checkpoint.load_any(Path(options.checkpoint))
    tokenizer = source.folder / "tokenizer.json"
    corpus = open_corpus(
        Path(options.data),
        options.data_format,
        source.config,
        tokenizer if tokenizer.exists() else None,
        Path(options.cache),
    )
    utterances = list(corpus.held_out(options.split))
    model = source.model.to(parallel.device(options.device))
    infer = partial(
        predict,
        model,
        clipped=False,
        calibration=source.calibration if source.info["emotions"] else None,
    )
    found = curve(
        infer,
        utterances,
        options.kind,
        seeds=options.seeds,
        unknown=_unknown(tokenizer),
        lengths=corpus.lengths if isinstance(corpus, Features) else None,
        scale=source.config.data.sentiment_scale,
    )
    mean = {name: float(np.mean([row[name] for row in found])) for name in found[0]}
    under = area(found)
    rows = [Row(name=f"{rate:.1f}", metrics=row) for rate, row in zip(RATES, found, strict=True)]
    rows += [Row(name="mean", metrics=mean), Row(name="area", metrics=under)]
    print_table(f"{options.kind}, {len(utterances)} of {options.split}", rows)
    if options.json is not None:
        _write(Path(options.json), options, {"rates": RATES, "curve": found, "mean": mean,
                                             "area": under, "n": len(utterances)})  # fmt: skip


def curve(
    infer: Infer,
    utterances: Sequence[Utterance],
    kind: str,
    *,
    seeds: int,
    unknown: int,
    lengths: dict[str, int] | None = None,
    scale: float = SCALE,
) -> list[dict[str, float]]:
    """Metrics at each of `RATES`, the mean over `seeds` draws; `scale` as of `evaluate`."""
    out = []
    for rate in RATES:
        drawn = []
        for seed in range(seeds if rate else 1):
            left = spoil(utterances, kind, rate, seed=1111 + seed, unknown=unknown, lengths=lengths)
            found = infer(batches(left))
            drawn.append(evaluate(found, found["emotion_label"], found["sentiment_label"], scale))
        out.append({name: float(np.mean([row[name] for row in drawn])) for name in drawn[0]})
    return out


def area(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The area under each metric over `RATES`, by trapezoids, divided by the width: 1 at best for
    shares."""
    return {
        name: float(trapezoid([row[name] for row in found], RATES) / (RATES[-1] - RATES[0]))
        for name in found[0]
    }


def _unknown(tokenizer: Path) -> int:
    """The word piece that stands for what was not understood."""
    if not tokenizer.exists():
        return _UNKNOWN
    from tokenizers import Tokenizer

    found = Tokenizer.from_file(str(tokenizer)).token_to_id("[UNK]")
    return _UNKNOWN if found is None else int(found)


def _write(path: Path, options: Options, found: dict[str, Any]) -> None:
    told = {"checkpoint": options.checkpoint, "kind": options.kind, "split": options.split,
            "seeds": options.seeds, "commit": commit()}  # fmt: skip
    partial_path = path.with_name(path.name + ".partial")
    partial_path.write_text(json.dumps({**told, **found}, indent=1) + "\n", encoding="utf-8")
    os.replace(partial_path, path)
    print(f"\n{path} written")


if __name__ == "__main__":
    sys.exit(main())
