"""What a model is worth on each corpus alone: `python -m export.measure --data DIR`.

Every line is a corpus whose held-out people or sentences no training saw, one modality, one metric,
for the torch model, every ONNX model of the bundle, and the teacher if there is one. Each model
runs as on the device: one utterance at a time, features of the runtime. Composed utterances and
subsets of modalities: `export.parity`.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn import metrics as sk
from tqdm import tqdm

from runtime.config import option, parse
from runtime.engines.ort import OrtEngine
from runtime.errors import DmdLiveError
from runtime.features.normal import SpeechStatistics
from runtime.features.spec import SPEC
from runtime.features.text import TextFeatures
from runtime.judging.calibration import Calibration
from runtime.store.bundle import Bundle
from train import checkpoint
from train.config import Config
from train.data import corpora
from train.data.open import compose
from train.data.utterance import Utterance, collate
from train.loop import Batch, Predictions, keep, predict
from train.models.dmd import DMD
from train.prepare import prepare
from train.provenance import commit
from train.teacher import Teacher

from . import bundle
from .parity import infer_onnx

__all__ = ["Line", "Measured", "Options", "coverage", "lines", "measure", "run"]

_Infer = Callable[[Iterable[Batch]], Predictions]
_Retell = Callable[[Utterance], Utterance]
_SHOWN_S = 2.0  # a picture is looked at for this long
_NAMES = {
    "emodb": "EmoDB, speakers 15, 16",
    "ravdess": "RAVDESS, actors 11, 12",
    "nemo": "nEMO, speakers IC0, TP0",
    "digits": "digits, one ordinary man",
    "plain": "synthetic voices",
    "ckplus48": "CK+, unseen people",
    "ferplus": "FER+, half of the validation pictures",
}
_VOICES_OF = {"digits": "valid"}  # of three people, one is kept aside
_MOST = 600  # items of a line: each is judged alone by every model, as on the device
_NEUTRAL_ONLY = ("digits", "plain")
_CURVES = (("text", "audio", "vision"), ("text",), ("audio",), ("vision",))


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure a checkpoint and its bundle on the held-out part of every corpus.

    Prints a Markdown table, writes it into bundle.json, and draws coverage.png: how much of the
    composed test is left, and how much of that is wrong, by the confidence asked for.
    """

    checkpoint: str = option("checkpoint", metavar="DIR", help="what train.run wrote")
    bundle: str = option("bundle", metavar="DIR", help="what export.graph wrote of it")
    teacher: str | None = option(None, metavar="DIR", help="checkpoint of the teacher, if any")
    data: str = option(metavar="DIR", help="folder of the corpora (train/data/corpora.py)")
    cache: str = option("build/features", metavar="DIR", help="extracted features, made once")


@dataclass(frozen=True)
class Line:
    """Utterances of one corpus, and what is measured on their predictions."""

    name: str
    metric: str
    utterances: Sequence[Utterance]
    score: Callable[[Predictions], float]


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
    source, folder, data = (
        checkpoint.load(Path(options.checkpoint)),
        Path(options.bundle),
        Path(options.data),
    )
    info = bundle.read(folder)
    tokenizer = source.folder / "tokenizer.json"
    models: dict[str, _Infer] = {}
    retell: dict[str, _Retell] = {}
    if options.teacher is not None:
        teacher = Teacher(Path(options.teacher), torch.device("cpu"))
        models["teacher"] = _torch(teacher.model, teacher.calibration)
        retell["teacher"] = teacher.retold
    calibration = Bundle.load(folder).calibration
    models["torch"] = _torch(source.model, calibration)
    for precision in info["models"]:
        engine = OrtEngine(Bundle.load(folder, precision).model)
        models[precision] = _onnx(engine, calibration)
    found = measure(models, lines(data, Path(options.cache), tokenizer), retell)
    print(table(found))
    _draw(
        folder / "coverage.png",
        models.get("int8", models["torch"]),
        _composed_test(data, source.config, tokenizer, Path(options.cache)),
        calibration,
    )
    # As it is now: another command may have written to it in the meantime.
    documents = sorted({*bundle.read(folder).get("documents", []), "coverage.png"})
    measured = {"commit": commit(), "lines": [asdict(line) for line in found]}
    bundle.update(folder, {"measured": measured, "documents": documents})
    return found


def lines(data: Path, cache: Path, tokenizer_json: Path) -> list[Line]:
    """The lines that the corpora below `data` allow. Raises DataError."""
    have = [name for name, folder in corpora.CORPORA.items() if (data / folder).is_dir()]
    text = TextFeatures(tokenizer_json)
    n_special = len(text.ids(""))
    sentences = corpora.texts(data, have)
    features = prepare(data, cache, have)

    def said(corpus: str, split: str) -> list[Utterance]:
        return [
            _utterance(
                text=ids,
                words=t.text,
                emotion=t.emotion,
                sentiment=_sentiment(t),
                arousal=float("nan") if t.arousal is None else t.arousal,
            )
            for t in sentences
            if t.corpus == corpus
            and t.split == split
            # Longer ones are cut in two on the device; without a word, text is absent there.
            and n_special < len(ids := text.ids(t.text)) <= SPEC.max_pieces
        ]

    out = [
        Line("GoEmotions, Ekman level", "macro-F1", said("goemotions", "test"), _macro_f1),
        Line("MELD, no context", "weighted F1", said("meld", "test"), _weighted_f1),
        Line(
            "movie reviews (VADER ratings)",
            "correlation",
            said("vader/movieReviewSnippets", "test"),
            _correlation,
        ),
    ]
    for name, corpus in (("MOSI, validation", "mosi"), ("MOSEI, validation", "mosei")):
        rated = said(corpus, "valid")
        out += [Line(name, "correlation", rated, _correlation)]
        out += [Line(name, "Acc-2, non-zero", rated, _acc2_nonzero)]
    valued = said("emobank", "valid")
    out += [Line("EmoBank, validation", "correlation of valence", valued, _correlation)]
    out += [Line("EmoBank, validation", "correlation of arousal", valued, _arousal)]
    heard: dict[str, list[Utterance]] = {}
    for r, versions in features.voices:
        if r.split == _VOICES_OF.get(r.corpus, "test"):
            rows = SpeechStatistics().normalise(versions[0])
            heard.setdefault(r.corpus, []).append(_utterance(audio=rows, emotion=r.emotion))
    for corpus, voices in heard.items():
        score, metric = (_accuracy, "accuracy") if corpus in _NEUTRAL_ONLY else (_uar, "UAR")
        out.append(Line(f"{_NAMES[corpus]}, voice alone", metric, voices, score))
    n_rows = round(_SHOWN_S * SPEC.vision_rate_hz)
    seen: dict[str, list[Utterance]] = {}
    for r, row in features.faces:
        if r.split == "test":
            shown = _utterance(vision=np.tile(row, (n_rows, 1)), emotion=r.emotion)
            seen.setdefault(r.corpus, []).append(shown)
    for corpus, faces in seen.items():
        name = f"{_NAMES[corpus]}, shown for {_SHOWN_S:.0f} s"
        out += [Line(name, "accuracy", faces, _accuracy), Line(name, "UAR", faces, _uar)]
    return [replace(line, utterances=_some(line.utterances)) for line in out if line.utterances]


def _some(utterances: Sequence[Utterance]) -> Sequence[Utterance]:
    """At most `_MOST` of them, spread evenly; the same ones for lists of equal length."""
    if len(utterances) <= _MOST:
        return utterances
    return [utterances[int(k)] for k in np.linspace(0, len(utterances) - 1, _MOST)]


def measure(
    models: dict[str, _Infer], wanted: Sequence[Line], retell: dict[str, _Retell]
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
                known[key] = infer(tqdm(_singly(test), shown, len(test), leave=False))
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


def coverage(
    probabilities: NDArray[Any], labels: NDArray[Any], thresholds: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Share of predictions at least as confident as each threshold, and of wrong ones among them
    (NaN where none is left). `probabilities` (n, k), `labels` (n,)."""
    confidence, wrong = probabilities.max(axis=1), probabilities.argmax(axis=1) != labels
    accepted = confidence >= thresholds[:, None]  # (thresholds, n)
    n = accepted.sum(axis=1)
    error = np.divide((accepted & wrong).sum(axis=1), n, where=n > 0, out=np.full(len(n), np.nan))
    return accepted.mean(axis=1), error


def _draw(
    path: Path, infer: _Infer, utterances: Sequence[Utterance], calibration: Calibration
) -> None:
    """Coverage and error against the confidence asked for, for some subsets of modalities; a line
    where each subset's answers become uncertain."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    thresholds = np.linspace(0.0, 0.99, 100)
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for subset in _CURVES:
        batches = (keep(batch, subset) for batch in _singly(utterances))
        found = infer(tqdm(batches, "coverage.png", len(utterances), leave=False))
        curves = coverage(found["emotion"], found["emotion_label"], thresholds)
        name = "+".join(subset)
        for axis, values in zip(axes, curves, strict=True):
            (line,) = axis.plot(thresholds, 100 * values, label=name)
            needed = calibration.uncertain_below.get(name, 0.0)
            axis.axvline(needed, color=line.get_color(), linestyle=":")
    for axis, name in zip(axes, ("utterances left, %", "of these wrong, %"), strict=True):
        axis.set(xlabel="confidence asked for", ylabel=name, xlim=(0, 1), ylim=(0, None))
    axes[0].set_title("dotted: uncertain below", fontsize=9)
    axes[0].legend(fontsize=8)
    partial = path.with_name(f"{path.stem}.partial.png")
    figure.savefig(partial, dpi=80)
    plt.close(figure)
    partial.replace(path)


def _composed_test(
    data: Path, settings: Config, tokenizer: Path, cache: Path
) -> Sequence[Utterance]:
    return compose(data, settings, tokenizer, cache).held_out("test")


def _torch(model: DMD, calibration: Calibration) -> _Infer:
    return lambda batches: _in_conversation(predict(model, batches), calibration)


def _onnx(engine: OrtEngine, calibration: Calibration) -> _Infer:
    return lambda batches: _in_conversation(infer_onnx(engine, batches), calibration)


def _in_conversation(found: Predictions, calibration: Calibration) -> Predictions:
    """With the probabilities that the product says where nothing else is asked for."""
    return found | {"emotion": calibration.probabilities(found["logits"], found["present"])}


def _singly(utterances: Sequence[Utterance]) -> Iterable[Batch]:
    return (collate([utterance]) for utterance in utterances)


def _utterance(**given: Any) -> Utterance:
    nothing = Utterance(
        text=np.zeros(0, np.int64),
        audio=np.zeros((0, SPEC.audio_dim), np.float32),
        vision=np.zeros((0, SPEC.vision_dim), np.float32),
        emotion=-1,
        sentiment=float("nan"),
    )
    return replace(nothing, **given)


def _as_it_is(utterance: Utterance) -> Utterance:
    return utterance


def _sentiment(text: corpora.Text) -> float:
    told = text.rating if text.rating is not None else text.polarity
    return float("nan") if told is None else told


def _top(found: Predictions) -> NDArray[Any]:
    return np.asarray(found["emotion"].argmax(axis=1))


def _macro_f1(found: Predictions) -> float:
    return float(sk.f1_score(found["emotion_label"], _top(found), average="macro"))


def _weighted_f1(found: Predictions) -> float:
    return float(sk.f1_score(found["emotion_label"], _top(found), average="weighted"))


def _accuracy(found: Predictions) -> float:
    return float(sk.accuracy_score(found["emotion_label"], _top(found)))


def _uar(found: Predictions) -> float:
    labels = found["emotion_label"]  # recall over the classes that occur
    return float(sk.recall_score(labels, _top(found), labels=np.unique(labels), average="macro"))


def _correlation(found: Predictions) -> float:
    return float(np.corrcoef(found["sentiment"], found["sentiment_label"])[0, 1])


def _acc2_nonzero(found: Predictions) -> float:
    told = found["sentiment_label"]
    signed = told != 0
    return float(np.mean((found["sentiment"] > 0)[signed] == (told > 0)[signed]))


def _arousal(found: Predictions) -> float:
    return float(np.corrcoef(found["arousal"], found["arousal_label"])[0, 1])


if __name__ == "__main__":
    sys.exit(main())
