"""How good a model is on each corpus alone: `python -m export.measure --data DIR`.

Every line is one metric of one modality on the held-out people or sentences of one corpus, for
every ONNX model of the bundle, and for the torch model and the teacher where they are given. Each
model runs as on the device: one utterance at a time, with the features of the runtime. Composed
utterances and subsets of modalities: `export.parity`.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.config import option, parse
from runtime.engines.base import Arrays, Engine
from runtime.engines.ort import OrtEngine
from runtime.errors import DmdLiveError
from runtime.judging.calibration import CONVERSATION, Calibration
from runtime.judging.reading import read
from runtime.store.bundle import Bundle
from train import checkpoint
from train.data.open import compose
from train.data.utterance import Utterance
from train.loop import Predictions, predict
from train.models.dmd import DMD
from train.provenance import commit
from train.teacher import Teacher

from . import bundle
from .coverage import Infer, draw, singly
from .lines import Line, lines
from .parity import infer_onnx

__all__ = ["Measured", "Options", "measure", "run", "table"]

_Retell = Callable[[Utterance], Utterance]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure a bundle, and the checkpoint it is made of, on the held-out part of every corpus.

    Prints a Markdown table, writes it into bundle.json, and draws coverage.png: how much of the
    composed test is left, and how much of that is wrong, by the confidence asked for.
    """

    bundle: str = option("bundle", metavar="DIR", help="the bundle that export.graph wrote")
    checkpoint: str | None = option(
        None, metavar="DIR", help="what it is made of: measured too; default: the bundle alone"
    )
    teacher: str | None = option(None, metavar="DIR", help="checkpoint of the teacher, if any")
    data: str = option(metavar="DIR", help="folder of the corpora (train/data/corpora.py)")
    cache: str = option("build/features", metavar="DIR", help="where extracted features are kept")


@dataclass(frozen=True)
class Measured:
    """A line's value for each model, by name."""

    name: str
    metric: str
    n: int
    values: dict[str, float]


def main() -> int:
    """Run the command; returns the exit code."""
    options = parse(Options, None, prog="python -m export.measure")
    try:
        run(options)
    except DmdLiveError as error:
        print(f"export.measure: {error}", file=sys.stderr)
        return 2
    return 0


def run(options: Options) -> list[Measured]:
    """Measure, print the table, write it and the picture into the bundle. Raises DmdLiveError."""
    folder, data, cache = Path(options.bundle), Path(options.data), Path(options.cache)
    loaded = Bundle.load(folder)
    calibration, tokenizer = loaded.calibration, loaded.tokenizer_json
    settings = bundle.settings(loaded)
    models: dict[str, Infer] = {}
    retell: dict[str, _Retell] = {}
    if options.teacher is not None:
        teacher = Teacher(Path(options.teacher), torch.device("cpu"))
        models["teacher"] = _torch(teacher.model, teacher.calibration)
        retell["teacher"] = teacher.retold
    if options.checkpoint is not None:
        source = checkpoint.load(Path(options.checkpoint))
        bundle.read_of(folder, source.folder, source.info["weights_sha256"])
        models["torch"] = _torch(source.model, calibration)
    for precision in loaded.info["models"]:
        engine = OrtEngine(Bundle.load(folder, precision).model)
        models[precision] = _onnx(engine, calibration)
    every = lines(data, cache, tokenizer, embeddings=settings.data.unheard_share < 1.0)
    found = measure(models, every, retell)
    print(table(found))
    # As it is now: another command may have written to it in the meantime.
    documents = sorted({*bundle.read(folder).get("documents", []), "coverage.png"})
    draw(
        folder / "coverage.png",
        models.get("int8", models[loaded.precision]),
        compose(data, settings, tokenizer, cache).held_out("test"),
        calibration,
    )
    measured = {
        "commit": commit(),
        "prior": CONVERSATION,
        "lines": [asdict(line) for line in found],
    }
    bundle.update(folder, {"measured": measured, "documents": documents})
    return found


def measure(
    models: dict[str, Infer], wanted: Sequence[Line], retell: dict[str, _Retell]
) -> list[Measured]:
    """Every line by every model; `retell` of those that read other word pieces."""
    out = []
    known: dict[tuple[str, str], Predictions] = {}
    for line in wanted:
        values = {}
        for name, infer in models.items():
            shown = f"{line.name}: {name}"
            own = retell.get(name, _as_it_is)
            key = (name, line.name)
            if key not in known:  # lines that differ in their metric alone share what was said
                test = [own(u) for u in line.utterances]
                known[key] = infer(tqdm(singly(test), shown, len(test), leave=False))
            values[name] = line.score(known[key])
        out.append(Measured(line.name, line.metric, len(line.utterances), values))
    return out


def table(found: Sequence[Measured]) -> str:
    """Markdown; correlation as it is, everything else in percent."""
    names = list(found[0].values)
    rows = [
        f"| Held-out data | Metric | Items | {' / '.join(names)} |",
        "| --- | --- | --- | --- |",
    ]
    for line in found:
        values = (
            f"{v:.3f}" if line.metric.startswith("correlation") else f"{100 * v:.1f}"
            for v in line.values.values()
        )
        rows.append(f"| {line.name} | {line.metric} | {line.n} | {' / '.join(values)} |")
    return "\n".join(rows)


def _torch(model: DMD, calibration: Calibration) -> Infer:
    return lambda batches: _in_conversation(predict(model, batches), calibration)


def _onnx(engine: OrtEngine, calibration: Calibration) -> Infer:
    reading = _Reading(engine, calibration)
    return lambda batches: _in_conversation(infer_onnx(reading, batches), calibration)


class _Reading:
    """An engine that reads as the product does."""

    def __init__(self, engine: Engine, calibration: Calibration) -> None:
        self._engine, self._calibration = engine, calibration
        self.name, self.precision = engine.name, engine.precision

    def infer(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        return read(self._engine, inputs, self._calibration, CONVERSATION)


def _in_conversation(found: Predictions, calibration: Calibration) -> Predictions:
    """With the probabilities that the product says where nothing else is asked for."""
    probabilities = calibration.probabilities(found["logits"], found["present"], CONVERSATION)
    return found | {"emotion": probabilities}


def _as_it_is(utterance: Utterance) -> Utterance:
    return utterance


if __name__ == "__main__":
    sys.exit(main())
