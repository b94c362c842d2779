"""Fit anew what reads sentiment and arousal: `python -m export.readout --bundle DIR --data DIR`.

Both are linear in the last hidden layer of the fusion. Training finds them by absolute error,
beside the emotions. Here they are fitted by squared error, which correlation depends on, on the
very graph that ships. All else stays as it is: emotions are the same bit for bit.
"""

import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor
from tqdm import tqdm

from runtime.config import option, parse
from runtime.engines.golden import GOLDEN, renewed
from runtime.engines.ort import OrtEngine
from runtime.errors import BundleError, DmdLiveError, UsageError
from runtime.features.pack import OUTPUTS
from runtime.features.spec import MODALITIES
from runtime.store.bundle import CERTIFICATE, Bundle
from runtime.system.files import write_file
from train.config import Config
from train.data.compose import Composer
from train.data.labels import UNKNOWN
from train.data.open import compose
from train.data.utterance import Utterance, collate
from train.loop import Batch, hide, keep
from train.metrics import sentiment_metrics
from train.provenance import commit

from . import bundle
from .certificate import note_fit
from .parity import onnx_inputs

__all__ = ["Graph", "Head", "Options", "fit", "run"]

Float = NDArray[np.float32]
Told = dict[str, Float]

# What is fitted, and the layer whose first row it is; the rows after sentiment are the emotions.
_LAYERS = {"sentiment": "dmd.fused_head.out", "arousal": "dmd.arousal_head"}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Fit anew what reads sentiment and arousal out of a bundle's model, after export.parity.

    It is fitted on training data, the model being the one that the runtime would load. Prints the
    correlations on validation data, before and after.
    """

    bundle: str = option("bundle", metavar="FOLDER", help="the bundle to begin with")
    data: str = option(metavar="DIR", help="folder of the corpora that the model was trained on")
    n: int = option(
        20_000, metavar="N", help="utterances of training to fit on, besides all rated sentences"
    )
    penalty: float = option(
        0.1, metavar="WEIGHT", help="what a change of weights costs; more keeps them as they are"
    )
    cache: str = option("build/features", metavar="DIR", help="where extracted features are kept")
    out: str = option(
        metavar="FOLDER", help="the bundle to write; must not exist, or must hold a bundle"
    )


@dataclass(frozen=True)
class Head:
    """A linear layer's weights (n,) and bias for one output; `squashed`: tanh follows it."""

    weight: Float
    bias: float
    squashed: bool = False

    def __call__(self, hidden: Float) -> Float:
        """(N, n) hidden values -> (N,) outputs; sentiments are not clipped."""
        raw = hidden @ self.weight + self.bias
        return np.asarray(np.tanh(raw) if self.squashed else raw, np.float32)


def main() -> int:
    """Run the command; returns the exit code."""
    options = parse(Options, None, prog="python -m export.readout")
    try:
        run(options)
    except DmdLiveError as error:
        print(f"export.readout: {error}", file=sys.stderr)
        return 2
    return 0


def run(options: Options) -> None:
    """Fit, compare, and write a bundle. Raises DmdLiveError, and then has written nothing."""
    folder, out = Path(options.bundle), Path(options.out)
    bundle.require_free(out)
    if options.n < 1 or options.penalty < 0:
        raise UsageError("--n is at least 1, and --penalty at least 0")
    source = Bundle.load(folder)
    settings = bundle.settings(source)
    composer = compose(Path(options.data), settings, source.tokenizer_json, Path(options.cache))
    graph = Graph(source.model)
    told = _training(graph, composer, settings, options.n)
    fitted = {}
    for name, head in graph.heads.items():
        fitted[name] = fit(head, told["hidden"], told[name], options.penalty)
    composed, rated = composer.held_out("valid"), composer.rated("valid", sys.maxsize)
    for where, utterances in (("composed utterances", composed), ("rated sentences", rated)):
        if utterances:
            found = graph.read(_each(utterances, f"{where}, validation"))
            for name, head in graph.heads.items():
                before, after = (correlation(h, found, name) for h in (head, fitted[name]))
                print(f"{name} of {where}, validation: r {before:.3f} before, {after:.3f} after")
    model = graph.with_heads(fitted)
    _require_same(source.model, model, composed[::10])
    facts = {"n": options.n, "penalty": options.penalty, "commit": commit()}
    _write(source, model, facts, out)


def _training(graph: "Graph", composer: Composer, settings: Config, n: int) -> Told:
    """What the graph makes of `n` training utterances, spread over a pass, and of all rated
    sentences, which count as often as they come in a pass."""
    spread = np.linspace(0, composer.n_training - 1, n).astype(int)
    rng, rate = np.random.default_rng(settings.seed), settings.data.modality_dropout
    drawn = (hide(collate([composer.training(0, int(k))]), rate, rng) for k in spread)
    found = graph.read(tqdm(drawn, "training", n, leave=False))
    rated = [u for u in composer.sentences() if u.emotion == UNKNOWN]
    if not rated:
        return found
    often = Counter((u.words, u.sentiment) for u in rated)
    once = {(u.words, u.sentiment): u for u in rated}
    said = graph.read(_each(list(once.values()), "rated sentences"))
    repeats = [often[key] for key in once]
    return {k: np.concatenate([found[k], np.repeat(said[k], repeats, axis=0)]) for k in found}


def fit(head: Head, hidden: Float, labels: Float, penalty: float) -> Head:
    """The head that is best by squared error on (N, n) `hidden` and (N,) `labels`, NaN where
    unknown; `penalty` times the squared change of its weights, of standardised features, is added.
    """
    known = ~np.isnan(labels)
    x, y = torch.from_numpy(hidden[known]).double(), torch.from_numpy(labels[known]).double()
    mean, deviation = x.mean(dim=0), x.std(dim=0) + 1e-6
    raw = x @ torch.from_numpy(head.weight).double() + head.bias
    x = (x - mean) / deviation
    change = torch.zeros(x.shape[1], dtype=torch.float64, requires_grad=True)
    shift = torch.zeros((), dtype=torch.float64, requires_grad=True)
    descent = torch.optim.LBFGS([change, shift], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        descent.zero_grad()
        said = raw + x @ change + shift
        gap = (said.tanh() if head.squashed else said) - y
        total: Tensor = (gap**2).mean() + penalty * (change**2).sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    descent.step(loss)  # type: ignore[no-untyped-call]
    added = (change / deviation).detach()
    bias = head.bias + float(shift.detach() - mean @ added)
    return Head(np.asarray(head.weight + added.numpy(), np.float32), bias, head.squashed)


def correlation(head: Head, found: Told, name: str) -> float:
    """Pearson's r of what the head says of `hidden` and the labels `name`, where known."""
    known = ~np.isnan(found[name])
    return sentiment_metrics(head(found["hidden"][known]), found[name][known])["corr"]


class Graph:
    """A model whose last hidden layer can be read, and whose `heads` can be replaced.

    Raises BundleError for a graph that lacks one of them.
    """

    def __init__(self, model: bytes) -> None:
        self._model = onnx.load_from_string(model)
        stored = {i.name: numpy_helper.to_array(i) for i in self._model.graph.initializer}
        try:
            self.heads = {
                name: Head(
                    stored[f"{layer}.weight"][0].astype(np.float32),
                    float(stored[f"{layer}.bias"][0]),
                    squashed=name == "arousal",
                )
                for name, layer in _LAYERS.items()
            }
        except KeyError as error:
            raise BundleError(f"the graph has no weights {error}; export it again") from error
        weights = {f"{layer}.weight" for layer in _LAYERS.values()}
        (self._hidden,) = {n.input[0] for n in self._model.graph.node if weights & {*n.input}}
        told = onnx.ModelProto()
        told.CopyFrom(self._model)
        told.graph.output.append(onnx.helper.make_empty_tensor_value_info(self._hidden))
        self._engine = OrtEngine(told.SerializeToString(), n_threads=1)

    def read(self, batches: Iterable[Batch]) -> Told:
        """Of one utterance a batch, as on the device: `hidden` (N, n), and the labels, each (N,)
        with NaN for unknown, by the names of `heads`."""
        found: dict[str, list[NDArray[Any]]] = defaultdict(list)
        for batch in batches:
            there = [m for m in MODALITIES if batch[f"{m}_mask"].any()]
            inputs = onnx_inputs(keep(batch, there, cut=True))
            found["hidden"].append(self._engine.infer(inputs)[self._hidden])
            for name in self.heads:
                found[name].append(batch[name].numpy())
        return {name: np.concatenate(values).astype(np.float32) for name, values in found.items()}

    def with_heads(self, heads: Mapping[str, Head]) -> bytes:
        """The model with these heads."""
        changed = onnx.ModelProto()
        changed.CopyFrom(self._model)
        for stored in changed.graph.initializer:
            layer, _, kind = stored.name.rpartition(".")
            for name, head in heads.items():
                if layer == _LAYERS[name] and kind in ("weight", "bias"):
                    values = numpy_helper.to_array(stored).copy()
                    values[0] = head.weight if kind == "weight" else head.bias
                    stored.CopyFrom(numpy_helper.from_array(values, stored.name))
        return bytes(changed.SerializeToString())


def _each(utterances: Sequence[Utterance], shown: str) -> Iterable[Batch]:
    """Each alone, with a progress bar."""
    return (collate([u]) for u in tqdm(utterances, shown, leave=False))


def _require_same(before: bytes, after: bytes, utterances: Sequence[Utterance]) -> None:
    """Raises BundleError where an output that is not fitted has changed by a bit."""
    engines = OrtEngine(before), OrtEngine(after)
    for utterance in utterances:
        inputs = onnx_inputs(collate([utterance]))
        old, new = (engine.infer(inputs) for engine in engines)
        for name in {*OUTPUTS} - {*_LAYERS}:
            if not np.array_equal(old[name], new[name]):
                raise BundleError(f"{name} has changed, which was not fitted: this is a mistake")


def _write(source: Bundle, model: bytes, facts: Mapping[str, Any], out: Path) -> None:
    """The bundle with that model; what was certified, measured and known of the old one says so."""
    with bundle.written(out) as partial:
        shutil.copytree(source.folder, partial, dirs_exist_ok=True)
        write_file(partial / source.info["models"][source.precision], model)
        documents = source.info.get("documents", [])
        if GOLDEN in documents:
            known = (partial / GOLDEN).read_bytes()
            write_file(partial / GOLDEN, renewed(known, OrtEngine(model), tuple(_LAYERS)))
        if CERTIFICATE in documents:
            note_fit(partial, source.precision, model)
        bundle.update(partial, {"readout": {source.precision: facts}})
    Bundle.load(out)
    print(f"{out}: sentiment and arousal are fitted; run python -m export.measure again")


if __name__ == "__main__":
    sys.exit(main())
