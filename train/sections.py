"""The sections of a run's report: what is shown, and the sentence that says how to read it.

Longer than 300 lines: it is one list of sections, in the order of the page.
"""

from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from runtime.features.spec import MODALITIES, SPEC

from . import page, plots
from .analysis import SPACES, Analysis, Shown
from .loop import SUBSETS
from .metrics import expected_calibration_error, reliability
from .plots import Axis

__all__ = ["attention_of", "edges_of", "features_of", "sections"]

Array = NDArray[Any]
Section = tuple[str, str]

_MAX_POINTS = 1_500  # t-SNE takes seconds, and more points hide one another
_SPACE_NAMES = {"homo": "homogeneous", "hetero": "heterogeneous"}
# Title -> beginnings of the terms' names, and the caption.
_LOSS_GROUPS = {
    "Task terms": (
        ("task_",),
        "Unweighted errors of the fused, common and single-modality heads: a line that flattens "
        "high belongs to features that say little.",
    ),
    "Decoupling": (
        ("reconstruction", "cycle", "orthogonality", "margin"),
        "How badly the parts rebuild the input (reconstruction, cycle), stay apart "
        "(orthogonality) and group by label (margin), unweighted: lower is better.",
    ),
    "Distillation": (
        ("distil_", "edges_", "mixture_", "teacher"),
        "Gaps between teachers and students (distil, teacher) and between mean edges and their "
        "prior (edges), unweighted: the first may grow as the modalities become better.",
    ),
}
# Metrics of which less is better; these and the next are no percentages.
_ERRORS = ("ece", "ks", "mae")
_PLAIN = (*_ERRORS, "corr")
_MODALITY_OF_RATE = {"audio": SPEC.audio_rate_hz, "vision": SPEC.vision_rate_hz}


def sections(info: dict[str, Any], found: Analysis, k: int) -> list[Section]:
    """Anchors and HTML of all sections that the run has something for.

    `info` is the content of checkpoint.json; `found.shown[k]` is the utterance drawn.
    """
    arrays = found.arrays
    parts = [_about(info, len(arrays["emotion"])), _losses(info), _metrics(info), _subsets(info)]
    labelled = arrays["emotion"] >= 0
    if labelled.any():
        p, y = arrays["probabilities"][labelled], arrays["emotion"][labelled]
        parts += [
            _confusion(p, y, info["emotions"]),
            _reliability(p, y),
            _classes(p, y, info["emotions"]),
        ]
    if (rated := ~np.isnan(arrays["sentiment"])).any():
        parts.append(_sentiment(arrays["sentiment_predicted"][rated], arrays["sentiment"][rated]))
    parts.append(features_of(arrays, info["emotions"]))
    if any(f"edges_{space}" in arrays for space in SPACES):
        parts.append(edges_of(arrays))
    if found.shown:
        parts.append(attention_of(info, found, k))
    return parts


def _about(info: dict[str, Any], n_shown: int) -> Section:
    """What was trained, on what, how long."""
    data = {
        f"data: {name.replace('_', ' ')}": ", ".join(map(_short, value))
        if isinstance(value, list)
        else value
        for name, value in info["data"].items()
    }
    values = {
        "commit": info.get("commit", "unknown"),
        "seed": info.get("seed", "unknown"),
        "training time": f"{info.get('seconds', float('nan')):.0f} s",
        "parameters": f"{info.get('n_parameters', 0):,}",
        "best epoch": f"{info['best_epoch']} of {len(info['history'])}",
        "held-out utterances that are shown": n_shown,
        **data,
    }
    options: dict[str, object] = {"seed": info["config"].get("seed")}
    for group, members in info["config"].items():
        if isinstance(members, dict):
            options |= {f"{group}.{name}": value for name, value in members.items()}
    config = f"<details><summary>All options</summary>{page.facts(options)}</details>"
    return page.section("run", "Run", page.facts(values), config)


def _losses(info: dict[str, Any]) -> Section:
    epochs = [epoch["losses"] for epoch in info["history"]]
    best = info["best_epoch"]
    total = {"total": [e["total"] for e in epochs]} if "total" in epochs[0] else {}
    items = []
    if total:
        caption = "The weighted sum that training descends: it should fall and flatten."
        items.append(("Total", plots.curves(total, "loss", best), caption))
    for title, (starts, caption) in _LOSS_GROUPS.items():
        values = {n: [e[n] for e in epochs] for n in epochs[0] if n.startswith(starts)}
        if values:
            items.append((title, plots.curves(values, "loss, unweighted", best), caption))
    note = "<p>The broad vertical line marks the epoch whose weights were kept.</p>"
    return page.section("losses", "Loss terms", note, page.figures(items))


def _metrics(info: dict[str, Any]) -> Section:
    epochs = info["history"]
    names = [n for n, v in epochs[0]["valid"].items() if isinstance(v, float | int)]
    values = {name: [epoch["valid"][name] for epoch in epochs] for name in names}
    items = [
        (
            "Scores on the validation split",
            plots.curves(values, "score", info["best_epoch"]),
            "Each line is one choice of modalities (macro-F1 unless named otherwise): higher is "
            "better, and a line that falls while the loss falls is overfitting.",
        )
    ]
    scores = {"mean of the scores": [e["score"] for e in epochs if "score" in e]}
    if len(scores["mean of the scores"]) == len(epochs):
        caption = "Early stopping keeps the epoch where this is highest (the broad line)."
        plot = plots.curves(scores, "score", info["best_epoch"])
        items.append(("The score that stops training", plot, caption))
    return page.section("metrics", "Metrics over epochs", page.figures(items))


def _subsets(info: dict[str, Any]) -> Section:
    """Metrics by subset of modalities, of the test split where it was read."""
    split = "test" if "test" in info["metrics"] else "valid"
    test = {name: row for name, row in info["metrics"][split].items() if isinstance(row, dict)}
    names = list(dict.fromkeys(n for row in test.values() for n, v in row.items() if _number(v)))
    rows = [[subset, *(_cell(n, row.get(n)) for n in names)] for subset, row in test.items()]
    rivals = [i for i, subset in enumerate(test) if subset in {"+".join(s) for s in SUBSETS}]
    best = set()
    for j, name in enumerate(names, 1):
        texts = [rows[i][j] for i in rivals if rows[i][j]]
        first = (min if name in _ERRORS else max)(map(float, texts), default=None)
        best |= {(i, j) for i in rivals if rows[i][j] and float(rows[i][j]) == first}
    header = ["given", *(_header(name) for name in names)]
    caption = (
        "Each row gives the model only these modalities; the best subset of each column is marked "
        "(↓: less is better). Rows that are no subset hold other utterances or labels and do not "
        "compete."
    )
    return page.section(
        "subsets",
        f"{split.capitalize()} split by modality",
        page.table(header, rows, caption, frozenset(best)),
    )


def _confusion(probabilities: Array, labels: Array, names: Sequence[str]) -> Section:
    from sklearn.metrics import confusion_matrix

    counts = confusion_matrix(labels, probabilities.argmax(axis=1), labels=range(len(names)))
    caption = (
        "Rows are true emotions, columns predictions, numbers count utterances: a dark diagonal "
        "(bright on dark paper) is what one wants, anything off it is a confusion."
    )
    item = ("Confusion matrix", plots.confusion(counts, names), caption)
    return page.section("confusion", "Confusion", page.figures([item]))


def _reliability(probabilities: Array, labels: Array) -> Section:
    ece = expected_calibration_error(probabilities, labels)
    caption = (
        "Each point is a bin of equally many utterances, by confidence: below the dotted line the "
        "model is too sure of itself, above it too modest; ECE is the mean gap."
    )
    plot = plots.reliability_points(reliability(probabilities, labels), ece)
    item = ("Reliability diagram", plot, caption)
    return page.section("reliability", "Reliability", page.figures([item]))


def _classes(probabilities: Array, labels: Array, names: Sequence[str]) -> Section:
    from sklearn.metrics import precision_recall_fscore_support

    columns = precision_recall_fscore_support(
        labels, probabilities.argmax(axis=1), labels=range(len(names)), zero_division=0.0
    )
    rows = [
        [name, *(f"{100 * v[k]:.1f}" for v in columns[:3]), str(columns[3][k])]
        for k, name in enumerate(names)
    ]
    caption = (
        "Precision is the share of predictions of an emotion that are right, recall the share of "
        "its utterances that are found, F1 their harmonic mean, support how many there are."
    )
    header = ("emotion", "precision, %", "recall, %", "F1, %", "support")
    return page.section("classes", "Emotion by emotion", page.table(header, rows, caption))


def _sentiment(predicted: Array, label: Array) -> Section:
    caption = (
        "Each point is a held-out utterance: on the dotted line the predicted sentiment (-3 to 3) "
        "is the label, above it too positive."
    )
    item = ("Sentiment", plots.sentiment_scatter(predicted, label), caption)
    return page.section("sentiment", "Sentiment", page.figures([item]))


def features_of(arrays: dict[str, Array], emotions: Sequence[str]) -> Section:
    """t-SNE of the summaries; without emotion labels, coloured by the sentiment's sign."""
    label, names = arrays["emotion"], tuple(emotions)
    if not (label >= 0).any():
        names, rated = ("negative", "zero", "positive"), ~np.isnan(arrays["sentiment"])
        label = np.where(rated, np.sign(np.nan_to_num(arrays["sentiment"])) + 1, -1).astype(int)
    utterance, modality = np.nonzero(arrays["present"] & (label >= 0)[:, None])
    some = np.random.default_rng(0).permutation(len(utterance))[:_MAX_POINTS]
    if len(some) < 10:
        return page.section("features", "Features", "<p>Too few utterances for t-SNE.</p>")
    utterance, modality = utterance[some], modality[some]
    place = {s: _tsne(arrays[s][utterance, modality]) for s in SPACES}
    what = "emotion" if names == tuple(emotions) else "sentiment"
    homo = plots.points(place["homo"], label[utterance], names, modality, MODALITIES)
    hetero = plots.points(place["hetero"], modality, MODALITIES, np.zeros_like(modality), ())
    near = "t-SNE puts points of similar direction (cosine) together; distances between groups and "
    items = [
        (
            f"Homogeneous features by {what}",
            homo,
            f"{near}the axes mean nothing: here groups of one colour that mix all three markers "
            f"show that {what} is shared across modalities.",
        ),
        (
            "Heterogeneous features by modality",
            hetero,
            f"{near}the axes mean nothing: here one clear group per modality shows that each keeps "
            "what is its own.",
        ),
    ]
    return page.section("features", "Features", page.figures(items))


def _tsne(rows: Array) -> Array:
    """(n, d) -> (n, 2), the same for the same rows."""
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(rows) - 1) / 3)
    tsne = TSNE(metric="cosine", init="pca", perplexity=perplexity, random_state=0)
    return np.asarray(tsne.fit_transform(rows.astype(np.float64)))


def edges_of(arrays: dict[str, Array]) -> Section:
    """Edges over the utterances, and on the mean."""
    complete = arrays["present"].all(axis=1)
    items = []
    for space in SPACES:
        if f"edges_{space}" in arrays and complete.any():
            edges, prior = arrays[f"edges_{space}"][complete], arrays[f"prior_{space}"]
            name = _SPACE_NAMES[space].capitalize()
            spread = (
                "Strength of teaching over held-out utterances: boxes hold the middle half, the "
                "bar is the median; the diamond is the prior that training pulls the mean to."
            )
            graph = "An arrow's width and number are the mean strength from teacher to student."
            items += [
                (f"{name} edges, spread", plots.edge_spread(edges, prior), spread),
                (f"{name} edges, mean", plots.edge_graph(edges.mean(axis=0)), graph),
            ]
    note = f"<p>{complete.sum()} utterances with all three modalities.</p>"
    return page.section("edges", "Learned edges", note, page.figures(items))


def attention_of(info: dict[str, Any], found: Analysis, k: int) -> Section:
    """The six heat maps of one utterance."""
    utterance, arrays = found.shown[k], found.arrays
    items = []
    for target in MODALITIES:
        for source in MODALITIES:
            weights = arrays.get(f"attention/{k}/{source}_to_{target}")
            if weights is not None:
                rows, columns = (
                    _axis(m, n, info, utterance)
                    for m, n in zip((target, source), weights.shape, strict=True)
                )
                caption = (
                    f"Each row is a moment of {target} and shows where in {source} it looks; a row "
                    "sums to 1, and rows that are all alike do not look at anything in particular."
                )
                title = f"{target} attends to {source}"
                items.append((title, plots.heat_map(weights, rows, columns), caption))
    names, index = info["emotions"], utterance.index
    label = int(arrays["emotion"][index])
    said = f"Utterance {utterance.id}"
    if label >= 0:
        predicted = names[int(arrays["probabilities"][index].argmax())]
        said += f": labelled {names[label]}, predicted {predicted}"
    others = ", ".join(other.id for other in found.shown if other != utterance)
    who = page.facts({"shown": said, "also kept (--utterance ID)": others})
    return page.section("attention", "Crossmodal attention", who, page.figures(items))


def _axis(modality: str, n: int, info: dict[str, Any], utterance: Shown) -> Axis:
    """Word pieces, seconds where the rows' rate is that of our features, else row numbers."""
    if modality == "text":
        named = len(utterance.pieces) == n
        return Axis("word pieces", utterance.pieces) if named else Axis("text, row")
    model = info["config"]["model"]
    own = {"audio": SPEC.audio_dim, "vision": SPEC.vision_dim}[modality]
    if info.get("feature_spec_sha256") != SPEC.sha256() or model.get(f"{modality}_dim", own) != own:
        return Axis(f"{modality}, row")
    return Axis(f"{modality}, s", step=model[f"stride_{modality}"] / _MODALITY_OF_RATE[modality])


def _header(name: str) -> str:
    if name in _PLAIN:
        return f"{name} ↓" if name in _ERRORS else name
    return f"{name.replace('_', ' ')}, %"


def _cell(name: str, value: object) -> str:
    if not _number(value):
        return ""
    return f"{value:.3f}" if name in _PLAIN else f"{100 * value:.1f}"


def _number(value: object) -> TypeGuard[float]:
    return isinstance(value, float | int) and bool(np.isfinite(value))


def _short(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)
