"""Processes that work for this one, and end with it."""

import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor

__all__ = ["pool", "stop"]


def pool(n: int | None = None) -> ProcessPoolExecutor:
    """`n` processes, or one for each processor.

    They are spawned, not forked: this process may hold threads of torch. They are gone when it is,
    however it ended, and leave Ctrl-C to it.
    """
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(n or os.cpu_count(), spawn, initializer=_end_with_parent)


def stop() -> None:
    """End all processes of all pools now, with what they are doing."""
    for worker in multiprocessing.active_children():
        worker.terminate()


def _end_with_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_wait, name="end with parent", daemon=True).start()


def _wait() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
