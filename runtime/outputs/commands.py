"""Commands that come from outside: few, short, and not too often."""

import logging
import time
from collections import deque
from typing import Protocol

from ..errors import UsageError

__all__ = ["Commands", "Obeying"]

_LONGEST = 16  # bytes
_N_PER_S = 10

_logger = logging.getLogger("dmd_live")


class Obeying(Protocol):
    """What obeys commands: an `EmotionStream`."""

    def command(self, line: str) -> None:
        """Raises UsageError for one that it does not know."""
        ...


class Commands:
    """Hands commands to a stream. What is too long, too often or no command is ignored, the first
    time with a line in the log."""

    def __init__(self, name: str) -> None:
        self._name, self._told = name, False
        self._stream: Obeying | None = None
        self._lately: deque[float] = deque(maxlen=_N_PER_S)

    def attach(self, stream: Obeying) -> None:
        """Whom they are for."""
        self._stream = stream

    def take(self, payload: bytes) -> None:
        """One command; raises nothing."""
        now = time.monotonic()
        if len(payload) > _LONGEST:
            self.ignore(f"longer than {_LONGEST} bytes")
        elif len(self._lately) == _N_PER_S and now - self._lately[0] < 1.0:
            self.ignore(f"more than {_N_PER_S} in a second")
        elif self._stream is not None:
            self._lately.append(now)
            try:
                self._stream.command(payload.decode("ascii"))
            except UnicodeDecodeError:
                self.ignore("not ASCII")
            except UsageError as error:
                self.ignore(str(error))

    def ignore(self, why: str) -> None:
        """Tell the first one that is not obeyed."""
        if not self._told:
            self._told = True
            _logger.warning("%s: a command is ignored (%s); others are not told", self._name, why)
