"""Processes that work for this one, and end with it."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

__all__ = ["each", "pool"]

Task = TypeVar("Task")
Result = TypeVar("Result")


def pool(n: int | None = None) -> ProcessPoolExecutor:
    """`n` processes, or one for each processor.

    They are spawned, not forked: this process may hold threads of torch. They are gone when it is,
    however it ended, and leave Ctrl-C to it.
    """
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(n or os.cpu_count(), spawn, initializer=_end_with_parent)


def each(
    do: Callable[[Task], Result], tasks: Iterable[Task], n: int
) -> Iterator[tuple[Task, Result]]:
    """Do every task, `n` at a time; yields each with its result when it ends.

    When one fails, or nobody wants the rest, the processes end at once. Raises what a task raises,
    and BrokenProcessPool where a process was killed.
    """
    with pool(n) as started:
        futures = {started.submit(do, task): task for task in tasks}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            for worker in multiprocessing.active_children():
                worker.terminate()
            raise


def _end_with_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_wait, name="end with parent", daemon=True).start()


def _wait() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
