"""Events as datagrams: one each, small enough for every network."""

import json
import socket
from collections.abc import Callable
from typing import Any

from ..errors import UsageError
from ..schemas import EmotionEvent

__all__ = ["Datagrams", "packed"]

_MOST_BYTES = 1_200
"""Every IPv6 network carries 1,280 bytes in one piece; headers of IP and UDP take 48, and tunnels
and VPNs some more."""
# What goes when an event is too long, the least needed first.
_SPARE = ("words", "reasons", "quality", "latency_ms", "modality_sentiment", "modality_weight",
          "person", "modalities")  # fmt: skip


class Datagrams:
    """Sends each event as one datagram of JSON to `address`, "HOST:PORT" or "[IPv6]:PORT".

    Nobody has to listen: what is not received is lost, and not noticed. Raises UsageError when
    `address` is none.
    """

    idle_s = 5.0

    def __init__(self, address: str) -> None:
        self.name = f"udp {address}"
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
            raise UsageError(f"--udp {address}: not HOST:PORT, as in 192.168.1.7:9999")
        self._host, self._port = host.strip("[]"), int(port)
        self._socket: socket.socket | None = None
        self._to: Any = None

    def open(self) -> None:
        """Look the host up."""
        found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_DGRAM)
        family, kind, protocol, _, self._to = found[0]
        self._socket = socket.socket(family, kind, protocol)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)

    def send(self, event: EmotionEvent, over: Callable[[], bool]) -> None:
        """Send one datagram."""
        assert self._socket is not None
        self._socket.sendto(packed(event), self._to)

    def idle(self) -> None:
        """A socket needs nothing."""

    def close(self, over: Callable[[], bool]) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def packed(event: EmotionEvent, n_most: int = _MOST_BYTES) -> bytes:
    """The event's JSON in `n_most` bytes at most.

    One that is longer loses fields, words first; `left_out` names them. A text that is still too
    long is cut, and ends in "...".
    """
    found = event.to_dict()
    content, left_out = _dense(found), []
    for name in _SPARE:
        if len(content) <= n_most:
            return content
        if found.pop(name):  # an empty one is no loss
            left_out.append(name)
        content = _dense({**found, "left_out": left_out})
    if (n_over := len(content) - n_most) > 0:
        text = str(found["text"]).encode()
        n_kept = max(0, len(text) - n_over - len('..., "text"'))
        found["text"] = text[:n_kept].decode(errors="ignore") + "..."
        content = _dense({**found, "left_out": [*left_out, "text"]})
    return content


def _dense(content: dict[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
