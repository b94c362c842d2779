"""Events in a file, one JSON object a line, that never grows beyond a size."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ..errors import UsageError
from ..schemas import EmotionEvent

__all__ = ["RotatingFile"]


class RotatingFile:
    """Appends to `path`. Before it grows beyond `max_bytes` it is renamed to `path.1`, what was
    `path.1` to `path.2`, and so on; `n_older` of them are kept. `max_bytes` 0: no limit.

    A line is written whole or not at all: where the disk is full, its half is taken back. Raises
    UsageError when the file cannot be opened.
    """

    idle_s = 5.0

    def __init__(self, path: Path, *, max_bytes: int, n_older: int) -> None:
        self.name = f"out {path}"
        self._path, self._max_bytes, self._n_older = path, max_bytes, n_older
        self._file, self._n_bytes = -1, 0
        if max_bytes < 0 or n_older < 0:
            raise UsageError("--out-mb and --out-keep are 0 at least")
        try:  # a wrong name is told before anything starts
            self.open()
        except OSError as error:
            raise UsageError(
                f"--out {path}: cannot be written ({error.strerror}); name a file in a folder that "
                "is there"
            ) from error
        self.close(lambda: True)

    def open(self) -> None:
        """Open the file, after a line that was cut off if there is one."""
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
        self._file = os.open(self._path, flags, 0o666)
        self._n_bytes = os.fstat(self._file).st_size
        if self._n_bytes and os.pread(self._file, 1, self._n_bytes - 1) != b"\n":
            self._write(b"\n")

    def send(self, event: EmotionEvent, over: Callable[[], bool]) -> None:
        """Append one line."""
        line = event.to_json().encode() + b"\n"
        if self._max_bytes and self._n_bytes and self._n_bytes + len(line) > self._max_bytes:
            self._rotate()
        self._write(line)

    def idle(self) -> None:
        """A file needs nothing."""

    def close(self, over: Callable[[], bool]) -> None:
        """Close the file."""
        if self._file >= 0:
            file, self._file = self._file, -1
            os.close(file)

    def _write(self, content: bytes) -> None:
        n_done = 0
        try:
            while n_done < len(content):
                n_done += os.write(self._file, content[n_done:])
        except OSError:
            with suppress(OSError):  # not every file can be cut
                os.ftruncate(self._file, self._n_bytes)
            raise
        self._n_bytes += n_done

    def _rotate(self) -> None:
        self.close(lambda: True)
        if self._n_older == 0:
            self._path.unlink()
        names = [self._path, *(self._path.with_name(f"{self._path.name}.{i + 1}")
                               for i in range(self._n_older))]  # fmt: skip
        for older, newer in zip(reversed(names[1:]), reversed(names[:-1]), strict=True):
            if newer.exists():
                os.replace(newer, older)
        self.open()
