"""Work in a process of its own: what it gives back, and what its end looks like."""

import os
import signal
import time
from collections.abc import Iterator
from functools import partial

import pytest

from runtime.errors import BundleError, IsolationError
from runtime.system.isolated import isolated


def numbers(n: int) -> Iterator[tuple[int, int]]:
    for k in range(n):
        yield os.getpid(), k


def refuses() -> Iterator[int]:
    yield 1
    raise BundleError("no such bundle")


def fails() -> Iterator[int]:
    raise ZeroDivisionError("one by nothing")
    yield 1


def crashes() -> Iterator[int]:
    yield 1
    os.kill(os.getpid(), signal.SIGSEGV)


def hangs() -> Iterator[int]:
    yield os.getpid()
    time.sleep(60)


def test_items_come_from_another_process() -> None:
    found = list(isolated(partial(numbers, 3), timeout_s=30))
    assert [k for _, k in found] == [0, 1, 2]
    assert len({pid for pid, _ in found} - {os.getpid()}) == 1


def test_an_error_of_ours_stays_itself() -> None:
    items = isolated(refuses, timeout_s=30)
    assert next(items) == 1
    with pytest.raises(BundleError, match="no such bundle"):
        next(items)


def test_any_other_end_is_told() -> None:
    with pytest.raises(IsolationError, match="ZeroDivisionError: one by nothing"):
        list(isolated(fails, timeout_s=30))
    with pytest.raises(IsolationError, match=r"crashed \(SIGSEGV\)"):
        list(isolated(crashes, timeout_s=30, quiet=True))


def test_what_hangs_is_ended() -> None:
    items = isolated(hangs, timeout_s=10)
    pid = next(items)
    items.close()  # as an exception or the end of the caller does
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(IsolationError, match="no answer within 0 s"):
        list(isolated(hangs, timeout_s=0.01))
