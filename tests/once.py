"""What is slow to make, once for all workers of a test run."""

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path


class Once:
    """Makes folders below `base`, which all workers share."""

    def __init__(self, base: Path) -> None:
        self._base = base

    def __call__(self, name: str, make: Callable[[Path], object]) -> Path:
        """The folder that `make(folder)` fills for the first who asks; others wait for it. Read
        it, copy it, do not write to it."""
        made, unfinished = self._base / name, self._base / f"{name}.unfinished"
        with (self._base / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not made.exists():
                shutil.rmtree(unfinished, ignore_errors=True)  # of a worker that failed
                unfinished.mkdir()
                make(unfinished)
                unfinished.rename(made)
        return made
