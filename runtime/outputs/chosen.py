"""The outputs that options choose."""

from dataclasses import dataclass
from pathlib import Path

from ..config import option
from ..errors import UsageError
from .broker import PASSWORD_VARIABLE, broker_at
from .mqtt import Mqtt
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
    mqtt: str | None = option(
        None,
        metavar="URL",
        help="publish events at mqtt[s]://[user@]host[:port]/topic, and obey its topic/command",
    )
    mqtt_password_file: str | None = option(
        None,
        metavar="FILE",
        help=f"the broker's password is the first line of FILE; without it ${PASSWORD_VARIABLE}",
    )
    mqtt_ca: str | None = option(
        None, metavar="FILE", help="trust these certificates (PEM), not the system's"
    )
    mqtt_discovery: bool = option(
        False, help="announce emotion, sentiment and arousal to Home Assistant by --mqtt"
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
    if options.mqtt is not None:
        carriers.append(_mqtt(options, options.mqtt))
    elif options.mqtt_discovery or options.mqtt_ca or options.mqtt_password_file:
        raise UsageError("--mqtt-... options go with --mqtt")
    return [Outlet(carrier, early=early) for carrier in carriers]


def _mqtt(options: OutputOptions, url: str) -> Mqtt:
    broker = broker_at(
        url,
        password_file=None
        if options.mqtt_password_file is None
        else Path(options.mqtt_password_file),
        ca=None if options.mqtt_ca is None else Path(options.mqtt_ca),
    )
    return Mqtt(broker, announce=options.mqtt_discovery)


def _several(joined: str | None) -> list[str]:
    return [] if joined is None else joined.split(_BETWEEN)
