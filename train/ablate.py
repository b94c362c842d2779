"""What each part of the method is worth: `python -m train.ablate --config FILE --data PATH`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime.config import option, parse
from runtime.errors import DmdLiveError

from . import config, run
from .data.open import FORMATS
from .loop import SUBSETS
from .models.gd_unit import RULES
from .provenance import commit, write_json

__all__ = ["ABLATIONS", "EDGE_RULES", "Options"]

_WITHOUT_LANGUAGE = "without language distillation"
# Name -> the options that differ from the full method.
ABLATIONS: dict[str, tuple[str, ...]] = {
    "full method": (),
    "without HomoGD": ("loss.homo_gd=false",),
    "without HeteroGD": ("loss.hetero_gd=false",),
    "without both GD-units": ("loss.homo_gd=false", "loss.hetero_gd=false"),
    "without decoupling": ("loss.decoupling=false", "model.decoupled=false"),
    "without the margin loss": ("loss.use_margin=false",),
    "fixed edges (conventional distillation)": ("loss.learned_edges=false",),
    "crossmodal branch alone (MulT)": (
        "model.common_branch=false",
        "model.decoupled=false",
        "loss.decoupling=false",
        "loss.homo_gd=false",
        "loss.hetero_gd=false",
    ),
}

_FIXED = "fixed edges (conventional distillation)"
# The rules of train/models/gd_unit.py, against no learning at all.
EDGE_RULES: dict[str, tuple[str, ...]] = {
    _FIXED: ABLATIONS[_FIXED],
    **{rule: (f'loss.edge_rule="{rule}"',) for rule in RULES},
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train the method and its ablations with several seeds each, and write the table.

    Run the same command again after an interruption: it keeps finished runs and goes on.
    """

    data: str = option(metavar="PATH", help="the data set: a folder, or an MMSA file")
    data_format: str = option("corpora", choices=FORMATS, help="the format of PATH")
    config: str = option(
        "configs/ablation.toml", metavar="FILE", help="TOML file of the full method"
    )
    out: str = option("runs/ablations", metavar="DIR", help="one folder for each, and the table")
    cache: str = option("build/features", metavar="DIR", help="extracted features of the corpora")
    seeds: int = option(5, metavar="N", help="seeds of each")
    edges: bool = option(
        False,
        help="instead: the rules by which edges are learned, on validation data; the test split is "
        "not read",
    )
    distilled: str | None = option(
        None,
        metavar="DIR",
        help="a distilled language encoder (OUT/language of train.run --teacher): the full method "
        "uses it, and one more ablation uses the encoder of the configuration instead",
    )
    set: str | None = option(
        None,
        metavar="K=V;K=V",
        joined_by=";",
        help="override options in every run; may be repeated",
    )
    metric: str = option(
        "macro_f1", help="metric of the table: macro_f1, accuracy, mae, acc2_nonzero, ..."
    )
    device: str = option("cpu", help="cpu, cuda or cuda:N")


def main() -> int:
    """Run the command; returns the exit code."""
    options = parse(Options, None, prog="python -m train.ablate")
    try:
        _run(options)
    except (DmdLiveError, FloatingPointError) as error:
        print(f"train.ablate: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ntrain.ablate: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def _run(options: Options) -> None:
    out = Path(options.out)
    common = tuple(filter(None, (options.set or "").split(";")))
    summaries: dict[str, Any] = {}
    for name, switches in chosen(options).items():
        print(f"\n== {name}")
        settings = config.load(Path(options.config), (*common, *switches))
        folder = out / name.split(" (")[0].replace(" ", "-")
        summaries[name] = run.train_seeds(
            settings,
            run.Options(
                data=options.data,
                data_format=options.data_format,
                out=str(folder),
                cache=options.cache,
                seeds=options.seeds,
                device=options.device,
                no_test=options.edges,
            ),
        )
    table = markdown(summaries, options.metric)
    about = {"config": options.config, "set": common, "distilled": options.distilled,
             "seeds": options.seeds, "commit": commit()}  # fmt: skip
    write_json(out / "ablations.json", {**about, "results": summaries})
    (out / "ablations.md").write_text(table + "\n", encoding="utf-8")
    print(f"\n{table}\n\n{out / 'ablations.md'} written")
    if options.distilled is None and not options.edges:
        print(f"left out: {_WITHOUT_LANGUAGE}; it needs --distilled DIR")


def chosen(options: Options) -> dict[str, tuple[str, ...]]:
    """Name -> options of every ablation that can be run."""
    if options.edges:
        return EDGE_RULES
    if options.distilled is None:
        return ABLATIONS
    language = (f'model.language="{options.distilled}"', "model.language_layers=0")
    found = {name: (*language, *switches) for name, switches in ABLATIONS.items()}
    return {**found, _WITHOUT_LANGUAGE: ()}


def markdown(summaries: dict[str, Any], metric: str) -> str:
    """Mean and standard deviation of `metric` over the seeds, one row each: the mean of the seven
    subsets of modalities, then every subset."""
    full = next(iter(summaries.values()))
    subsets = [s for s in full if metric in full[s]]
    seven = [s for s in ("+".join(subset) for subset in SUBSETS) if s in subsets]
    lines = [
        f"| {metric} | mean of {len(seven)} | " + " | ".join(subsets) + " |",
        "| --- " * (len(subsets) + 2) + "|",
    ]
    for name, summary in summaries.items():
        runs = np.array([summary[s][metric]["values"] for s in seven])  # (subsets, seeds)
        columns = [runs.mean(axis=0), *(np.array(summary[s][metric]["values"]) for s in subsets)]
        cells = (f"{v.mean():.3f} ({v.std(ddof=1) if len(v) > 1 else 0.0:.3f})" for v in columns)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
