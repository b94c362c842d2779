"""The outputs that options choose."""

from dataclasses import dataclass
from pathlib import Path

from ..config import option
from .outlet import Carrier, Outlet
from .program import Program
from .rotating import RotatingFile
from .udp import Datagrams

__all__ = ["OutputOptions", "outlets"]

_BETWEEN = "\0"  # values of an option that was given several times; no argument can hold it


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Where events go besides standard output. Several at once are fine."""

    out: str | None = option(
        None,
        metavar="FILE",
        joined_by=_BETWEEN,
        help="append events to FILE, one JSON object a line; may be given several times",
    )
    out_mb: float = option(
        100.0, metavar="N", help="rename a file of --out before it is larger; 0: never"
    )
    out_keep: int = option(5, metavar="K", help="keep so many renamed ones: FILE.1 is the newest")
    udp: str | None = option(
        None,
        metavar="HOST:PORT",
        joined_by=_BETWEEN,
        help="send each event as a datagram of JSON, 1,200 bytes at most; may be given several "
        "times",
    )
    exec: str | None = option(
        None,
        metavar="CMD",
        joined_by=_BETWEEN,
        help="run a program (no shell) and feed it events, one JSON object a line; it is started "
        "again when it ends; may be given several times",
    )
    quiet: bool = option(False, help="print no events; for use with other outputs")


def outlets(options: OutputOptions, *, early: bool) -> list[Outlet]:
    """The outputs that the options ask for, not started yet; with `early` estimates or without.

    Raises UsageError for what can never work.
    """
    carriers: list[Carrier] = [
        RotatingFile(Path(path), max_bytes=round(options.out_mb * 1e6), n_older=options.out_keep)
        for path in _several(options.out)
    ]
    carriers += [Datagrams(address) for address in _several(options.udp)]
    carriers += [Program(command) for command in _several(options.exec)]
    return [Outlet(carrier, early=early) for carrier in carriers]


def _several(joined: str | None) -> list[str]:
    return [] if joined is None else joined.split(_BETWEEN)
