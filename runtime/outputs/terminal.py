"""A calm view of a live stream in the terminal (rich): what is said, felt and seen right now."""

import logging
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from ..features.spec import MODALITIES
from ..judging.evidence import PRESENT
from ..schemas import EmotionEvent

__all__ = ["View"]

_WIDTH = 40


class View:
    """Shows the newest event; the lines of finished utterances scroll away above it.

    `line` makes a finished utterance's line. `stats` is asked, whether or not there are events, for
    what was dropped and which device is down.
    """

    def __init__(
        self, line: Callable[[EmotionEvent], str], stats: Callable[[], dict[str, Any]]
    ) -> None:
        from rich.console import Console
        from rich.live import Live

        self._line, self._stats = line, stats
        self._event: EmotionEvent | None = None
        self._restore = ExitStack()
        self._console = Console()
        self._live = Live(
            get_renderable=lambda: self.panel(self._event),
            console=self._console,
            refresh_per_second=4,
        )

    def __enter__(self) -> "View":
        self._live.__enter__()
        # rich has put itself into sys.stderr, so that lines from elsewhere come above the panel.
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler):
                self._restore.callback(handler.setStream, handler.setStream(sys.stderr))
        return self

    def __exit__(self, *exc: object) -> None:
        self._restore.close()
        self._live.stop()

    def show(self, event: EmotionEvent) -> None:
        """Take a new event."""
        self._event = event
        if event.type == "final":
            self._console.print(self._line(event), markup=False, highlight=False)

    def panel(self, event: EmotionEvent | None) -> Any:
        """What rich draws of an event, or before the first one."""
        from rich.console import Group
        from rich.panel import Panel
        from rich.text import Text

        stats = self._stats()
        width = self._console.width - 3  # room for the ^C that a terminal writes behind it
        # A device that fails is told at once; an event says what was missing when it was made.
        states = {} if event is None else dict(event.modalities)
        states.update(stats["down"])
        notes = [f"{m}: {why}" for m, why in states.items() if why != PRESENT]
        dropped = ", ".join(f"{n} {name}" for name, n in stats["dropped"].items()) or "0"
        foot = f"dropped: {dropped}   overruns: {stats['overruns']}"
        lights = Text("  ").join(Text(f"● {m}", style=_light(states.get(m))) for m in MODALITIES)
        if event is None:
            body = Group(lights, _yellow(notes), Text(foot, style="dim"))
            return Panel(body, title="listening", width=width)
        said = Text(event.text or "(no words)", style="italic")
        took_ms = event.latency_ms["total"]
        foot = (
            f"sentiment {event.sentiment:+.1f}   arousal {event.arousal:+.1f}   "
            f"latency {took_ms:.0f} ms\n{foot}"
        )
        notes += event.quality
        return Panel(
            Group(said, _bars(event), lights, _yellow(notes), Text(foot, style="dim")),
            title="..." if event.type == "provisional" else "last utterance",
            width=width,
        )


def _bars(event: EmotionEvent) -> Any:
    from rich.bar import Bar
    from rich.table import Table
    from rich.text import Text

    bars = Table.grid(padding=(0, 1))
    for name, p in event.probabilities.items():
        chosen = name == event.emotion and not event.uncertain
        style = "bold green" if chosen else "dim"
        bars.add_row(Text(name, style=style), Bar(1.0, 0.0, p, width=_WIDTH), f"{p:4.0%}")
    return bars


def _light(state: str | None) -> str:
    if state is None:
        return "dim"
    return "green" if state == PRESENT else "red"


def _yellow(notes: list[str]) -> Any:
    from rich.text import Text

    return Text("; ".join(notes), style="yellow")
