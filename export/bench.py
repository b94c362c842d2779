"""How fast a bundle is against torch and against the published model: `python -m export.bench`.

Measured as by `dmd-live --bench` (see `runtime/bench/run.py`), in one run: every engine and
precision of the bundle that runs here, the checkpoint that it came from in torch, and the published
architecture with BERT-base in torch. Accuracy is what the bundle's certificate says.
"""

import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from runtime.bench.report import require_some, show, summary, tables
from runtime.bench.run import JUDGED, Measured, Target, measure, targets
from runtime.config import option, parse
from runtime.engines.choose import ENGINES, open_engine
from runtime.errors import DmdLiveError, UsageError
from runtime.store.bundle import CERTIFICATE, Bundle
from runtime.system.files import write_file
from runtime.system.isolated import isolated

from . import baselines, bundle

__all__ = ["Options", "main"]

_PLOTTED = "text+audio+vision"  # rows of the certificate
_TIMEOUT_S = 300.0


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure latency, throughput, load time, memory, size and power, against torch in one run.

    Prints tables; writes bench.json, and bench.png: accuracy (of the bundle's certificate) against
    latency, with the model that dmd-live chooses by itself marked. Takes about two minutes; let the
    machine do nothing else meanwhile.
    """

    bundle: str = option("bundle", metavar="FOLDER", help="what export.graph wrote")
    checkpoint: str | None = option(
        None, metavar="FOLDER", help="checkpoint of train.run: its torch model is a baseline"
    )
    reference: str | None = option(
        None,
        metavar="CLONE",
        help="checkout of the published code (mdswyz/DMD): a baseline too, beside our own "
        "implementation of its model, which is faster",
    )
    engine: str = option(
        "auto", choices=ENGINES, help="measure this engine only; auto: all that run here"
    )
    threads: int = option(1, metavar="N", help="processor threads for one inference")
    runs: int = option(
        200, metavar="N", help="runs for each line; fewer where they would take too long"
    )
    out: str = option("build/bench", metavar="FOLDER", help="where bench.json and bench.png go")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = parse(Options, argv, prog="python -m export.bench")
    try:
        run(options)
    except (DmdLiveError, OSError) as error:
        print(f"export.bench: {error}", file=sys.stderr)
        return 2
    return 0


def run(options: Options) -> None:
    """Measure, print, write. Raises DmdLiveError."""
    if options.threads < 1 or options.runs < 1:
        raise UsageError("--threads and --runs must be at least 1")
    folder, out = Path(options.bundle), Path(options.out)
    info = bundle.read(folder)
    ours = targets(folder, options.engine, options.threads)
    found = measure([*ours, *_baselines(options, info)], n_runs=options.runs)
    require_some(found[: len(ours)])
    judged = [item for item in found if JUDGED.name in item.latency]
    against = [item for item in judged if item in found[len(ours) :]]
    compared = [item for item in judged if item not in against]
    show(options.threads, [*tables(found), _comparison(compared, against), baselines.about()])
    (chosen,) = isolated(partial(_chosen, folder, options.engine), timeout_s=_TIMEOUT_S, quiet=True)
    accuracy = _accuracy(folder, info)
    facts = {
        **summary(found, options.threads),
        "baselines": [item.name for item in against],
        "published": baselines.about(),
        "accuracy": accuracy,
        "chosen": chosen,
        "bundle_sha256": info["bundle_sha256"],
    }
    out.mkdir(parents=True, exist_ok=True)
    write_file(out / "bench.json", (json.dumps(facts, indent=1) + "\n").encode())
    print(f"export.bench: {out / 'bench.json'} written")
    if not accuracy:
        print(f"export.bench: no plot: {folder} has no certificate of its accuracy (export.parity)")
        return
    write_file(out / "bench.png", _plot(judged, accuracy, chosen))
    print(f"export.bench: {out / 'bench.png'} written; dmd-live takes {chosen}")


def _comparison(ours: Sequence[Measured], baselines: Sequence[Measured]) -> Any:
    """For rich: how many times longer each baseline takes, and how many times larger it is."""
    from rich.table import Table

    table = Table(title=f"{JUDGED.name}: median time and size of the baselines, as multiples")
    for name in ("", *(item.name for item in baselines)):
        table.add_column(name, justify="right" if name else "left")
    for item in ours:
        table.add_row(item.name, *(_multiples(item, baseline) for baseline in baselines))
    return table


def _multiples(item: Measured, baseline: Measured) -> str:
    longer = baseline.latency[JUDGED.name].p50_ms / item.latency[JUDGED.name].p50_ms
    return f"{longer:.1f} x, {(baseline.size_mb or 0.0) / (item.size_mb or 1.0):.1f} x"


def _baselines(options: Options, info: dict[str, Any]) -> list[Target]:
    """What the bundle is held against. Raises DmdLiveError where it is not there."""
    wanted = [baselines.published(layout, options.threads) for layout in baselines.LAYOUTS]
    if options.reference is not None:
        clone = Path(options.reference).resolve()
        wanted.append(baselines.of_published_code(clone, options.threads))
    if options.checkpoint is not None:
        folder = Path(options.checkpoint)
        wanted.insert(0, baselines.of_checkpoint(folder, info, options.threads))
    else:
        print("export.bench: without --checkpoint, the bundle's own model in torch is left out")
    return wanted


def _accuracy(folder: Path, info: dict[str, Any]) -> dict[str, float]:
    """Model -> accuracy with all modalities, as the certificate names them; empty without one."""
    if CERTIFICATE not in info["files"]:
        return {}
    rows = json.loads((folder / CERTIFICATE).read_bytes())["rows"]
    return {r["model"]: r["metrics"]["accuracy"] for r in rows if r["subset"] == _PLOTTED}


def _chosen(folder: Path, engine: str) -> list[str]:
    """The model that `dmd-live` opens by itself here."""
    opened = open_engine(Bundle.load(folder), engine)
    return [f"{opened.name} {opened.precision}"]


def _plot(judged: Sequence[Measured], accuracy: dict[str, float], chosen: str) -> bytes:
    """PNG: accuracy against median latency, the chosen model circled. A model that the certificate
    does not name, such as the published one, is a line at its latency."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogFormatter, ScalarFormatter

    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    for item in judged:
        ms = item.latency[JUDGED.name].p50_ms
        key = next((k for k in (item.name, item.engine, item.precision) if k in accuracy), None)
        if key is None or item.engine.startswith("published"):
            axes.axvline(ms, color="0.6", linestyle=":")
            at = {"xycoords": ("data", "axes fraction"), "rotation": 90, "ha": "right"}
            axes.annotate(item.engine, (ms, 0.03), fontsize=8, color="0.4", **at)
            continue
        percent = 100.0 * accuracy[key]
        axes.plot(ms, percent, "o", label=f"{item.name}: {ms:.1f} ms, {percent:.1f} %")
        if item.name == chosen:
            ring = {"marker": "o", "ms": 15, "mfc": "none", "mec": "black", "ls": ""}
            axes.plot(ms, percent, label="what dmd-live takes", **ring)
    low, high = 100.0 * min(accuracy.values()), 100.0 * max(accuracy.values())
    axes.set(
        xscale="log",
        xlabel=f"median time, ms (batch 1, {JUDGED.name})",
        ylabel=f"accuracy, % ({_PLOTTED})",
        ylim=(low - 1.0, high + 1.0),
    )
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2.0, 1.0)))
    figure.legend(loc="outside right upper", fontsize=8)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=100)
    plt.close(figure)
    return png.getvalue()


if __name__ == "__main__":
    sys.exit(main())
