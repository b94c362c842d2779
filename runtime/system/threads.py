"""Joining threads that may hang in a driver or a native library."""

import atexit
import threading
import time
from collections.abc import Iterable

__all__ = ["join", "left"]

_AT_EXIT_S = 6.0  # longer than a network camera's time-out


def left() -> bool:
    """Whether a thread of ours hangs, which the end of the process would wait for."""
    return any(thread.name.startswith("dmd-live") for thread in threading.enumerate())


def join(threads: Iterable[threading.Thread], timeout_s: float) -> None:
    """Wait for all threads together, for `timeout_s` at most.

    One that is still alive is waited for once more when the process ends: native code that comes
    back to an interpreter that is gone aborts the process.
    """
    until = time.monotonic() + timeout_s
    for thread in threads:
        if thread is threading.current_thread():
            continue
        thread.join(max(0.0, until - time.monotonic()))
        if thread.is_alive():
            atexit.register(thread.join, _AT_EXIT_S)
