"""How many answers are left, and how many of these are wrong, by the confidence asked for."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.judging.calibration import Calibration
from train.data.utterance import Utterance, collate
from train.loop import Batch, Predictions, keep

__all__ = ["Infer", "coverage", "draw", "singly"]

Infer = Callable[[Iterable[Batch]], Predictions]
_CURVES = (("text", "audio", "vision"), ("text",), ("audio",), ("vision",))


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


def draw(
    path: Path, infer: Infer, utterances: Sequence[Utterance], calibration: Calibration
) -> None:
    """Plot coverage and error against the confidence asked for, for some subsets of modalities,
    with a line where the answers of each subset become uncertain."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    thresholds = np.linspace(0.0, 0.99, 100)
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for subset in _CURVES:
        batches = (keep(batch, subset) for batch in singly(utterances))
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


def singly(utterances: Sequence[Utterance]) -> Iterable[Batch]:
    """Each alone, as on the device."""
    return (collate([utterance]) for utterance in utterances)
