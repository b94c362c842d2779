"""The field's metrics (Liang et al. protocol for sentiment; recall-based ones for emotion).

scikit-learn takes a second to load. The functions that need it import it, so that commands start
sooner.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "bootstrap",
    "emotion_metrics",
    "expected_calibration_error",
    "fit_temperature",
    "ks_calibration_error",
    "one_against_rest",
    "reliability",
    "risk_threshold",
    "sentiment_metrics",
    "sims_metrics",
]

Array = NDArray[Any]


def emotion_metrics(probabilities: Array, labels: Array) -> dict[str, float]:
    """`probabilities` (n, k) rows summing to 1, `labels` (n,) class indices. All values in [0, 1].

    `uar`: unweighted average recall; it and `macro_f1` are means over the classes that occur.
    `ece`, `ks`: see below.
    """
    from sklearn import metrics as sk

    predicted, occurring = probabilities.argmax(axis=1), np.unique(labels)
    macro = {"labels": occurring, "average": "macro", "zero_division": 0.0}
    return {
        "accuracy": float(sk.accuracy_score(labels, predicted)),
        "uar": float(sk.recall_score(labels, predicted, **macro)),
        "macro_f1": float(sk.f1_score(labels, predicted, **macro)),
        "weighted_f1": float(sk.f1_score(labels, predicted, average="weighted")),
        "ece": expected_calibration_error(probabilities, labels),
        "ks": ks_calibration_error(probabilities, labels),
    }


def one_against_rest(predicted: Array, labels: Array) -> dict[str, float]:
    """`predicted`, `labels` (n,) bool: whether it is the class or not."""
    from sklearn import metrics as sk

    return {
        "accuracy": float(sk.accuracy_score(labels, predicted)),
        "weighted_f1": float(sk.f1_score(labels, predicted, average="weighted")),
    }


def sentiment_metrics(predicted: Array, labels: Array) -> dict[str, float]:
    """`predicted`, `labels`: (n,) in [-3, 3], n >= 2. MAE in the label's unit, `corr` Pearson.

    `acc7` and `acc5` compare what is rounded after it is clipped to [-3, 3] and [-2, 2].

    Acc-2 and weighted F1 come in both protocols: `nonzero` drops label 0 and compares > 0,
    `haszero` compares negative with non-negative. NaN where a value is undefined.
    """
    from sklearn import metrics as sk

    kept = labels != 0
    out = {
        "mae": float(np.abs(predicted - labels).mean()),
        "corr": _pearson(predicted, labels),
        "acc7": float(np.mean(_rounded(predicted, 3.0) == _rounded(labels, 3.0))),
        "acc5": float(np.mean(_rounded(predicted, 2.0) == _rounded(labels, 2.0))),
    }
    for name, truth, guess in (
        ("nonzero", labels[kept] > 0, predicted[kept] > 0),
        ("haszero", labels >= 0, predicted >= 0),
    ):
        out[f"acc2_{name}"] = float(np.mean(truth == guess)) if len(truth) else float("nan")
        out[f"f1_{name}"] = (
            float(sk.f1_score(truth, guess, average="weighted")) if len(truth) else float("nan")
        )
    return out


def sims_metrics(predicted: Array, labels: Array) -> dict[str, float]:
    """CH-SIMS' protocol (thuiar/MMSA, `utils/metricsTop.py`): both (n,) are clipped to [-1, 1].

    `acc2`, `acc3`, `acc5` compare classes whose upper bounds belong to them: up to 0; up to -0.1
    and 0.1; up to -0.7, -0.1, 0.1 and 0.7. `f1` is the weighted one of `acc2`.
    """
    from sklearn import metrics as sk

    predicted, labels = np.clip(predicted, -1.0, 1.0), np.clip(labels, -1.0, 1.0)
    out = {
        "mae": float(np.abs(predicted - labels).mean()),
        "corr": _pearson(predicted, labels),
    }
    for bounds in ((0.0,), (-0.1, 0.1), (-0.7, -0.1, 0.1, 0.7)):
        edges = np.array(bounds, labels.dtype)  # in float32, 0.7 is another number
        truth, guess = (np.digitize(values, edges, right=True) for values in (labels, predicted))
        out[f"acc{len(bounds) + 1}"] = float(np.mean(truth == guess))
    out["f1"] = float(sk.f1_score(labels > 0, predicted > 0, average="weighted"))
    return out


def expected_calibration_error(probabilities: Array, labels: Array, n_bins: int = 10) -> float:
    """Mean gap between confidence and accuracy over the bins of `reliability`."""
    confidence, accuracy, share = reliability(probabilities, labels, n_bins).T
    return float(np.sum(np.abs(confidence - accuracy) * share))


def ks_calibration_error(probabilities: Array, labels: Array) -> float:
    """Largest gap between confidence and accuracy, both summed up to any confidence and divided by
    n (Gupta et al., ICLR 2021). It has no bins: a small change of the probabilities changes it
    little, while the ECE of a few hundred samples moves by a point when some cross an edge."""
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    gaps = (correct - confidence)[np.argsort(confidence, kind="stable")]
    return float(np.abs(np.cumsum(gaps)).max() / len(labels))


def reliability(probabilities: Array, labels: Array, n_bins: int = 10) -> Array:
    """Mean confidence, accuracy and share of samples of each bin: (bins, 3).

    Bins hold equally many samples (Nguyen and O'Connor 2015), so that none is of a few.
    """
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    bins = np.array_split(np.argsort(confidence, kind="stable"), min(n_bins, len(labels)))
    return np.array([(confidence[i].mean(), correct[i].mean(), len(i) / len(labels)) for i in bins])


def risk_threshold(
    probabilities: Array, labels: Array, error: float, weight: Array | None = None
) -> float:
    """The lowest confidence above which at most this share of predictions is wrong, in [0, 1].

    Selective classification (Geifman and El-Yaniv 2017); 1 where no threshold is high enough.
    `probabilities` (n, k), `labels` (n,); `weight` (n,): how much each counts, all alike without.
    """
    confidence = probabilities.max(axis=1)
    wrong = (probabilities.argmax(axis=1) != labels).astype(np.float64)
    counts = np.ones(len(labels)) if weight is None else np.asarray(weight, np.float64)
    order = np.argsort(-confidence, kind="stable")
    risk = np.cumsum(wrong[order] * counts[order]) / np.cumsum(counts[order])
    accepted = np.flatnonzero(risk <= error)
    if not len(accepted):
        return 1.0
    last = int(accepted[-1])
    return 0.0 if last == len(order) - 1 else float(confidence[order[last + 1]])


def bootstrap(
    metrics: Callable[[NDArray[np.intp]], dict[str, float]], n: int, n_resamples: int = 500
) -> tuple[dict[str, float], dict[str, float]]:
    """Percentile interval (95 %) of every metric over resamples of `n` items with replacement.

    `metrics` takes the chosen indices. Efron and Tibshirani 1993, section 13.3.
    """
    rng = np.random.default_rng(0)
    found = [metrics(rng.integers(n, size=n)) for _ in range(n_resamples)]
    names = [name for name in found[0] if np.isfinite([v.get(name, np.nan) for v in found]).any()]
    low, high = (
        {name: float(np.nanquantile([v.get(name, np.nan) for v in found], q)) for name in names}
        for q in (0.025, 0.975)
    )
    return low, high


def _rounded(values: Array, bound: float) -> Array:
    # numpy rounds half to even, as the protocol wants.
    return np.round(np.clip(values, -bound, bound))


def _pearson(a: Array, b: Array) -> float:
    if len(a) < 2 or min(a.std(), b.std()) < 1e-6:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def fit_temperature(logits: Array, labels: Array, weight: Array | None = None) -> float:
    """The temperature that minimises the negative log-likelihood of held-out labels.

    `logits` (n, k) for labels that are equally common, `labels` (n,), `weight` (n,): how much each
    counts. How common the labels are is added to the logits first, as where they are used
    (`Calibration.probabilities`). Guo et al. 2017, section 4.2.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    counts = np.ones(len(labels)) if weight is None else np.asarray(weight, np.float64)
    share = np.bincount(labels, counts, minlength=logits.shape[1]) / counts.sum()
    log_prior = np.log(np.maximum(share, 1e-3))
    rows = np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        scores = (logits + log_prior) / np.exp(log_temperature)
        return float(-np.average(log_softmax(scores, axis=1)[rows, labels], weights=counts))

    return float(np.exp(minimize_scalar(loss, bounds=(-1.4, 1.8), method="bounded").x))
