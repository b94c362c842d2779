"""The plots of a run's report: each is drawn for light and for dark paper.

Longer than 300 lines: it is one list of plots, which share their colours.
"""

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from runtime.features.spec import MODALITIES

from .models.gd_unit import EDGES

__all__ = [
    "DARK",
    "EDGE_NAMES",
    "LIGHT",
    "Axis",
    "Plot",
    "Theme",
    "confusion",
    "curves",
    "edge_graph",
    "edge_spread",
    "heat_map",
    "points",
    "reliability_points",
    "sentiment_scatter",
]

Array = NDArray[Any]

EDGE_NAMES = tuple(f"{MODALITIES[i]}→{MODALITIES[j]}" for i, j in EDGES)

# Paul Tol's "bright" and "vibrant" schemes: distinct for every kind of colour vision.
_CLASSES = ("#EE6677", "#228833", "#AA3377", "#CCBB44", "#999999", "#4477AA", "#66CCEE")
_MODALITY = {"text": "#3388CC", "audio": "#EE7733", "vision": "#009988"}
_MARKERS = ("o", "^", "s", "D", "v", "P", "X")


@dataclass(frozen=True)
class Theme:
    """Colours of one paper; `shades` run from it to the strongest value of a colour map."""

    paper: str
    ink: str
    faint: str
    shades: tuple[str, str, str]

    @property
    def colours(self) -> LinearSegmentedColormap:
        """Colour map from 0, which is the paper, to the strongest value."""
        return LinearSegmentedColormap.from_list("shades", self.shades)


LIGHT = Theme("#ffffff", "#1c2024", "#d8dce0", ("#ffffff", "#7fb3dd", "#08306b"))
DARK = Theme("#16191d", "#e4e7ea", "#3c434a", ("#16191d", "#2b6299", "#cfe8ff"))


@dataclass(frozen=True)
class Plot:
    """Something to draw, `width` by `height` inches (72 points each; a phone is about 5 wide)."""

    draw: Callable[[Figure, Theme], None]
    width: float = 5.0
    height: float = 3.4

    def png(self, theme: Theme) -> bytes:
        """The picture as a PNG file."""
        settings = {
            "font.size": 10,
            "text.parse_math": False,  # word pieces may be dollar signs
            "text.color": theme.ink,
            "axes.labelcolor": theme.ink,
            "axes.edgecolor": theme.faint,
            "axes.facecolor": theme.paper,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "figure.facecolor": theme.paper,
            "figure.constrained_layout.w_pad": 0.08,
            "figure.constrained_layout.h_pad": 0.08,
            "grid.color": theme.faint,
            "grid.linewidth": 0.6,
            "legend.frameon": False,
            "legend.fontsize": 9,
            "xtick.color": theme.ink,
            "ytick.color": theme.ink,
        }
        buffer = io.BytesIO()
        with mpl.rc_context(settings), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph", UserWarning)  # pieces of other scripts
            figure = Figure(figsize=(self.width, self.height), layout="constrained")
            self.draw(figure, theme)
            figure.savefig(buffer, format="png", dpi=160)
        return buffer.getvalue()


@dataclass(frozen=True)
class Axis:
    """One side of a heat map: names of its rows, or else `step` units a row (seconds, or 1)."""

    label: str
    names: Sequence[str] = ()
    step: float = 1.0


def curves(values: Mapping[str, Sequence[float]], ylabel: str, best_epoch: int) -> Plot:
    """One line per name over epochs 1, 2, ...; the colour says the modality named, if it is one
    alone, the dash the heterogeneous space."""

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        axes.axvline(best_epoch, color=theme.faint, linewidth=6, zorder=0)
        others = iter(_CLASSES * 4)
        for k, (name, line) in enumerate(values.items()):
            named = [m for m in MODALITIES if m in name]
            colour = _MODALITY[named[0]] if len(named) == 1 else None
            if colour is None:
                colour = theme.ink if len(named) == 3 or len(values) == 1 else next(others)
            axes.plot(
                range(1, len(line) + 1),
                line,
                color=colour,
                linestyle="--" if "hetero" in name else "-",
                marker=_MARKERS[k % len(_MARKERS)],
                markersize=4.5,
                label=name.replace("_", " "),
            )
        axes.set(xlabel="epoch", ylabel=ylabel)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(True, axis="y")
        if len(values) > 1:
            figure.legend(loc="outside lower center", ncols=2 if len(values) > 3 else 3)

    n_rows = 0 if len(values) == 1 else -(-len(values) // (2 if len(values) > 3 else 3))
    return Plot(draw, height=2.9 + 0.2 * n_rows)


def confusion(counts: Array, names: Sequence[str]) -> Plot:
    """`counts` (k, k): rows are the true class; the shade is the share of its row."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        image = axes.imshow(shares, cmap=theme.colours, vmin=0, vmax=1)
        for (i, j), share in np.ndenumerate(shares):
            colour = theme.paper if share > 0.55 else theme.ink
            axes.text(j, i, f"{counts[i, j]}", ha="center", va="center", color=colour, fontsize=9)
        ticks = range(len(names))
        axes.set_xticks(ticks, names, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(ticks, names)
        axes.set(xlabel="predicted", ylabel="true")
        axes.spines[:].set_visible(True)
        figure.colorbar(image, label="share of the true class", shrink=0.75)

    return Plot(draw, height=4.2)


def reliability_points(bins: Array, ece: float) -> Plot:
    """`bins` (n, 3): mean confidence, accuracy and share of samples of each bin."""
    confidence, accuracy, _ = bins.T

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        axes.plot((0, 1), (0, 1), color=theme.ink, linestyle=":", label="perfect")
        axes.vlines(confidence, confidence, accuracy, color=_CLASSES[0], linewidth=2, label="gap")
        axes.plot(confidence, accuracy, "o-", color=_MODALITY["text"], label="this run")
        axes.set(xlabel="confidence (highest probability)", xlim=(-0.02, 1.02))
        axes.set(ylabel="accuracy", ylim=(-0.03, 1.03))
        axes.text(0.97, 0.06, f"ECE {ece:.3f}", ha="right", transform=axes.transAxes)
        axes.legend(loc="upper left")
        axes.grid(True, axis="y")
        axes.set_axisbelow(True)

    return Plot(draw, height=4.0)


def sentiment_scatter(predicted: Array, label: Array) -> Plot:
    """Both (n,) in [-3, 3]."""

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        axes.plot((-3, 3), (-3, 3), color=theme.ink, linestyle=":")
        axes.plot(label, predicted, "o", color=_MODALITY["text"], alpha=0.35, markersize=4, mew=0)
        axes.set(xlabel="sentiment, label", ylabel="sentiment, predicted")
        axes.set(xlim=(-3.15, 3.15), ylim=(-3.15, 3.15), aspect="equal")
        axes.grid(True)

    return Plot(draw, height=4.2)


def points(
    place: Array, colour: Array, colours: Sequence[str], marker: Array, markers: Sequence[str]
) -> Plot:
    """`place` (n, 2); `colour`, `marker` (n,) index the names; no `markers`: one for all."""
    palette = [_MODALITY.get(n, _CLASSES[k % len(_CLASSES)]) for k, n in enumerate(colours)]

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        shown = np.array(palette)[colour]
        for k in np.unique(marker):
            x, y = place[marker == k].T
            axes.scatter(
                x, y, c=shown[marker == k], marker=_MARKERS[k], s=14, alpha=0.75, linewidth=0
            )
        hues = [axes.plot([], [], "o", color=hue)[0] for hue in palette]
        shapes = [
            axes.plot([], [], _MARKERS[k], color=theme.ink, fillstyle="none")[0]
            for k in range(len(markers))
        ]
        axes.set(xticks=[], yticks=[], xlabel="t-SNE 1 (no unit)", ylabel="t-SNE 2 (no unit)")
        figure.legend(hues, colours, loc="outside lower center", ncols=4, handletextpad=0.2)
        if markers:
            figure.legend(shapes, markers, loc="outside upper center", ncols=3, handletextpad=0.2)

    return Plot(draw, height=5.0)


def edge_spread(edges: Array, prior: Array) -> Plot:
    """`edges` (n, 6) strengths in the order of `EDGES`, `prior` (6,)."""

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        at = np.arange(len(EDGES), 0, -1)
        line = {"color": theme.ink}
        axes.boxplot(
            edges,
            positions=at,
            orientation="horizontal",
            widths=0.55,
            showmeans=True,
            patch_artist=True,
            boxprops={"facecolor": theme.faint, "edgecolor": theme.ink},
            medianprops=line,
            whiskerprops=line,
            capprops=line,
            meanprops={"marker": "o", "markerfacecolor": _MODALITY["audio"], "mec": "none"},
            flierprops={"marker": ".", "markersize": 3, "mec": "none", "mfc": theme.ink},
        )
        axes.plot(prior, at, "D", color=_MODALITY["vision"], markersize=6, fillstyle="none")
        axes.plot([], [], "o", color=_MODALITY["audio"], label="mean")
        axes.plot([], [], "D", color=_MODALITY["vision"], fillstyle="none", label="prior")
        axes.set_yticks(at, EDGE_NAMES)
        axes.set(xlabel="edge strength (the six sum to 1)", ylabel="teacher→student")
        axes.set_xlim(left=0)
        axes.grid(True, axis="x")
        figure.legend(loc="outside upper right", ncols=2)

    return Plot(draw, height=3.6)


def edge_graph(mean: Array) -> Plot:
    """`mean` (6,) strengths in the order of `EDGES`, as arrows between the modalities."""
    place = np.array([(0.0, 0.9), (-1.0, -0.75), (1.0, -0.75)])
    bend = 0.16

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        for (i, j), strength in zip(EDGES, mean, strict=True):
            arrow = FancyArrowPatch(
                tuple(place[i]),
                tuple(place[j]),
                connectionstyle=f"arc3,rad={bend}",
                arrowstyle="-|>",
                mutation_scale=9 + 22 * strength,
                linewidth=0.6 + 16 * strength,
                shrinkA=30,
                shrinkB=30,
                color=_MODALITY[MODALITIES[i]],
                alpha=0.85,
            )
            axes.add_patch(arrow)
            dx, dy = place[j] - place[i]
            beside = (place[i] + place[j]) / 2 + 1.05 * bend * np.array([dy, -dx])
            axes.text(beside[0], beside[1], f"{strength:.2f}", ha="center", va="center")
        for m, (x, y) in zip(MODALITIES, place, strict=True):
            axes.text(x, y, m, ha="center", va="center", weight="bold", color=_MODALITY[m])
        axes.set(xlim=(-1.5, 1.5), ylim=(-1.25, 1.15), aspect="equal")
        axes.set_axis_off()

    return Plot(draw, height=3.6)


def heat_map(weights: Array, rows: Axis, columns: Axis) -> Plot:
    """`weights` (n_rows, n_columns), each row of which sums to 1."""
    n_rows, n_columns = weights.shape

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        right, bottom = n_columns * columns.step, n_rows * rows.step
        image = axes.imshow(
            weights, cmap=theme.colours, vmin=0, aspect="auto", extent=(0, right, bottom, 0)
        )
        if columns.names:
            size = float(np.clip(250 / n_columns, 5, 9))
            middle = np.arange(n_columns) + 0.5
            axes.set_xticks(middle, columns.names, rotation=90, fontsize=size)
        if rows.names:
            size = float(np.clip(180 / n_rows, 5, 9))
            axes.set_yticks(np.arange(n_rows) + 0.5, rows.names, fontsize=size)
        axes.set(xlabel=f"attended to: {columns.label}", ylabel=rows.label)
        axes.spines[:].set_visible(True)
        figure.colorbar(image, label="attention weight")

    return Plot(draw, height=3.8)
