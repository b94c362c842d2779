"""What `bench` found, for people and for programs."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ..errors import EngineError
from ..system.device import this_device
from ..version import __version__
from .run import CASES, Measured

__all__ = ["report", "require_some", "show", "summary", "tables"]


def summary(found: Sequence[Measured], n_threads: int) -> dict[str, Any]:
    """Everything, for JSON, with the machine it was found on."""
    return {
        "device": asdict(this_device()),
        "n_threads": n_threads,
        "dmd_live": __version__,
        "cases": [asdict(case) for case in CASES],
        "measured": [asdict(item) for item in found],
    }


def report(found: Sequence[Measured], *, n_threads: int, as_json: bool) -> None:
    """Print tables, or one JSON object. Raises EngineError when nothing could be measured."""
    require_some(found)
    if as_json:
        print(json.dumps(summary(found, n_threads)))
    else:
        show(n_threads, tables(found))


def require_some(found: Sequence[Measured]) -> None:
    """Raises EngineError, with every reason, when nothing could be measured."""
    if not any(item.latency for item in found):
        raise EngineError("; ".join(f"{item.name}: {item.failure}" for item in found))


def show(n_threads: int, shown: Sequence[Any]) -> None:
    """Print the machine, then tables and lines."""
    from rich.console import Console

    console = Console(highlight=False)
    console.print(f"{this_device()}; {n_threads} thread{'s' * (n_threads > 1)} on the CPU")
    for item in shown:
        console.print(item)


def tables(found: Sequence[Measured]) -> list[Any]:
    """For rich: latency by case, the rest, and a line for each failure."""
    from rich.table import Table

    latency = Table(title="batch 1")
    _add_columns(latency, "", "utterance", "p50 ms", "p95 ms", "p99 ms", "runs")
    for item in found:
        for case, times in item.latency.items():
            latency.add_row(
                item.name if case == next(iter(item.latency)) else "",
                case,
                *(f"{ms:.1f}" for ms in (times.p50_ms, times.p95_ms, times.p99_ms)),
                str(times.n_runs),
                end_section=case == next(reversed(item.latency)),
            )
    sizes = sorted({size for item in found for size in item.per_s})
    with_power = any(item.power_w for item in found)
    rest = Table(caption=None if with_power else "power: not available, there is no tegrastats")
    _add_columns(rest, "", "load s", "memory MB", "disk MB", *(f"per s at {n}" for n in sizes))
    if with_power:
        _add_columns(rest, "power W")
    for item in found:
        rest.add_row(
            item.name,
            *(
                "" if value is None else f"{value:.1f}"
                for value in (item.load_s, item.memory_mb, item.size_mb)
            ),
            *(f"{item.per_s[n]:.1f}" if n in item.per_s else "" for n in sizes),
            *(["\n".join(f"{r} {w:.1f}" for r, w in (item.power_w or {}).items())] * with_power),
        )
    return [latency, rest, *(f"{i.name}: {i.failure}" for i in found if i.failure)]


def _add_columns(table: Any, *names: str) -> None:
    for name in names:
        table.add_column(name, justify="right" if table.columns else "left", min_width=4)
