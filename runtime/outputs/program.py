"""Events on the standard input of a program."""

import os
import select
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress

from ..errors import UsageError
from ..schemas import EmotionEvent

__all__ = ["Program"]

_STDERR = 2
_LOOK_S = 0.1  # how often a wait looks whether time is up
_KILL_S = 0.3  # from asking a program to end to ending it


class Program:
    """Runs `command`, without a shell, and writes one JSON line per event to its standard input.

    What it prints goes to standard error. A program that ends is an OSError, so that an outlet
    starts it again. At the end its input is closed; a program that then goes on until time is up
    gets SIGTERM, and SIGKILL 0.3 s later. It is in a session of its own: Ctrl-C does not reach it.
    Raises UsageError when there is no such program.
    """

    idle_s = 1.0

    def __init__(self, command: str) -> None:
        try:
            self._command = shlex.split(command)
        except ValueError as error:
            raise UsageError(f"--exec {command}: {error}") from error
        if not self._command or shutil.which(self._command[0]) is None:
            raise UsageError(
                f"--exec {command}: no such program; give its path, or install it (no shell reads "
                "this line; for a pipe write: sh -c '...')"
            )
        self.name = f"exec {self._command[0]}"
        self._process: subprocess.Popen[bytes] | None = None

    def open(self) -> None:
        """Start the program."""
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=_STDERR, start_new_session=True, bufsize=0
        )
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)

    def send(self, event: EmotionEvent, over: Callable[[], bool]) -> None:
        """Write one line, as fast as the program reads."""
        self.idle()
        assert self._process is not None
        assert self._process.stdin is not None
        pipe, line = self._process.stdin.fileno(), event.to_json().encode() + b"\n"
        while line:
            try:
                line = line[os.write(pipe, line) :]
            except BlockingIOError:
                if over():
                    raise TimeoutError("the program does not read") from None
                select.select([], [pipe], [], _LOOK_S)
            except BrokenPipeError:
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(_LOOK_S)
                self.idle()
                raise

    def idle(self) -> None:
        """Raises OSError when the program has ended."""
        if self._process is not None and (code := self._process.poll()) is not None:
            what = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
            raise ChildProcessError(f"the program ended ({what})")

    def close(self, over: Callable[[], bool]) -> None:
        """Close the program's input, and end it when it does not end by itself."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        with suppress(OSError):
            process.stdin.close()
        while process.poll() is None and not over():
            time.sleep(0.01)
        for number in (signal.SIGTERM, signal.SIGKILL):
            if process.poll() is not None:
                return
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)  # and what it has started
            with suppress(subprocess.TimeoutExpired):
                process.wait(_KILL_S)
