"""Work in a process of its own: its memory is its own, and it may hang or crash without harm."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import TypeVar

from ..errors import DmdLiveError, IsolationError

__all__ = ["isolated"]

Item = TypeVar("Item")
_KILLED_S = 2.0


def isolated(
    work: Callable[[], Iterable[Item]], *, timeout_s: float, quiet: bool = False
) -> Iterator[Item]:
    """The items that `work` yields in a fresh process, as they come.

    `work` and its items must be picklable; each item may take `timeout_s`. `quiet` drops what
    native libraries print on stderr. Raises the DmdLiveError that `work` raised; IsolationError for
    any other exception, a crash or an item that takes too long. The process never outlives this.
    """
    context = multiprocessing.get_context("spawn")  # a fork would take this process's memory along
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(work, there, quiet), daemon=True)
    process.start()
    there.close()
    try:
        while True:
            if not here.poll(timeout_s):
                raise IsolationError(f"no answer within {timeout_s:.0f} s")
            try:
                kind, value = here.recv()
            except EOFError:
                process.join(_KILLED_S)
                raise IsolationError(f"crashed ({_ended(process.exitcode)})") from None
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
    finally:
        here.close()
        process.kill()
        process.join(_KILLED_S)


def _run(work: Callable[[], Iterable[Item]], out: Connection, quiet: bool) -> None:
    """The process's main function."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends this one
    if quiet:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    with suppress(BrokenPipeError):  # nobody waits any more
        try:
            for item in work():
                out.send(("item", item))
            out.send(("end", None))
        except DmdLiveError as error:
            out.send(("error", error))
        except Exception as error:
            out.send(("error", IsolationError(f"{type(error).__name__}: {error}")))


def _ended(code: int | None) -> str:
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"
