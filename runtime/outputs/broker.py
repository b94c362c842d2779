"""Which MQTT broker, who asks there, and under which topics."""

import os
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ..errors import UsageError

__all__ = ["PASSWORD_VARIABLE", "Broker", "broker_at"]

PASSWORD_VARIABLE = "DMD_LIVE_MQTT_PASSWORD"
"""Has the password where no file is named."""
_PORTS = {"mqtt": 1_883, "mqtts": 8_883}
_LONGEST_TOPIC = 200  # the standard admits 65,535 bytes
_HERE = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, kw_only=True)
class Broker:
    """`topic`: what all topics begin with. `tls`: None for a connection that is not encrypted."""

    host: str
    port: int
    topic: str
    user: str | None
    password: str | None
    tls: ssl.SSLContext | None

    @property
    def exposed(self) -> bool:
        """Whether others in the network can read along."""
        return self.tls is None and self.host not in _HERE


def broker_at(url: str, *, password_file: Path | None = None, ca: Path | None = None) -> Broker:
    """The broker of "mqtt[s]://[user@]host[:port]/topic".

    The password is the first line of a file, else $DMD_LIVE_MQTT_PASSWORD. `ca`: the certificates
    that are trusted in place of the system's. Raises UsageError, which never shows a password.
    """
    try:
        parts = urlsplit(url)
    except ValueError:  # its text, and the address, may hold a password
        raise UsageError("--mqtt: not mqtt[s]://[user@]host[:port]/topic") from None
    if parts.password is not None:
        raise UsageError(
            "--mqtt: a password in the address is seen in the list of processes; put it into a "
            f"file for --mqtt-password-file, or into {PASSWORD_VARIABLE}, and change it"
        )
    try:
        port = parts.port
    except ValueError:
        port = 0
    if parts.scheme not in _PORTS or not parts.hostname or port == 0 or parts.query:
        raise UsageError(f"--mqtt {url}: not mqtt[s]://[user@]host[:port]/topic")
    user = None if parts.username is None else unquote(parts.username)
    password = _password(password_file)
    if user is None and password_file is not None:
        raise UsageError("--mqtt: a password belongs to a user: mqtt://USER@host/topic")
    return Broker(
        host=parts.hostname,
        port=port or _PORTS[parts.scheme],
        topic=_topic(url, unquote(parts.path), parts.fragment),
        user=user,
        password=None if user is None else password,
        tls=_tls(parts.scheme, ca),
    )


def _topic(url: str, path: str, fragment: str) -> str:
    topic = path.strip("/")
    if not topic or len(topic.encode()) > _LONGEST_TOPIC or fragment or url.endswith("#"):
        raise UsageError(
            f"--mqtt {url}: name a topic of {_LONGEST_TOPIC} bytes at most after the host, as in "
            "mqtt://host/robot/emotion"
        )
    if topic.startswith("$") or re.search(r"[+#\x00-\x1f\x7f]", topic):
        raise UsageError(f"--mqtt {url}: a topic has no +, # or control characters, nor $ in front")
    return topic


def _password(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get(PASSWORD_VARIABLE)
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UsageError(f"--mqtt-password-file {file}: cannot be read ({reason})") from error
    if not lines or not lines[0]:
        raise UsageError(f"--mqtt-password-file {file}: its first line is empty")
    return lines[0]


def _tls(scheme: str, ca: Path | None) -> ssl.SSLContext | None:
    """Verifies the broker's certificate and name."""
    if scheme == "mqtt":
        if ca is not None:
            raise UsageError("--mqtt-ca is for an encrypted connection: write mqtts://")
        return None
    try:
        return ssl.create_default_context(cafile=None if ca is None else str(ca))
    except OSError as error:  # ssl.SSLError is one
        raise UsageError(
            f"--mqtt-ca {ca}: no certificates in PEM format can be read there "
            f"({error.strerror or error})"
        ) from error
