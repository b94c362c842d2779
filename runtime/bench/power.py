"""Power, where the board tells: the sensors of a Jetson, as `tegrastats` prints them."""

import re
import shutil
import subprocess
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

__all__ = ["PowerMeter", "watts"]

_INTERVAL_MS = 200
_RAIL = re.compile(r"\b(\w+) (\d+)mW/\d+mW")  # a rail, its power now and its mean


def watts(line: str) -> dict[str, float]:
    """Watts now of each rail in a line of tegrastats; empty where the board has no sensors.

    `VDD_IN` (Orin Nano, Orin NX) is what the whole board takes; an AGX Orin tells its parts only.
    """
    return {name: int(milliwatts) / 1e3 for name, milliwatts in _RAIL.findall(line)}


class PowerMeter:
    """Runs tegrastats, where there is one, as long as it is open."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._printed: Path | None = None
        self._n_skipped = 0

    def __enter__(self) -> "PowerMeter":
        if command := shutil.which("tegrastats"):
            folder = self._stack.enter_context(tempfile.TemporaryDirectory())
            self._printed = Path(folder) / "tegrastats.txt"
            out = self._stack.enter_context(self._printed.open("w"))
            process = subprocess.Popen(
                [command, "--interval", str(_INTERVAL_MS)], stdout=out, stderr=subprocess.DEVNULL
            )
            self._stack.callback(process.wait)
            self._stack.callback(process.terminate)
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def restart(self) -> None:
        """Leave out what was measured so far."""
        if self._printed is not None:
            self._n_skipped = len(self._printed.read_text())

    def watts(self) -> dict[str, float] | None:
        """Mean of each rail since `restart`; None when the board does not tell."""
        if self._printed is None:
            return None
        samples: dict[str, list[float]] = defaultdict(list)
        for line in self._printed.read_text()[self._n_skipped :].splitlines():
            for name, value in watts(line).items():
                samples[name].append(value)
        return {name: sum(values) / len(values) for name, values in samples.items()} or None
