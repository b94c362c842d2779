"""fp32 graph -> a smaller or faster graph (`export/recipes.py`), whose cost is measured and kept
within a budget by leaving the most sensitive parts in higher precision."""

import logging
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from runtime.config import option, parse
from runtime.engines.ort import OrtEngine
from runtime.errors import DmdLiveError, UsageError
from runtime.features.pack import OUTPUTS
from runtime.judging.calibration import Calibration
from runtime.store.bundle import Bundle
from runtime.system.files import write_file
from train.data.open import compose
from train.data.utterance import Utterance, collate
from train.loop import SUBSETS, keep

from . import bundle
from .certificate import Metrics, worst_change
from .parity import infer_onnx, metrics, onnx_inputs
from .recipes import CALIBRATION, PRECISIONS, Maker

__all__ = ["Judge", "Options", "quantize", "run"]

_N_EXAMPLES = 96
_N_RANKING = 100
_N_TIMED = 30
_N_RATED = 2_000


@dataclass(frozen=True, kw_only=True)
class Options:
    """Add a quantized model to a bundle, as accurate as the fp32 model within a budget.

    The model is compared with fp32 on the validation split, every metric on every subset of
    modalities. Where it costs more than the budget, the most sensitive parts are found by
    measurement and stay in higher precision.
    """

    bundle: str = option("bundle", metavar="FOLDER", help="a bundle with an fp32 model")
    data: str = option(metavar="DIR", help="folder of the corpora that the model was trained on")
    recipe: str = option(
        "int8-dynamic",
        choices=(*PRECISIONS, "auto"),
        help="auto tries all recipes; the fastest on this machine that keeps the budget becomes "
        "the one that the runtime loads by default",
    )
    budget: float = option(
        0.5,
        metavar="POINTS",
        help="largest change of any metric on validation data, in hundredths; if export.parity "
        "then finds more on the test split, choose a smaller one: more parts stay unquantized",
    )
    calibration: str = option(
        "minmax", choices=tuple(CALIBRATION), help="how int8-qdq and mixed choose scales"
    )
    cache: str = option("build/features", metavar="DIR", help="where extracted features are kept")


def main() -> int:
    """Run the command; returns the exit code."""
    options = parse(Options, None, prog="python -m export.quantize")
    try:
        run(options)
    except DmdLiveError as error:
        print(f"export.quantize: {error}", file=sys.stderr)
        return 2
    return 0


def run(options: Options) -> None:
    """Quantize by one recipe, or by all; see `quantize`. Raises DmdLiveError."""
    folder = Path(options.bundle)
    source = Bundle.load(folder, "fp32")
    config = bundle.settings(source)
    # Twice what training validates on: of few utterances, each moves a metric too far.
    config = replace(config, data=replace(config.data, n_valid=2 * config.data.n_valid))
    composer = compose(Path(options.data), config, source.tokenizer_json, Path(options.cache))
    spread = np.linspace(0, composer.n_training - 1, _N_EXAMPLES).astype(int)
    examples = [composer.training(0, int(k)) for k in spread]
    rated = composer.rated("valid", _N_RATED)
    judge = Judge(source.model, composer.held_out("valid"), rated, source.calibration)
    recipes = tuple(PRECISIONS) if options.recipe == "auto" else (options.recipe,)
    times: dict[str, float] = {}
    for recipe in recipes:
        try:
            ms = quantize(
                folder,
                recipe,
                examples,
                judge,
                budget=options.budget,
                calibration=options.calibration,
            )
        except UsageError as error:
            if options.recipe != "auto":
                raise
            print(f"export.quantize: {error}")
            continue
        times[PRECISIONS[recipe]] = ms
    if options.recipe == "auto":
        times["fp32"] = judge.milliseconds(source.model)
        ranked = sorted(times, key=times.__getitem__)
        bundle.update(folder, {"fastest": ranked[0]})
        shown = ", ".join(f"{precision} {times[precision]:.1f} ms" for precision in ranked)
        print(f"export.quantize: fastest first: {shown}")


def quantize(
    folder: Path,
    recipe: str,
    examples: Sequence[Utterance],
    judge: "Judge",
    *,
    budget: float = 0.5,
    calibration: str = "minmax",
) -> float:
    """Write the recipe's model next to the fp32 model; returns its median time in milliseconds.

    `examples` calibrate, `judge` compares with the fp32 model. Raises UsageError, and writes
    nothing, when no choice of parts keeps the budget; BundleError for a damaged bundle.
    """
    source = Bundle.load(folder, "fp32")
    with _quiet(), tempfile.TemporaryDirectory(dir=folder, prefix=".quantize-") as temporary:
        maker = Maker(source.model, recipe, calibration, examples, Path(temporary))
        model, change, left_out = _within(budget, recipe, maker, judge)
    precision = PRECISIONS[recipe]
    name = f"model.{precision}.onnx"
    write_file(folder / name, model)
    facts = {
        "recipe": recipe,
        "calibration": calibration if recipe in ("int8-qdq", "mixed") else None,
        "higher_precision": left_out,
        "budget_points": budget,
        "change_points": round(change, 3),
    }
    bundle.update(folder, {"models": {precision: name}, "quantization": {precision: facts}})
    ms = judge.milliseconds(model)
    sizes = [len(m) / 1e6 for m in (source.model, model)]
    print(
        f"export.quantize: {sizes[0]:.1f} MB fp32 -> {sizes[1]:.1f} MB {precision}, {ms:.1f} ms an"
        " utterance on one thread"
    )
    return ms


def _within(
    budget: float, recipe: str, maker: Maker, judge: "Judge"
) -> tuple[bytes, float, list[str]]:
    """The first model that keeps the budget, its change in points, and the parts left out."""
    left_out: list[str] = []
    ranking: list[str] | None = None
    while True:
        model = maker.make(left_out)
        change, where = judge.change(model)
        print(f"export.quantize: {recipe}: {change:.2f} points at most ({where})", flush=True)
        if change <= budget:
            return model, change, left_out
        if ranking is None:
            ranking = _most_sensitive_first(maker, judge)
        if not ranking:
            raise UsageError(
                f"{recipe} changes {where} by {change:.2f} points, over {budget}; allow more "
                "with --budget, or choose another --recipe"
            )
        left_out.append(ranking.pop(0))
        print(f"export.quantize: {left_out[-1]} stays in higher precision", flush=True)


class Judge:
    """What a model costs against the fp32 model, on utterances with every subset of modalities."""

    def __init__(
        self,
        fp32: bytes,
        utterances: Sequence[Utterance],
        rated: Sequence[Utterance] = (),
        calibration: Calibration | None = None,
    ) -> None:
        self._calibration = calibration
        self._batches = {"+".join(s): [keep(collate([u]), s) for u in utterances] for s in SUBSETS}
        if rated:  # sentences, by people: the only sentiments whose sign and size count
            self._batches["rated text"] = [collate([u]) for u in rated]
        self._timed = [collate([u]) for u in utterances[:_N_TIMED]]
        self._some = [b for batches in self._batches.values() for b in batches[::7]][:_N_RANKING]
        engine = OrtEngine(fp32)
        self._metrics = self._measure(engine)
        self._outputs = infer_onnx(engine, self._some, self._calibration)

    def change(self, model: bytes) -> tuple[float, str]:
        """Largest change of any metric in points, and where."""
        change, metric, subset = worst_change(self._measure(OrtEngine(model)), self._metrics)
        return change, f"{metric} of {subset}"

    def distance(self, model: bytes) -> float:
        """Mean difference of the outputs on some of the utterances."""
        found = infer_onnx(OrtEngine(model), self._some, self._calibration)
        return float(np.mean([np.abs(found[o] - self._outputs[o]).mean() for o in OUTPUTS]))

    def milliseconds(self, model: bytes) -> float:
        """Median time of one utterance with all modalities, one thread."""
        engine = OrtEngine(model, n_threads=1)
        times = []
        for batch in self._timed:
            inputs = onnx_inputs(batch)
            engine.infer(inputs)  # the first run of a shape sets memory up
            start = time.perf_counter()
            engine.infer(inputs)
            times.append(time.perf_counter() - start)
        return 1e3 * float(np.median(times))

    def _measure(self, engine: OrtEngine) -> Metrics:
        found = {
            name: infer_onnx(engine, batches, self._calibration)
            for name, batches in self._batches.items()
        }
        return {
            name: metrics(outputs, outputs["emotion_label"], outputs["sentiment_label"])
            for name, outputs in found.items()
        }


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice that the quantizer gives on the root logger."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def _most_sensitive_first(maker: Maker, judge: Judge) -> list[str]:
    """Parts, by what each costs when it alone is quantized."""
    parts = maker.parts
    cost = {p: judge.distance(maker.make([q for q in parts if q != p])) for p in parts}
    return sorted(cost, key=cost.__getitem__, reverse=True)


if __name__ == "__main__":
    sys.exit(main())
