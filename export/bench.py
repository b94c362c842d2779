"""How fast a bundle is against torch and against the published model: `python -m export.bench`.

Measured as by `dmd-live --bench` (see `runtime/bench.py`), in one run: every engine and precision
of the bundle that runs here, the checkpoint that it came from in torch, and the published
architecture with BERT-base in torch. Accuracy is what the bundle's certificate says.
"""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.bench import JUDGED, Case, Measured, Target, contract_inputs, measure, targets
from runtime.bench_report import summary, tables
from runtime.bundle import Bundle
from runtime.config import option, parse
from runtime.device import this_device
from runtime.engines.base import Arrays, Engine
from runtime.engines.choose import ENGINES, open_engine
from runtime.errors import BundleError, DmdLiveError, UsageError
from runtime.isolated import isolated

from . import bundle

__all__ = ["Options", "main"]

_CONFIG = Path(__file__).parent.parent / "configs" / "paper_mosi.toml"
# Steps of text, audio and vision in the files of CMU-MOSI that the published code reads (its
# dmd.py); its default is aligned. Five audio and twenty vision features a step (its config.json).
_STEPS = {"aligned": (50, 50, 50), "unaligned": (50, 375, 500)}
_WIDTHS = {"audio": 5, "vision": 20}
_PLOTTED = "text+audio+vision"  # rows of the certificate
_TIMEOUT_S = 300.0


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure latency, throughput, load time, memory, size and power, against torch in one run.

    Prints tables; writes bench.json, and bench.png: accuracy (of the bundle's certificate) against
    latency, with the model that dmd-live takes by itself marked. Takes about two minutes. Let the
    machine do nothing else meanwhile.
    """

    bundle: str = option("bundle", metavar="FOLDER", help="what export.graph wrote")
    checkpoint: str | None = option(
        None, metavar="FOLDER", help="what train.run wrote: its model in torch is a baseline"
    )
    reference: str | None = option(
        None,
        metavar="CLONE",
        help="checkout of the published code (mdswyz/DMD): a baseline too, beside our own "
        "implementation of its model, which is faster",
    )
    engine: str = option("auto", choices=ENGINES, help="one engine only; auto is all that run here")
    threads: int = option(1, metavar="N", help="processor threads of one inference")
    runs: int = option(200, metavar="N", help="runs a line; fewer where they would take too long")
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
        raise UsageError("--threads and --runs are 1 at least")
    folder, out = Path(options.bundle), Path(options.out)
    ours = targets(folder, options.engine, options.threads)
    references = _references(options, bundle.read(folder))
    out.mkdir(parents=True, exist_ok=True)
    found = measure([*ours, *references], n_runs=options.runs)
    baselines = [item for item in found[len(ours) :] if JUDGED.name in item.latency]
    _print(found, baselines, options.threads)
    accuracy = _accuracy(folder)
    (chosen,) = isolated(partial(_chosen, folder, options.engine), timeout_s=_TIMEOUT_S, quiet=True)
    facts = {
        **summary(found, options.threads),
        "baselines": [item.name for item in baselines],
        "published": _about_published(),
        "accuracy": accuracy,
        "chosen": chosen,
        "bundle_sha256": bundle.read(folder)["bundle_sha256"],
    }
    bundle.write_file(out / "bench.json", (json.dumps(facts, indent=1) + "\n").encode())
    print(f"export.bench: {out / 'bench.json'} written")
    if not accuracy:
        print(f"export.bench: no plot: {folder} has no certificate of its accuracy (export.parity)")
        return
    _draw(out / "bench.png", found, accuracy, chosen)
    print(f"export.bench: {out / 'bench.png'} written; dmd-live takes {chosen}")


def _print(found: Sequence[Measured], baselines: Sequence[Measured], n_threads: int) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    console.print(f"{this_device()}; {n_threads} thread{'s' * (n_threads > 1)} on the CPU")
    for table in tables(found, baselines):
        console.print(table)
    console.print(_about_published())


def _about_published() -> str:
    return (
        "published: the published architecture (configs/paper_mosi.toml) with BERT-base in torch, "
        "weights random, on 50 word pieces and CMU-MOSI's features: 5 of audio, 20 of vision, "
        + "; ".join(f"{name} {a} and {v} steps" for name, (_, a, v) in _STEPS.items())
        + ". It takes these lengths only."
    )


def _references(options: Options, info: dict[str, Any]) -> list[Target]:
    """What the bundle is held against. Raises DmdLiveError where it is not there."""
    made = [
        _published(f"published {layout}", partial(_open_published, layout, options.threads), layout)
        for layout in _STEPS
    ]
    if options.reference is not None:
        from train.bench import check_clone

        clone = Path(options.reference).resolve()
        check_clone(clone)
        opened = partial(_open_published_code, clone, options.threads)
        made.append(_published("published code aligned", opened, "aligned"))
    if options.checkpoint is None:
        print("export.bench: without --checkpoint, torch is measured with the published model only")
        return made
    folder = Path(options.checkpoint)
    _check_pair(folder, info)
    return [_torch(folder, options.threads), *made]


def _check_pair(folder: Path, info: dict[str, Any]) -> None:
    try:
        source = json.loads((folder / "checkpoint.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{folder}: no checkpoint ({error})") from error
    if info.get("provenance", {}).get("weights_sha256") != source.get("weights_sha256"):
        raise BundleError(f"{folder}: the bundle was not exported from this checkpoint")


class TorchEngine:
    """A torch module behind the interface of engines; `forward` takes and returns tensors."""

    name, precision = "torch", "fp32"

    def __init__(self, forward: Callable[[dict[str, Any]], Any], n_threads: int) -> None:
        import torch

        torch.set_num_threads(n_threads)
        self._forward = forward

    def infer(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """See `Engine.infer`; whatever the module returns, numbered."""
        import torch

        with torch.inference_mode():
            outputs = self._forward({n: torch.from_numpy(values) for n, values in inputs.items()})
        return {str(k): tensor.numpy() for k, tensor in enumerate(outputs)}


def _torch(folder: Path, n_threads: int) -> Target:
    return Target(
        engine="torch",
        precision="fp32",
        open=partial(_open_torch, folder, n_threads),
        inputs=partial(contract_inputs, folder / "tokenizer.json"),
        size=partial(_folder_bytes, folder),
    )


def _open_torch(folder: Path, n_threads: int) -> Engine:
    from train import checkpoint

    return TorchEngine(checkpoint.load(folder).model.predict, n_threads)


def _folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())


def _published(name: str, opened: Callable[[], Engine], layout: str) -> Target:
    return Target(
        engine=name,
        precision="fp32",
        open=opened,
        inputs=partial(_published_inputs, layout),
        size=partial(_published_bytes, layout),
        cases=(JUDGED,),
        batches=(8,),
    )


def _published_inputs(layout: str, case: Case, batch: int) -> Arrays:
    """The lengths of the data files, whatever the case."""
    rng = np.random.default_rng(0)
    steps = dict(zip(("text", "audio", "vision"), _STEPS[layout], strict=True))
    return {
        "input_ids": rng.integers(1_000, 30_000, (batch, steps["text"])),
        **{m: rng.standard_normal((batch, steps[m], w), np.float32) for m, w in _WIDTHS.items()},
        **{f"{m}_mask": np.ones((batch, n), bool) for m, n in steps.items()},
    }


def _published_model(layout: str) -> Any:
    from transformers import BertConfig, BertModel

    from train import config
    from train.models.dmd import DMD
    from train.models.language import LanguageEncoder

    text, audio, vision = _STEPS[layout]
    model = replace(
        config.load(_CONFIG).model, n_steps_text=text, n_steps_audio=audio, n_steps_vision=vision
    )
    return DMD(model, LanguageEncoder(BertModel(BertConfig())), n_emotions=0).eval()


def _open_published(layout: str, n_threads: int) -> Engine:
    model = _published_model(layout)
    return TorchEngine(lambda batch: [model(batch).outputs], n_threads)


def _published_bytes(layout: str) -> int:
    """Of its weights in fp32, without what only training needs."""
    import torch

    with torch.device("meta"):
        return sum(4 * p.numel() for p in _published_model(layout).parameters())


def _open_published_code(clone: Path, n_threads: int) -> Engine:
    """The published code itself, its text branch a BERT-base of random weights."""
    from transformers import BertConfig, BertModel

    from train.bench import published_code

    code = published_code(clone, "mosi", "cpu")
    model, bert = code.dmd.DMD(code.args).eval(), BertModel(BertConfig()).eval()

    def forward(batch: dict[str, Any]) -> Any:
        text = bert(batch["input_ids"], batch["text_mask"].long()).last_hidden_state
        return [model(text, batch["audio"], batch["vision"], is_distill=True)["output_logit"]]

    return TorchEngine(forward, n_threads)


def _accuracy(folder: Path) -> dict[str, float]:
    """Model -> accuracy with all modalities, as the certificate names them; empty without one."""
    if bundle.CERTIFICATE not in bundle.read(folder)["files"]:
        return {}
    rows = json.loads((folder / bundle.CERTIFICATE).read_bytes())["rows"]
    return {r["model"]: r["metrics"]["accuracy"] for r in rows if r["subset"] == _PLOTTED}


def _chosen(folder: Path, engine: str) -> list[str]:
    """The model that `dmd-live` opens by itself here."""
    opened = open_engine(Bundle.load(folder), engine)
    return [f"{opened.name} {opened.precision}"]


def _draw(path: Path, found: Sequence[Measured], accuracy: dict[str, float], chosen: str) -> None:
    """Accuracy against median latency, the chosen model circled; the published one has no accuracy
    here and is a line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for item in found:
        if JUDGED.name not in item.latency:
            continue
        ms = item.latency[JUDGED.name].p50_ms
        key = next((k for k in (item.name, item.engine, item.precision) if k in accuracy), None)
        if key is None:
            axes.axvline(ms, color="0.6", linestyle=":")
            axes.annotate(item.name, (ms, 0.02), xycoords=("data", "axes fraction"), rotation=90,
                          ha="right", fontsize=8, color="0.4")  # fmt: skip
            continue
        percent = 100.0 * accuracy[key]
        axes.plot(ms, percent, "o", color="tab:blue")
        if item.name == chosen:
            axes.plot(ms, percent, "o", ms=16, mfc="none", mec="tab:red", label="dmd-live's choice")
        axes.annotate(
            item.name, (ms, percent), xytext=(6, 6), textcoords="offset points", fontsize=9
        )
    low, high = 100.0 * min(accuracy.values()), 100.0 * max(accuracy.values())
    axes.set(
        xscale="log",
        xlabel=f"median ms, batch 1, {JUDGED.name}",
        ylabel=f"accuracy, %, {_PLOTTED}",
        ylim=(low - 1.0, high + 1.0),
    )
    axes.legend(fontsize=8)
    partial_path = path.with_name(f"{path.stem}.partial.png")
    figure.savefig(partial_path, dpi=100)
    plt.close(figure)
    partial_path.replace(path)


if __name__ == "__main__":
    sys.exit(main())
