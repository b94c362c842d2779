"""The page of a comparison: the pictures of the paper's slides, from finished runs."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from runtime.features.spec import MODALITIES

from .. import analysis, page
from ..plots import Plot, Theme
from ..sections import attention_of, edges_of, features_of
from .models import EDGE_RULES
from .protocol import Protocol
from .table import ERRORS, common_subsets, shown_scale

__all__ = ["bars", "document"]

Found = Mapping[str, Mapping[str, Any]]
_DISTILLING = ("undistilled", *EDGE_RULES, "dmd")
_SPACES = ("dmd", "undecoupled")


def document(
    runs: Mapping[str, Path],
    found: Found,
    titles: Mapping[str, str],
    protocol: Protocol,
    split: str,
) -> str:
    """The whole page. Pictures of a run are of the first seed, whose folders `runs` names: both
    spaces of the DMD and of the model without decoupling, edges of every rule that learns them,
    attention of the DMD."""
    parts = [_alone(found, titles, protocol, split)] if "dmd" in found else []
    if sum(name in found for name in _DISTILLING) > 1:
        parts.append(_distilling(found, titles, protocol, split))
    parts.append(_subsets(found, titles, protocol, split))
    for name in found:
        if name in (*_SPACES, *EDGE_RULES) and (runs[name] / analysis.FILE).exists():
            parts += _of_run(runs[name], name, titles[name])
    return page.document("Models compared", parts)


def bars(values: Mapping[str, tuple[float, float]], label: str) -> Plot:
    """One bar for each name: value and its spread over seeds."""

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        at = range(len(values), 0, -1)
        mean, spread = zip(*values.values(), strict=True)
        axes.barh(list(at), mean, xerr=spread, color="#3388CC", ecolor=theme.ink, height=0.6)
        for y, (x, s) in zip(at, values.values(), strict=True):
            axes.text(x + s, y, f" {x:.3g}", va="center", ha="left")
        axes.set_yticks(list(at), list(values))
        axes.set(xlabel=label)
        axes.margins(x=0.15)
        axes.grid(True, axis="x")
        axes.set_axisbelow(True)

    return Plot(draw, height=1.2 + 0.42 * len(values))


def _alone(
    found: Found, titles: Mapping[str, str], protocol: Protocol, split: str
) -> tuple[str, str]:
    """Figure 3: each modality alone."""
    items = []
    trained = {titles[m]: _spread(found[m], m, protocol) for m in MODALITIES if m in found}
    if trained:
        caption = (
            f"A model that never sees another modality, on the {split} split: {_how(protocol)}"
        )
        items.append(("Trained on one modality", bars(trained, _label(protocol)), caption))
    given = {m: _spread(found["dmd"], m, protocol) for m in MODALITIES}
    caption = "The DMD that learned from all three and is given one: what distillation left there."
    items.append(("The DMD, given one modality", bars(given, _label(protocol)), caption))
    return page.section("alone", "Each modality alone", page.figures(items))


def _distilling(
    found: Found, titles: Mapping[str, str], protocol: Protocol, split: str
) -> tuple[str, str]:
    """Figure 4: conventional against graph distillation."""
    there = [name for name in _DISTILLING if name in found]
    items = []
    for subset in ("+".join(MODALITIES), *MODALITIES):
        values = {titles[name]: _spread(found[name], subset, protocol) for name in there}
        title = "All modalities" if "+" in subset else f"{subset.capitalize()} given"
        caption = f"The same model, distilled in different ways, {split} split: {_how(protocol)}"
        items.append((title, bars(values, _label(protocol)), caption))
    return page.section("distillation", "Conventional or graph distillation", page.figures(items))


def _subsets(
    found: Found, titles: Mapping[str, str], protocol: Protocol, split: str
) -> tuple[str, str]:
    """Figure 10: the table, by subset of modalities."""
    subsets = common_subsets(found, protocol)
    scale = shown_scale(protocol.metric)
    numbers = [[row["mean"], *(row["subsets"][s][protocol.metric]["mean"] for s in subsets)]
               for row in found.values()]  # fmt: skip
    rows = [
        [titles[name], *(f"{scale * value:.{1 if scale > 1 else 3}f}" for value in line)]
        for name, line in zip(found, numbers, strict=True)
    ]
    best = min if protocol.metric in ERRORS else max
    marked = {
        (i, j + 1)
        for j in range(len(subsets) + 1)
        for i, line in enumerate(numbers)
        if line[j] == best(other[j] for other in numbers)
    }
    table = page.table(
        ["model", "mean", *subsets],
        rows,
        f"{protocol.metric} on the {split} split, mean over {protocol.seeds} seeds, by what the "
        "model is given; the best of each column is marked, which does not say that it is better "
        "than chance: the table beside this page has the tests.",
        frozenset(marked),
    )
    return page.section("table", "By subset of modalities", table)


def _of_run(run: Path, name: str, title: str) -> list[tuple[str, str]]:
    """Figures 11 to 14, those that this model has: t-SNE of both spaces, edges, attention."""
    info = json.loads((run / "checkpoint.json").read_text(encoding="utf-8"))
    found = analysis.load(run)
    made = []
    if name in _SPACES:
        made.append(features_of(found.arrays, info["emotions"]))
    if name == "dmd" or (name in EDGE_RULES and name != "fixed"):
        made.append(edges_of(found.arrays))
    if name == "dmd":
        made.append(attention_of(info, found, 0))
    out = []
    for anchor, html in made:
        html = html.replace("</h2>", f"</h2><p>Of {title}, {run.name}.</p>", 1)
        out.append((f"{anchor}-{name}", html.replace(anchor, f"{anchor}-{name}", 1)))
    return out


def _spread(row: Mapping[str, Any], subset: str, protocol: Protocol) -> tuple[float, float]:
    values = row["subsets"][subset][protocol.metric]["values"]
    scale, n = shown_scale(protocol.metric), len(values)
    mean = sum(values) / n
    deviation = (sum((v - mean) ** 2 for v in values) / max(1, n - 1)) ** 0.5
    return scale * mean, scale * deviation


def _label(protocol: Protocol) -> str:
    return protocol.metric.replace("_", " ") + (", %" if shown_scale(protocol.metric) > 1 else "")


def _how(protocol: Protocol) -> str:
    better = "less" if protocol.metric in ERRORS else "more"
    return f"mean over {protocol.seeds} seeds, lines are deviations, {better} is better."
