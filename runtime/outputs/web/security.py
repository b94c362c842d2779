"""Who may talk to the web server: addresses, Host, Origin, token, rates, response headers."""

import hmac
import ipaddress
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import UsageError

__all__ = ["Address", "Guard", "Rate", "response_headers", "token_of"]

_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
_MIN_TOKEN = 8  # characters; at 1,000 guesses a second, eight letters or digits last 3,000 years
_MAX_TOKEN = 1_024  # characters that are compared


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where the server listens. `port` 0: any free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Address":
        """From `[HOST:]PORT`; an IPv6 address stands in brackets. Raises UsageError."""
        host, colon, port = text.strip().rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host or (colon and not host):
            raise UsageError(f"--web {text}: write PORT, HOST:PORT or [IPV6]:PORT")
        if not (port.isascii() and port.isdigit() and int(port) < 65_536):
            raise UsageError(f"--web {text}: the port is a number from 0 (any free one) to 65535")
        return cls(host=host or "127.0.0.1", port=int(port))

    @property
    def local(self) -> bool:
        """Whether only this machine reaches it."""
        return self.host.lower() in _LOCAL or _is_loopback(self.host)

    def names(self) -> frozenset[str]:
        """What a Host header may call it, besides the address that a client connected to."""
        if self.local:
            return _LOCAL | {self.host.lower()}
        mine = socket.gethostname().lower()
        return _LOCAL | {self.host.lower(), mine, f"{mine}.local"}


def token_of(token: str | None, file: str | None, address: Address) -> str | None:
    """The token that clients must show, if any. Raises UsageError."""
    if token is not None and file is not None:
        raise UsageError("give --web-token or --web-token-file, not both")
    if file is not None:
        try:
            token = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--web-token-file {file}: cannot be read ({error})") from error
    if token is None and not address.local:
        raise UsageError(
            f"--web {address.host}: other machines reach this address; protect it with --web-token "
            "or --web-token-file (openssl rand -hex 16 makes one)"
        )
    if token is not None and not (_MIN_TOKEN <= len(token) <= _MAX_TOKEN and token.isprintable()):
        raise UsageError(
            f"a web token has {_MIN_TOKEN} to {_MAX_TOKEN:,} printable characters "
            "(openssl rand -hex 16 makes one)"
        )
    return token


@dataclass(frozen=True, kw_only=True)
class Guard:
    """Judges requests. `names`: see `Address.names`; `port`: the one that is listened on."""

    names: frozenset[str]
    port: int
    token: str | None

    def may_host(self, hosts: Sequence[str], reached: str) -> bool:
        """Whether the Host headers name this server, against DNS rebinding.

        `reached`: the local IP address that the client connected to.
        """
        names = self.names | {reached.lower().removeprefix("::ffff:")}
        written = {f"[{name}]" if ":" in name else name for name in names}
        allowed = {f"{name}:{self.port}" for name in written}
        if self.port == 80:
            allowed |= written
        return len(hosts) == 1 and hosts[0].lower() in allowed

    def may_origin(self, origins: Sequence[str], host: str) -> bool:
        """Whether a browser asks for this server's own page, or no browser asks at all."""
        return not origins or (len(origins) == 1 and origins[0].lower() == f"http://{host.lower()}")

    def may_enter(self, headers: Mapping[str, str], query: Mapping[str, str]) -> bool:
        """Whether the right token comes with the request."""
        if self.token is None:
            return True
        kind, _, shown = headers.get("Authorization", "").partition(" ")
        if kind.lower() != "bearer":
            shown = query.get("token", "")
        shown = shown.strip()[:_MAX_TOKEN]
        right, other = (text.encode("utf-8", "replace") for text in (self.token, shown))
        return hmac.compare_digest(right, other)


class Rate:
    """At most `per_s` a second, and `burst` at once."""

    def __init__(self, *, per_s: float, burst: int) -> None:
        self._per_s, self._burst = per_s, burst
        self._left, self._at_s = float(burst), 0.0

    def take(self, now_s: float) -> bool:
        """Whether one more may come now."""
        self._left = min(self._burst, self._left + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


def response_headers(*, pictures: bool) -> dict[str, str]:
    """Of every answer. `pictures`: the page shows the camera's, which come as data URLs."""
    images = "img-src 'self' data:" if pictures else "img-src 'self'"
    policy = (
        "default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", images,
        "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'",
    )  # fmt: skip
    return {
        "Content-Security-Policy": "; ".join(policy),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cache-Control": "no-store",
        "Server": "dmd-live",
    }


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
