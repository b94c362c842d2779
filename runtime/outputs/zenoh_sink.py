"""Events and commands over Zenoh: `dmd-live --zenoh KEY`."""

from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..schemas import EmotionEvent
from .commands import Commands, Obeying

__all__ = ["ENDPOINT", "ZenohSink"]

ENDPOINT = "tcp/127.0.0.1:7447"
"""Where others find the events, unless a configuration says otherwise: Zenoh's port."""
_LOOPBACK = (
    ("mode", '"peer"'),
    ("listen/endpoints", f'["{ENDPOINT}"]'),
    ("scouting/multicast/enabled", "false"),
    ("scouting/gossip/enabled", "false"),
)
"""A session that nobody reaches from another machine, and that asks nobody."""


class ZenohSink:
    """A sink: every event as JSON on `KEY/events`; `KEY/latest` answers queries with the newest.
    Early estimates are left out unless `early`.

    What is put on `KEY/command` is a command for the stream. Without `config`, a file of Zenoh's
    own, the session is a peer at `ENDPOINT`, which other machines cannot reach. Entering raises
    UsageError, with what to do, when the package is missing or the key or the configuration is
    wrong.
    """

    def __init__(self, key: str, config: Path | None = None, *, early: bool = True) -> None:
        self._key, self._config, self._early = key, config, early
        self._commands = Commands(f"zenoh {key}")
        self._latest: str | None = None
        self._publisher: Any = None
        self._owned = ExitStack()

    def attach(self, stream: Obeying) -> None:
        """Who obeys the commands."""
        self._commands.attach(stream)

    def __enter__(self) -> "ZenohSink":
        try:
            import zenoh
        except ImportError:
            raise UsageError(
                "--zenoh needs the package eclipse-zenoh: pip install eclipse-zenoh"
            ) from None
        _check(zenoh, self._key)
        config = self._configured(zenoh)
        with ExitStack() as owned:
            try:
                session = owned.enter_context(zenoh.open(config))
                self._publisher = session.declare_publisher(
                    f"{self._key}/events", encoding=zenoh.Encoding.APPLICATION_JSON
                )
                session.declare_queryable(f"{self._key}/latest", self._answer)
                session.declare_subscriber(f"{self._key}/command", self._command)
            except zenoh.ZError as error:
                what = f"at {ENDPOINT}" if self._config is None else f"as {self._config} says"
                raise UsageError(
                    f"--zenoh: no session {what} ({_line(error)}); --zenoh-config FILE chooses "
                    "another endpoint"
                ) from error
            self._owned = owned.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._owned.close()
        self._publisher = None

    def emit(self, event: EmotionEvent) -> None:
        """Publish an event."""
        if self._early or event.type == "final":
            self._latest = event.to_json()
            self._publisher.put(self._latest)

    def _configured(self, zenoh: Any) -> Any:
        if self._config is None:
            config = zenoh.Config()
            for name, value in _LOOPBACK:
                config.insert_json5(name, value)
            return config
        try:
            self._config.open("rb").close()
            return zenoh.Config.from_file(self._config)
        except OSError as error:
            raise UsageError(f"{self._config}: cannot be read ({error.strerror})") from error
        except zenoh.ZError as error:
            raise UsageError(f"{self._config}: no Zenoh configuration ({_line(error)})") from error

    def _answer(self, query: Any) -> None:
        """A thread of Zenoh's: the newest event, or no reply before the first one."""
        if self._latest is not None:
            query.reply(f"{self._key}/latest", self._latest)

    def _command(self, sample: Any) -> None:
        """A thread of Zenoh's."""
        self._commands.take(sample.payload.to_bytes())


def _check(zenoh: Any, key: str) -> None:
    """Raises UsageError for a key that cannot be published on."""
    with suppress(zenoh.ZError):
        zenoh.KeyExpr(key)
        if not set("*$?#") & set(key):
            return
    raise UsageError(f"--zenoh: no key {key[:60]!r}; one is like robot/head, without * $ ? #")


def _line(error: Exception) -> str:
    """The first line of what Zenoh says, without where in its source."""
    return (str(error).splitlines() or ["unknown reason"])[0].split(" at /")[0][:200]
