"""A calm view of a live stream in the terminal (rich): what is said, felt and seen right now."""

from collections.abc import Callable
from typing import Any

from .features.spec import MODALITIES
from .schemas import EmotionEvent

__all__ = ["View"]

_WIDTH = 40


class View:
    """Shows the newest event; the lines of finished utterances scroll away above it.

    `line` makes a finished utterance's line, `stats` is asked for what was dropped.
    """

    def __init__(
        self, line: Callable[[EmotionEvent], str], stats: Callable[[], dict[str, Any]]
    ) -> None:
        from rich.console import Console
        from rich.live import Live

        self._line, self._stats = line, stats
        self._console = Console()
        self._live = Live("listening ...", console=self._console, refresh_per_second=8)

    def __enter__(self) -> "View":
        self._live.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.stop()

    def show(self, event: EmotionEvent) -> None:
        """Take a new event."""
        if event.type == "final":
            self._console.print(self._line(event), markup=False, highlight=False)
        self._live.update(self.panel(event))

    def panel(self, event: EmotionEvent) -> Any:
        """What rich draws of an event."""
        from rich.bar import Bar
        from rich.console import Group
        from rich.panel import Panel
        from rich.table import Table
        from rich.text import Text

        bars = Table.grid(padding=(0, 1))
        for name, p in event.probabilities.items():
            chosen = name == event.emotion and not event.uncertain
            style = "bold green" if chosen else "dim"
            bars.add_row(Text(name, style=style), Bar(1.0, 0.0, p, width=_WIDTH), f"{p:4.0%}")
        lights = Text("  ").join(
            Text(f"● {m}", style="green" if event.modalities[m] == "present" else "red")
            for m in MODALITIES
        )
        absent = [
            f"{m}: {why}" for m, why in event.modalities.items() if why not in ("present", "")
        ]
        stats = self._stats()
        dropped = ", ".join(f"{n} {name}" for name, n in stats["dropped"].items()) or "0"
        state = (
            f"sentiment {event.sentiment:+.1f}   latency {event.latency_ms['total']:.0f} ms   "
            f"dropped: {dropped}"
        )
        notes = Text("; ".join((*absent, *event.quality)), style="yellow")
        title = "..." if event.type == "provisional" else "last utterance"
        said = Text(event.text or "(no words)", style="italic")
        return Panel(Group(said, bars, lights, Text(state, style="dim"), notes), title=title)
