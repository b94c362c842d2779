"""Every subset of modalities, lossy input, every prediction: `python -m train.evaluate`."""

import csv
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from runtime.config import option, parse
from runtime.errors import DmdLiveError
from runtime.features.spec import MODALITIES

from . import checkpoint, parallel
from .data.features import SCALE
from .data.open import FORMATS, open_corpus
from .data.utterance import Utterance, collate
from .loop import SUBSETS, Batch, Predictions, batched, evaluate, keep, predict
from .metrics import bootstrap, one_against_rest

__all__ = ["Options", "Row", "by_class", "lossy", "robustness", "subsets", "write_predictions"]

_SHOWN = ("accuracy", "uar", "macro_f1", "weighted_f1", "ece", "mae", "corr", "acc7", "acc5",
          "acc3", "acc2", "f1", "acc2_nonzero", "f1_nonzero", "acc2_haszero",
          "f1_haszero")  # fmt: skip
Infer = Callable[[Iterable[Batch]], Predictions]
_RATES = tuple(k / 10 for k in range(10))


@dataclass(frozen=True, kw_only=True)
class Options:
    """Evaluate a checkpoint: the seven subsets of modalities, and input that loses rows.

    Sentiment is not clipped. Acc-2 and F1 come in both protocols: nonzero and haszero.
    """

    checkpoint: str = option(
        "checkpoint", metavar="DIR", help="a checkpoint of train.run or train.import_reference"
    )
    data: str = option(metavar="PATH", help="the data set: a folder, or a feature file")
    data_format: str = option("corpora", choices=FORMATS, help="the format of PATH")
    split: str = option(
        "test", choices=("train", "valid", "test"), help="which utterances to evaluate"
    )
    cache: str = option("build/features", metavar="DIR", help="where extracted features are kept")
    predictions: str | None = option(
        None, metavar="FILE.csv", help="write every prediction there: id, split, label, prediction"
    )
    device: str = option("cpu", help="cpu, cuda or cuda:N")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table: what was left of the input, and the metrics by name."""

    name: str
    metrics: dict[str, float]


def main() -> int:
    """Run the command; returns the exit code."""
    options = parse(Options, None, prog="python -m train.evaluate")
    try:
        _run(options)
    except DmdLiveError as error:
        print(f"train.evaluate: {error}", file=sys.stderr)
        return 2
    return 0


def _run(options: Options) -> None:
    source = checkpoint.load_any(Path(options.checkpoint))
    tokenizer = source.folder / "tokenizer.json"
    corpus = open_corpus(
        Path(options.data),
        options.data_format,
        source.config,
        tokenizer if tokenizer.exists() else None,
        Path(options.cache),
    )
    utterances = corpus.held_out(options.split)
    model = source.model.to(parallel.device(options.device))
    emotions = source.info["emotions"]

    infer = partial(predict, model, clipped=False, calibration=source.calibration)
    ids = [utterance.id for utterance in utterances]
    cut, scale = source.config.model.masked, source.config.data.sentiment_scale
    rows = subsets(infer, utterances, cut=cut, scale=scale)
    print_table(f"{len(ids)} utterances ({options.split})", rows)
    print_table("lost words and frames", robustness(infer, utterances, scale))
    found = infer(batches(utterances))
    if emotions:
        print_table("each against the rest", by_class(found, emotions))
    if options.predictions is not None:
        path = Path(options.predictions)
        write_predictions(path, options.split, ids, found, emotions, scale)
        print(f"\n{path}: {len(ids)} predictions")


def batches(utterances: Iterable[Utterance], size: int = 64) -> Iterator[Batch]:
    """Collated batches in order."""
    return (collate(part) for part in batched(utterances, size))


def subsets(
    infer: Infer, utterances: Iterable[Utterance], *, cut: bool = False, scale: float = SCALE
) -> list[Row]:
    """Metrics with only the modalities of each subset, with 95 % intervals for the full one.

    `cut`: the model masks padding, so that hidden modalities need not be passed over. `scale`: as
    of `loop.evaluate`.
    """
    rows = []
    for subset in SUBSETS:
        found = infer(keep(batch, subset, cut=cut) for batch in batches(utterances))
        rows.append(Row(name="+".join(subset), metrics=_metrics(found, scale)))
        if subset == MODALITIES:
            low, high = bootstrap(partial(_metrics, found, scale), len(found["sentiment"]))
            rows += [Row(name="  95 % from", metrics=low), Row(name="  to", metrics=high)]
    return rows


def robustness(infer: Infer, utterances: Iterable[Utterance], scale: float = SCALE) -> list[Row]:
    """Metrics when each word and each frame is lost with probability 0, 0.1 ... 0.9."""
    rows = []
    for rate in _RATES:
        generator = torch.Generator().manual_seed(0)
        found = infer(lossy(batch, rate, generator) for batch in batches(utterances))
        rows.append(Row(name=f"{rate:.1f} lost", metrics=_metrics(found, scale)))
    return rows


def by_class(found: Predictions, names: Sequence[str]) -> list[Row]:
    """Accuracy and weighted F1 of each class against the rest, as MulT reports IEMOCAP
    (yaohungt/Multimodal-Transformer, `src/eval_metrics.py`)."""
    known = found["emotion_label"] >= 0
    if not known.any():
        return []
    label, said = found["emotion_label"][known], found["emotion"][known].argmax(axis=1)
    return [
        Row(name=name, metrics=one_against_rest(said == k, label == k))
        for k, name in enumerate(names)
    ]


def lossy(batch: Batch, rate: float, generator: torch.Generator) -> Batch:
    """The batch with each row of each modality lost with probability `rate`: masked and zero. So is
    what a recogniser's encoder made of a voice, which sums up all rows."""
    out = dict(batch)
    for m in MODALITIES:
        rows = "input_ids" if m == "text" and "input_ids" in batch else m
        mask = batch[f"{m}_mask"]
        kept = mask & (torch.rand(mask.shape, generator=generator) >= rate)
        out[f"{m}_mask"] = kept
        shown = kept if batch[rows].ndim == 2 else kept[..., None]
        out[rows] = batch[rows] * shown
    heard = torch.rand(len(batch["text_mask"]), 1, generator=generator) >= rate
    out["audio_embedding"] = batch["audio_embedding"] * heard
    return out


def write_predictions(
    path: Path,
    split: str,
    ids: Sequence[str],
    found: Predictions,
    emotions: Sequence[str],
    scale: float = SCALE,
) -> None:
    """One CSV row per utterance; the file appears whole or not at all.

    `label` and `prediction` are emotions where the model has them, else sentiments in the data
    set's own unit, whose largest is `scale`.
    """
    unfinished = path.with_name(path.name + ".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    names = ["id", "split", "label", "prediction"]
    if emotions:
        names += ["sentiment_label", "sentiment_prediction", *emotions]
    with unfinished.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for k, name in enumerate(ids):
            rated = found["sentiment_label"][k] * scale / SCALE
            said = found["sentiment"][k] * scale / SCALE
            values = ["" if np.isnan(rated) else f"{rated:.6f}", f"{said:.6f}"]
            if emotions:
                label, p = int(found["emotion_label"][k]), found["emotion"][k]
                told = emotions[label] if label >= 0 else ""
                values = [told, emotions[int(p.argmax())], *values, *(f"{x:.6f}" for x in p)]
            writer.writerow([name, split, *values])
    os.replace(unfinished, path)


def print_table(title: str, rows: Iterable[Row]) -> None:
    """For people: one line per row, one column per metric that any row has."""
    rows = list(rows)
    names = [name for name in _SHOWN if any(name in row.metrics for row in rows)]
    print(f"\n{title:<24}" + "".join(f"{name:>14}" for name in names))
    for row in rows:
        cells = (f"{row.metrics[n]:14.3f}" if n in row.metrics else f"{'':>14}" for n in names)
        print(f"{row.name:<24}" + "".join(cells))


def _metrics(
    found: Predictions, scale: float, take: NDArray[np.intp] | None = None
) -> dict[str, float]:
    if take is not None:
        found = {name: values[take] for name, values in found.items()}
    return evaluate(found, found["emotion_label"], found["sentiment_label"], scale)


if __name__ == "__main__":
    sys.exit(main())
