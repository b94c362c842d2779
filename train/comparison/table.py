"""The table of a comparison, as Markdown and as JSON."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from runtime.errors import UsageError
from runtime.features.spec import MODALITIES

from ..loop import SUBSETS
from .protocol import Protocol
from .significance import compare

__all__ = ["ERRORS", "Rows", "common_subsets", "markdown", "result", "score", "shown_scale"]

# model -> seed -> metrics by subset such as text+vision, then by name
Rows = Mapping[str, Sequence[Mapping[str, Mapping[str, float]]]]
ERRORS = ("mae", "ece", "ks")  # of which less is better
_PLAIN = (*ERRORS, "corr")
_WHOLE = "+".join(MODALITIES)
# What is said of choices, elsewhere and under results on validation data.
_CHOSEN = (
    " Chosen: on validation data, with the first seed.",
    " Chosen: on these data, with the first seed, whose values flatter therefore.",
)


def score(table: Mapping[str, Mapping[str, float]], protocol: Protocol) -> float:
    """The one number of a run that is tested: the protocol's metric over its subsets.

    Raises UsageError where the data set does not give that metric.
    """
    known = table[_WHOLE]
    if protocol.metric not in known:
        raise UsageError(
            f"the protocol's metric {protocol.metric!r} cannot be had of this data set; there are "
            + ", ".join(sorted(known))
        )
    names = [_WHOLE] if protocol.subsets == "whole" else ["+".join(s) for s in SUBSETS]
    return float(np.mean([table[name][protocol.metric] for name in names]))


def shown_scale(metric: str) -> float:
    """Shares are shown in percent; errors and correlations as they are."""
    return 1.0 if metric in _PLAIN else 100.0


def result(
    rows: Rows, protocol: Protocol, about: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """By model: scores by seed, mean, deviation, difference to the first, and what `about` says of
    it (parameters, milliseconds)."""
    scores = {name: [score(table, protocol) for table in tables] for name, tables in rows.items()}
    differences = compare(scores)
    out: dict[str, dict[str, Any]] = {}
    for name, own in scores.items():
        out[name] = {
            "scores": own,
            "mean": float(np.mean(own)),
            "std": float(np.std(own, ddof=1)) if len(own) > 1 else None,
            **about[name],
            "subsets": _subsets(rows[name]),
        }
        if name in differences:
            found = asdict(differences[name])
            out[name]["difference"] = {k: None if math.isnan(v) else v for k, v in found.items()}
    return out


def _subsets(tables: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, Any]]:
    """Every metric of every subset: mean, and the values by seed."""
    out: dict[str, dict[str, Any]] = {}
    for subset in tables[0]:
        names = set.intersection(*(set(table[subset]) for table in tables))
        out[subset] = {
            metric: {
                "mean": float(np.mean([table[subset][metric] for table in tables])),
                "values": [table[subset][metric] for table in tables],
            }
            for metric in sorted(names)
        }
    return out


def markdown(
    found: Mapping[str, Mapping[str, Any]],
    titles: Mapping[str, str],
    protocol: Protocol,
    split: str,
    n_reads: int,
) -> str:
    """One row for each model, what the columns mean, and every subset of modalities."""
    reference = next(iter(found))
    scale = shown_scale(protocol.metric)
    over = "all modalities" if protocol.subsets == "whole" else "mean of 7 subsets"
    chosen = any(row.get("choice") for row in found.values())
    unit = ", %" if scale == 100.0 else ""
    looks = f"; read {n_reads} times" if n_reads > 1 else ""
    lines = [
        f"{protocol.metric}{unit} on the {split} split{looks}, {over}, {protocol.seeds} seeds",
        "",
        f"| Model | Mean ± deviation | All modalities | Against {titles[reference]} ± error | p "
        "| p (Holm) | Effect | Parameters | ms |" + " Chosen |" * chosen,
        "| --- " * (9 + chosen) + "|",
    ]
    for name, row in found.items():
        whole = row["subsets"][_WHOLE].get(protocol.metric)
        gap = row.get("difference")
        cells = [
            titles[name],
            _pm(row["mean"], row["std"], scale),
            _pm(whole["mean"] if whole else None, None, scale),
            "" if gap is None else _pm(gap["mean"], gap["error"], scale, sign="+"),
            *("" if gap is None else _number(gap[k], ".3f") for k in ("p", "p_holm")),
            "" if gap is None else _number(gap["effect"], "+.2f"),
            f"{row['n_parameters']:,}",
            _number(row["ms"], ".1f"),
            *([row["choice"]] if chosen else []),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "Deviation over seeds; differences by seed, with their standard error; two-sided paired "
        "t-test, and the same after Holm's correction over all rows; effect: Cohen's d of the "
        f"pairs; ms: {found[reference]['ms_of']}."
        + (_CHOSEN[split == "valid"] if chosen else "")
        + (" Of this metric, less is better." if protocol.metric in ERRORS else ""),
        "",
        *_by_subset(found, titles, protocol),
    ]
    return "\n".join(lines)


def common_subsets(found: Mapping[str, Mapping[str, Any]], protocol: Protocol) -> list[str]:
    """The subsets of which all models have the protocol's metric."""
    return [
        subset
        for subset in next(iter(found.values()))["subsets"]
        if all(protocol.metric in row["subsets"].get(subset, {}) for row in found.values())
    ]


def _by_subset(
    found: Mapping[str, Mapping[str, Any]], titles: Mapping[str, str], protocol: Protocol
) -> list[str]:
    """The means of every subset that all models have."""
    given = common_subsets(found, protocol)
    scale = shown_scale(protocol.metric)
    lines = ["| Given | " + " | ".join(given) + " |", "| --- " * (len(given) + 1) + "|"]
    for name, row in found.items():
        means = (row["subsets"][s][protocol.metric]["mean"] for s in given)
        cells = (_pm(mean, None, scale) for mean in means)
        lines.append(f"| {titles[name]} | " + " | ".join(cells) + " |")
    return lines


def _pm(mean: float | None, spread: float | None, scale: float, sign: str = "") -> str:
    if mean is None or math.isnan(mean):
        return ""
    digits = _digits(scale)
    text = f"{scale * mean:{sign}.{digits}f}"
    return text if spread is None or math.isnan(spread) else f"{text} ± {scale * spread:.{digits}f}"


def _digits(scale: float) -> int:
    return 1 if scale == 100.0 else 3


def _number(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"
