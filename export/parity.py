"""What export costs: torch is compared with every ONNX model of a bundle, and with every engine
that runs here, on the same held-out utterances.

The outcome is the bundle's certificate, which says of every model whether it passed.
"""

import hashlib
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.config import option, parse
from runtime.engines.base import Engine
from runtime.engines.choose import candidates
from runtime.engines.ort import OrtEngine
from runtime.errors import DmdLiveError
from runtime.features.pack import INPUTS, OUTPUTS
from runtime.judging.calibration import BALANCED, Calibration
from runtime.store.bundle import Bundle
from train import checkpoint
from train.data.open import compose
from train.data.utterance import Utterance, collate
from train.loop import SUBSETS, Batch, Predictions, evaluate, here, keep, likely, predict

from . import bundle
from .certificate import SHOWN, Row, certify, verdict, verdicts, write

__all__ = ["Options", "compare", "infer_onnx", "metrics", "onnx_inputs", "run"]

# Signs and whole numbers mean something of human ratings. The labels of composed utterances are
# weak, those of neutral and surprise nearly 0: these would count the signs and roundings of noise.
_OF_RATINGS = ("acc7", "acc2_nonzero", "f1_nonzero", "acc2_haszero", "f1_haszero")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Compare torch with the bundle's ONNX models, and with the engines of this machine's GPU:
    differences and metrics, for every subset.

    Each model runs as on the device: one utterance at a time, unpadded. certificate.json and its
    table go into the bundle. A model passes when no metric on any subset differs from the fp32
    model's by more than the budget (the fp32 model is compared with torch).
    """

    checkpoint: str = option("checkpoint", metavar="FOLDER", help="what train.run wrote")
    bundle: str = option("bundle", metavar="FOLDER", help="what export.graph wrote")
    data: str = option(metavar="DIR", help="folder of the corpora that the model was trained on")
    cache: str = option("build/features", metavar="DIR", help="where extracted features are kept")
    split: str = option(
        "test", choices=("valid", "test"), help="which held-out utterances to compare on"
    )
    budget: float = option(
        0.5, metavar="POINTS", help="largest change of any metric, in hundredths"
    )


def main() -> int:
    """Run the command; returns the exit code."""
    options = parse(Options, None, prog="python -m export.parity")
    try:
        run(options)
    except DmdLiveError as error:
        print(f"export.parity: {error}", file=sys.stderr)
        return 2
    return 0


def run(options: Options) -> list[Row]:
    """Compare, print the table, write the certificate. Raises DmdLiveError."""
    source = checkpoint.load(Path(options.checkpoint))
    folder = Path(options.bundle)
    info = bundle.read_of(folder, source.folder, source.info["weights_sha256"])
    tokenizer = source.folder / "tokenizer.json"
    composer = compose(Path(options.data), source.config, tokenizer, Path(options.cache))
    utterances = composer.held_out(options.split)
    models = {precision: Bundle.load(folder, precision).model for precision in info["models"]}
    engines: dict[str, Engine] = {p: OrtEngine(model) for p, model in models.items()}
    engines |= _gpu_engines(Bundle.load(folder))
    rows = []
    calibration = Bundle.load(folder).calibration
    for subset in SUBSETS:
        rows += compare(source, engines, utterances, subset, calibration)
    if rated := composer.rated(options.split):
        rows += compare(source, engines, rated, ("text",), calibration, name="rated text")
    counts = {
        "split": options.split,
        "n_utterances": len(utterances),
        "n_rated": len(rated),
        "prior": BALANCED,  # as in train.loop.likely
    }
    hashes = {p: hashlib.sha256(model).hexdigest() for p, model in models.items()}
    certificate = certify(rows, hashes, options.budget) | counts
    write(folder, info, certificate, rows)
    print_table(rows)
    for name, found in verdicts(certificate):
        print(f"export.parity: {verdict(name, found, options.budget)}")
    return rows


def _gpu_engines(source: Bundle) -> dict[str, Engine]:
    """The bundle's engines that run on this machine's GPU, by name such as `rtx fp16`."""
    found = {}
    for name, make in candidates(source).items():
        if name == "cpu":  # its models are all compared anyway
            continue
        try:
            found[name] = make()
        except DmdLiveError as error:
            print(f"export.parity: {name} is left out: {error}", file=sys.stderr)
    return found


def compare(
    source: checkpoint.Checkpoint,
    engines: Mapping[str, Engine],
    utterances: Sequence[Utterance],
    subset: tuple[str, ...],
    calibration: Calibration | None = None,
    *,
    name: str | None = None,
) -> list[Row]:
    """Rows for torch and each engine on `utterances` with only the modalities of `subset`."""
    name = name or "+".join(subset)
    batches = [keep(collate([utterance]), subset) for utterance in utterances]
    emotion = np.array([u.emotion for u in utterances])
    sentiment = np.array([u.sentiment for u in utterances])
    shown = tqdm(batches, desc=f"{name}: torch", leave=False)
    torch_predictions = predict(source.model, shown, calibration=calibration)
    reference = metrics(torch_predictions, emotion, sentiment)
    rows = []
    for model in ("torch", *engines):
        found = (
            torch_predictions
            if model == "torch"
            else infer_onnx(
                engines[model], tqdm(batches, desc=f"{name}: {model}", leave=False), calibration
            )
        )
        values = metrics(found, emotion, sentiment)
        gaps = [np.abs(found[o] - torch_predictions[o]).ravel() for o in OUTPUTS]
        same = found["emotion"].argmax(axis=1) == torch_predictions["emotion"].argmax(axis=1)
        rows.append(
            Row(
                subset=name,
                model=model,
                metrics=values,
                change={k: value - reference[k] for k, value in values.items()},
                max_difference=float(max(gap.max() for gap in gaps)),
                mean_difference=float(np.concatenate(gaps).mean()),
                same_emotion=float(same.mean()),
            )
        )
    return rows


def metrics(found: Predictions, emotion: NDArray[Any], sentiment: NDArray[Any]) -> dict[str, float]:
    """What the certificate counts: those of `train.loop.evaluate`, but for composed utterances
    (rated ones have no emotion) without signs and roundings of the sentiment."""
    values = evaluate(found, emotion, sentiment)
    weak = bool((emotion >= 0).any())
    return {name: v for name, v in values.items() if not (weak and name in _OF_RATINGS)}


def print_table(rows: Sequence[Row]) -> None:
    """The table for people; changes in points (hundredths), MAE in its own unit."""
    head = "".join(f"{name:>18}" for name in SHOWN)
    print(f"{'modalities':<20}{'model':<15}{head}{'largest diff':>14}{'same class':>12}")
    for row in rows:
        cells = "".join(
            f"{row.metrics[m]:9.4f} ({row.change[m]:+.4f})" if m in row.metrics else " " * 18
            for m in SHOWN
        )
        print(
            f"{row.subset:<20}{row.model:<15}{cells}{row.max_difference:14.1e}"
            f"{row.same_emotion:12.1%}"
        )


def onnx_inputs(batch: Batch) -> dict[str, NDArray[Any]]:
    """A batch as an engine takes it."""
    return {name: batch[name].numpy() for name in INPUTS}


def infer_onnx(
    engine: Engine, batches: Iterable[Batch], calibration: Calibration | None = None
) -> Predictions:
    """As `train.loop.predict`: outputs of the contract and labels, each with first axis n."""
    out: dict[str, list[NDArray[Any]]] = defaultdict(list)
    for batch in batches:
        found = engine.infer(onnx_inputs(batch))
        labels = {
            f"{name}_label": batch[name].numpy() for name in ("emotion", "sentiment", "arousal")
        }
        for name, values in {**found, **labels, "present": here(batch).numpy()}.items():
            out[name].append(values)
    return likely({name: np.concatenate(values) for name, values in out.items()}, calibration)


if __name__ == "__main__":
    sys.exit(main())
