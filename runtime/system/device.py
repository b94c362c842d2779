"""What this machine is."""

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Device", "this_device"]


@dataclass(frozen=True, kw_only=True)
class Device:
    """`model`: the board or processor by its maker's name, "" where nothing tells; `machine`:
    architecture, such as aarch64; `memory_mb`: None where nothing tells."""

    model: str
    machine: str
    n_cores: int
    memory_mb: int | None

    def __str__(self) -> str:
        memory = f", {self.memory_mb / 1e3:.1f} GB" if self.memory_mb else ""
        return f"{self.model or 'unknown board'}, {self.machine}, {self.n_cores} cores{memory}"


def this_device() -> Device:
    """The machine that runs this."""
    board = _text("/proc/device-tree/model").rstrip("\0").strip()  # ARM boards
    processor = re.search(r"^model name\s*: (.+)", _text("/proc/cpuinfo"), re.MULTILINE)
    memory = re.search(r"^MemTotal: +(\d+) kB", _text("/proc/meminfo"), re.MULTILINE)
    return Device(
        model=board or (processor.group(1) if processor else platform.processor()),
        machine=platform.machine(),
        n_cores=len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1,
        memory_mb=round(int(memory.group(1)) * 1024 / 1e6) if memory else None,
    )


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
