"""Differences by seed: mean, standard error, paired test, Holm's correction, effect size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Difference", "compare", "holm"]


@dataclass(frozen=True)
class Difference:
    """A model minus the reference, over seeds that both have; NaN where seeds are too few.

    `p`: two-sided paired t-test; `p_holm`: the same, corrected for all models of the table (Holm
    1979); `effect`: Cohen's d for pairs, the mean over the deviation of the differences.
    """

    mean: float
    error: float
    p: float
    p_holm: float
    effect: float
    n: int


def compare(scores: Mapping[str, Sequence[float]]) -> dict[str, Difference]:
    """Every other model against the first, by name; scores are by seed, in one order for all."""
    reference, *others = scores
    found = {name: _pair(scores[reference], scores[name]) for name in others}
    corrected = holm([difference.p for difference in found.values()])
    return {
        name: Difference(d.mean, d.error, d.p, p, d.effect, d.n)
        for (name, d), p in zip(found.items(), corrected, strict=True)
    }


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction of p-values; NaN stays NaN and counts for nothing."""
    known = [k for k in np.argsort(p, kind="stable") if not np.isnan(p[k])]
    out, largest = [float("nan")] * len(p), 0.0
    for rank, k in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p[k]))
        out[k] = largest
    return out


def _pair(reference: Sequence[float], own: Sequence[float]) -> Difference:
    gap = np.asarray(own, np.float64) - np.asarray(reference, np.float64)
    n, nan = len(gap), float("nan")
    mean = float(gap.mean())
    if n < 2:
        return Difference(mean, nan, nan, nan, nan, n)
    deviation = float(gap.std(ddof=1))
    if deviation == 0.0:  # the same in every seed: a test has nothing to say of chance
        return Difference(mean, 0.0, 1.0 if mean == 0.0 else nan, nan, nan, n)
    from scipy import stats  # takes half a second to load

    p = float(stats.ttest_rel(own, reference).pvalue)
    return Difference(mean, deviation / n**0.5, p, nan, mean / deviation, n)
