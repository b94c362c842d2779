"""Scores of what a bundle said of emotions and sentiments, without the trainer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.schemas import EmotionEvent

__all__ = ["Item", "emotion_scores", "sentiment_scores"]

_RATES = ("accuracy", "uar", "macro_f1", "ece", "uncertain", "sure_and_wrong", "false_alarms")


@dataclass(frozen=True)
class Item:
    """One thing that was judged: the label, or "" where there is none, and what was said."""

    label: str
    event: EmotionEvent


def emotion_scores(items: Sequence[Item], emotions: Sequence[str]) -> dict[str, Any]:
    """All scores of emotions; shares are in [0, 1], and None without any item.

    `uar` and `macro_f1` are over the emotions that occur; `ece` over ten bins of the confidence;
    `sure_and_wrong`: wrong and not uncertain, among all; `false_alarms`: not neutral and not
    uncertain, among the neutral ones, None without any; `confusion`: for each label (outer), how
    often each emotion was said.
    """
    from sklearn import metrics as sk  # takes a second to load

    labels = [item.label for item in items]
    said = [item.event.emotion for item in items]
    occurring = [e for e in emotions if e in labels]
    right = np.array([a == b for a, b in zip(labels, said, strict=True)], float)
    sure = np.array([not item.event.uncertain for item in items], bool)
    confidence = np.array([item.event.confidence for item in items])
    neutral = np.array([label == "neutral" for label in labels], bool)
    if not items:
        return {"n": 0, **dict.fromkeys(_RATES), "recall": {}, "confusion": {}}
    recall = {
        e: float(np.mean([s == e for s, label in zip(said, labels, strict=True) if label == e]))
        for e in occurring
    }
    table = sk.confusion_matrix(labels, said, labels=list(emotions))
    return {
        "n": len(items),
        "accuracy": float(right.mean()),
        "uar": float(np.mean(list(recall.values()))),
        "macro_f1": float(
            sk.f1_score(labels, said, labels=occurring, average="macro", zero_division=0.0)
        ),
        "ece": _calibration_error(confidence, right),
        "uncertain": float((~sure).mean()),
        "sure_and_wrong": float((sure & (right == 0)).mean()),
        "false_alarms": float((sure & (right == 0))[neutral].mean()) if neutral.any() else None,
        "recall": recall,
        "confusion": {
            e: {s: int(n) for s, n in zip(emotions, row, strict=True)}
            for e, row in zip(emotions, table, strict=True)
            if e in occurring
        },
    }


def sentiment_scores(said: NDArray[Any], told: NDArray[Any]) -> dict[str, float]:
    """MMSA's metrics of `said` (n,) against `told` (n,), both in [-3, 3].

    `acc2_nonzero`: the sign, where it is not 0; `acc2_haszero`: negative or not; `acc5`, `acc7`:
    clipped to [-2, 2], [-3, 3] and rounded, half to even. NaN where there is nothing to count.
    """

    def rounded(limit: float) -> float:
        both = (np.round(np.clip(values, -limit, limit)) for values in (said, told))
        return float(np.mean(np.equal(*both)))

    signed = told != 0
    spread = min(said.std(), told.std()) if len(told) > 1 else 0.0
    return {
        "n": len(told),
        "mae": float(np.abs(said - told).mean()),
        "corr": float(np.corrcoef(said, told)[0, 1]) if spread > 1e-6 else float("nan"),
        "acc2_nonzero": float(np.mean((said > 0)[signed] == (told > 0)[signed]))
        if signed.any()
        else float("nan"),
        "acc2_haszero": float(np.mean((said >= 0) == (told >= 0))),
        "acc5": rounded(2.0),
        "acc7": rounded(3.0),
    }


def _calibration_error(confidence: NDArray[Any], right: NDArray[Any]) -> float:
    """Expected calibration error over ten bins of equally many answers (Nguyen and O'Connor 2015),
    as `train.metrics` has it; this command runs without the trainer."""
    bins = np.array_split(np.argsort(confidence, kind="stable"), min(10, len(confidence)))
    gaps = [abs(confidence[k].mean() - right[k].mean()) * len(k) for k in bins]
    return float(np.sum(gaps)) / len(confidence)
