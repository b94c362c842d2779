"""The outputs that options choose."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import option
from ..errors import UsageError
from .broker import PASSWORD_VARIABLE, broker_at
from .mqtt import Mqtt
from .outlet import Carrier, Outlet
from .program import Program
from .rotating import RotatingFile
from .sinks import Sink
from .udp import Datagrams

if TYPE_CHECKING:
    from .web.server import WebServer
    from .zenoh_sink import ZenohSink

__all__ = ["Chosen", "OutputOptions", "chosen"]

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
    web: str | None = option(
        None,
        metavar="[HOST:]PORT",
        help="show a page in the browser there, and send events to programs by WebSocket; HOST "
        "0.0.0.0 lets other machines in, with a token (docs/web.md)",
    )
    web_token: str | None = option(
        None, metavar="TOKEN", help="what clients of --web must show; others can see it in `ps`"
    )
    web_token_file: str | None = option(
        None, metavar="FILE", help="the same, read from a file that only you can read"
    )
    web_picture: bool = option(
        False, help="with --web: show the camera's picture too, not only the face's lines"
    )
    zenoh: str | None = option(
        None,
        metavar="KEY",
        help="events as JSON on KEY/events, the newest one asked of KEY/latest; "
        "commands on KEY/command; for this machine only, unless --zenoh-config says more",
    )
    zenoh_config: str | None = option(
        None, metavar="FILE", help="with --zenoh: a configuration of Zenoh, in place of loopback"
    )
    quiet: bool = option(False, help="print no events; for use with other outputs")


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The outputs of a stream, not started yet."""

    outlets: Sequence[Outlet]
    web: "WebServer | None"
    zenoh: "ZenohSink | None"

    @property
    def sinks(self) -> list[Sink]:
        """All of them."""
        found: list[Sink] = [*self.outlets]
        if self.web is not None:
            found.append(self.web)
        if self.zenoh is not None:
            found.append(self.zenoh)
        return found


def chosen(options: OutputOptions, *, early: bool) -> Chosen:
    """The outputs that the options ask for; with `early` estimates or without.

    Raises UsageError for what can never work.
    """
    carriers: list[Carrier] = [
        RotatingFile(Path(path), max_bytes=_bytes(options.out_mb), n_older=options.out_keep)
        for path in _several(options.out)
    ]
    carriers += [Datagrams(address) for address in _several(options.udp)]
    carriers += [Program(command) for command in _several(options.exec)]
    if options.mqtt is not None:
        carriers.append(_mqtt(options, options.mqtt))
    elif options.mqtt_discovery or options.mqtt_ca or options.mqtt_password_file:
        raise UsageError("--mqtt-... options go with --mqtt")
    return Chosen(
        outlets=[Outlet(carrier, early=early) for carrier in carriers],
        web=_web(options),
        zenoh=_zenoh(options, early=early),
    )


def _web(options: OutputOptions) -> "WebServer | None":
    token, file = options.web_token, options.web_token_file
    if options.web is None:
        if token is not None or file is not None or options.web_picture:
            raise UsageError("--web-token, --web-token-file and --web-picture go with --web")
        return None
    from .web.server import WebServer

    return WebServer(options.web, token=token, token_file=file, picture=options.web_picture)


def _zenoh(options: OutputOptions, *, early: bool) -> "ZenohSink | None":
    if options.zenoh is None:
        if options.zenoh_config is not None:
            raise UsageError("--zenoh-config belongs to --zenoh KEY")
        return None
    from .zenoh_sink import ZenohSink

    config = None if options.zenoh_config is None else Path(options.zenoh_config)
    return ZenohSink(options.zenoh, config, early=early)


def _mqtt(options: OutputOptions, url: str) -> Mqtt:
    broker = broker_at(
        url,
        password_file=None
        if options.mqtt_password_file is None
        else Path(options.mqtt_password_file),
        ca=None if options.mqtt_ca is None else Path(options.mqtt_ca),
    )
    return Mqtt(broker, announce=options.mqtt_discovery)


def _bytes(mb: float) -> int:
    if not math.isfinite(mb * 1e6):
        raise UsageError(f"--out-mb {mb}: not a number of megabytes; 0: never")
    return round(mb * 1e6)


def _several(joined: str | None) -> list[str]:
    return [] if joined is None else joined.split(_BETWEEN)
