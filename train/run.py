"""Train a DMD model: `python -m train.run --config configs/quick.toml --data DIR`.

`train/training.py` is the run itself. This command repeats it for several seeds, or runs the stages
of language distillation (`train/stages.py`). Under `torchrun` the processes share every batch.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from runtime.config import parse
from runtime.errors import DmdLiveError, UsageError

from . import config, parallel
from .config import Config
from .provenance import write_json
from .stages import train_stages
from .state import finished
from .training import Options, train

__all__ = ["Options", "main", "train", "train_seeds"]


def main() -> int:
    """Run the command; returns the exit code."""
    options = parse(Options, None, prog="python -m train.run")
    try:
        overrides = tuple(filter(None, (options.set or "").split(";")))
        settings = config.load(Path(options.config), overrides, options.seed)
        parallel.start(parallel.device(options.device))
        if options.teacher is not None:
            train_stages(settings, options)
        elif options.seeds == 1:
            train(settings, options)
        else:
            train_seeds(settings, options)
    except (DmdLiveError, FloatingPointError) as error:
        print(f"train.run: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ntrain.run: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    finally:
        parallel.stop()
    return 0


def train_seeds(settings: Config, options: Options) -> dict[str, Any]:
    """Train several seeds; finished ones are kept. Writes and prints mean and deviation."""
    tables, split = [], "valid" if options.no_test else "test"
    inputs = options.inputs()
    for seed in range(settings.seed, settings.seed + options.seeds):
        out = Path(options.out) / f"seed-{seed}"
        own = replace(settings, seed=seed)
        if options.restart or not finished(out, own, inputs):
            train(own, replace(options, out=str(out)))
        metrics = json.loads((out / "checkpoint.json").read_text())["metrics"]
        if split not in metrics:
            raise UsageError(f"{out}: was trained with --no-test; give it here too, or --restart")
        tables.append(metrics[split])
    summary: dict[str, Any] = {}
    for subset in tables[0]:
        values = {name: [table[subset][name] for table in tables] for name in tables[0][subset]}
        summary[subset] = {
            name: {
                "mean": float(np.mean(v)),
                "std": float(np.std(v, ddof=1)) if len(v) > 1 else 0.0,
                "values": v,
            }
            for name, v in values.items()
        }
    if not parallel.is_first():
        return summary
    write_json(Path(options.out) / "seeds.json", {"n_seeds": options.seeds, split: summary})
    print(f"\nmean over {options.seeds} seeds (standard deviation)")
    for subset, metrics in summary.items():
        cells = (
            f"{name} {metrics[name]['mean']:.3f} ({metrics[name]['std']:.3f})"
            for name in ("accuracy", "macro_f1", "mae", "corr")
            if name in metrics
        )
        print(f"{subset:<20}" + "  ".join(cells))
    return summary


if __name__ == "__main__":
    sys.exit(main())
