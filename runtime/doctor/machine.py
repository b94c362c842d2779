"""Checks of the machine: board, GPU and its libraries, cache, clock."""

import ctypes
import importlib
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..engines import gpu
from ..engines.stored import BACKENDS
from ..errors import EngineError
from ..store.models import cache_folder
from ..system.device import this_device
from .base import FINE, MISSING, NOT_NEEDED, Check, Use

__all__ = ["cache", "clock", "device", "jetpack", "onnxruntime", "tensorrt"]

_TEGRA_RELEASE = Path("/etc/nv_tegra_release")
_OLDEST_S = 1_735_689_600.0  # 1 January 2025: this software is younger
_DRIFT_S = 0.05  # over 0.2 s: a clock that was set meanwhile, not one that is slewed
_REMOTE = ("AzureExecutionProvider",)  # sends a graph away: never used here
_TIME_ERROR = 5  # what adjtimex(2) returns for a clock that is not synchronised


def device(use: Use) -> Iterator[Check]:
    """The board and its GPU, if any."""
    yield Check(name="device", state=FINE, detail=str(this_device()))
    try:
        cuda = gpu.driver_version()
        detail = f"{gpu.capability()}, driver for CUDA {cuda // 1000}.{cuda % 1000 // 10}"
        yield Check(name="GPU", state=FINE, detail=detail)
    except EngineError as error:
        yield Check(name="GPU", state=NOT_NEEDED, detail=f"{error}: the CPU does the work")


def jetpack(use: Use) -> Iterator[Check]:
    """Which release, where this is a Jetson."""
    if not _TEGRA_RELEASE.exists():
        yield Check(name="JetPack", state=NOT_NEEDED, detail="this is no Jetson")
        return
    found = re.search(r"R(\d+) .*REVISION: ([\d.]+)", _TEGRA_RELEASE.read_text(encoding="utf-8"))
    linux = f"Jetson Linux {found[1]}.{found[2]}" if found else "Jetson Linux of unknown version"
    if version := _printed("dpkg-query", "--show", "--showformat=${Version}", "nvidia-jetpack"):
        yield Check(name="JetPack", state=FINE, detail=f"{version} on {linux}")
        return
    yield Check(
        name="JetPack",
        state=MISSING,
        detail=f"{linux} without JetPack's CUDA and TensorRT: the CPU does the work",
        remedy="sudo apt update && sudo apt install nvidia-jetpack",
    )


def _printed(*command: str) -> str:
    """What a command prints; "" when it is not there or fails."""
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def tensorrt(use: Use) -> Iterator[Check]:
    """What could run engines, where there is a GPU."""
    found = [f"{m} {v}" for m in BACKENDS.values() if (v := _version_of(m))]
    shown = ", ".join(found)
    try:
        gpu.capability()
    except EngineError:
        detail = f"no GPU to run engines on{f' ({shown} can build some)' if found else ''}"
        yield Check(name="TensorRT", state=NOT_NEEDED, detail=detail)
        return
    if not found:
        yield Check(
            name="TensorRT",
            state=MISSING,
            detail="this Python sees none: the GPU runs by onnxruntime at most",
            remedy="on a Jetson: python3 -m venv --system-site-packages .venv; "
            "else: pip install tensorrt",
        )
    elif not _version_of("cuda.bindings.runtime"):
        remedy = gpu.bindings(gpu.driver_version())
        detail = f"{shown} without CUDA bindings"
        yield Check(name="TensorRT", state=MISSING, detail=detail, remedy=remedy)
    else:
        yield Check(name="TensorRT", state=FINE, detail=shown)


def _version_of(module: str) -> str:
    """Version of a module; "" when it cannot be loaded."""
    try:
        return str(getattr(importlib.import_module(module), "__version__", "of unknown version"))
    except (ImportError, OSError):
        return ""


def onnxruntime(use: Use) -> Iterator[Check]:
    """Which providers run a graph; that onnxruntime lists one proves nothing."""
    import onnxruntime as ort

    listed = {p: _runs(p) for p in ort.get_available_providers() if p not in _REMOTE}
    runs = [p.removesuffix("ExecutionProvider") for p, ran in listed.items() if ran]
    fails = [p.removesuffix("ExecutionProvider") for p, ran in listed.items() if not ran]
    detail = f"{ort.__version__} runs on {', '.join(runs) or 'nothing'}"
    if fails:
        detail += f"; lists {', '.join(fails)} too, which cannot run here"
    state = FINE if "CPU" in runs else MISSING
    remedy = "" if state == FINE else "pip install --force-reinstall onnxruntime"
    yield Check(name="onnxruntime", state=state, detail=detail, remedy=remedy)


def _runs(provider: str) -> bool:
    """Whether all of a small graph runs there, without the CPU's help."""
    import onnxruntime as ort

    from ..features.vision import APPEARANCE

    options = ort.SessionOptions()
    options.log_severity_level = 4
    if provider != "CPUExecutionProvider":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session = ort.InferenceSession(APPEARANCE, options, providers=[provider])
        inputs = {
            item.name: np.zeros([n if isinstance(n, int) else 1 for n in item.shape], np.float32)
            for item in session.get_inputs()
        }
        session.run(None, inputs)
    except Exception:  # onnxruntime raises no narrower class
        return False
    return bool(session.get_providers()[0] == provider)


def cache(use: Use) -> Iterator[Check]:
    """Where downloads and measurements are kept."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        yield Check(
            name="cache",
            state=MISSING,
            detail=f"{folder}: {error.strerror}: nothing downloaded or measured can be kept",
            remedy="export DMD_LIVE_CACHE=/a/folder/you/may/write",
        )
        return
    yield Check(name="cache", state=FINE, detail=f"{folder} is writable")


def clock(use: Use) -> Iterator[Check]:
    """Events count monotonic seconds, which nothing sets. The date matters to file times and to
    the certificates of a download."""
    remedy = "sudo timedatectl set-ntp true"
    steady_s, date_s = time.monotonic(), time.time()
    time.sleep(0.2)
    gap_s = abs((time.time() - date_s) - (time.monotonic() - steady_s))
    problem = ""
    if date_s < _OLDEST_S:
        problem = f"the date is {time.strftime('%Y-%m-%d', time.gmtime(date_s))}"
    elif gap_s > _DRIFT_S:
        problem = f"the date jumped by {gap_s:.1f} s within 0.2 s"
    elif _unsynchronised():
        problem = "the date is not synchronised"
    if problem:
        detail = f"{problem}; the times of events do not depend on it"
        yield Check(name="clock", state=MISSING, detail=detail, remedy=remedy)
        return
    resolution_us = time.get_clock_info("monotonic").resolution * 1e6
    detail = f"monotonic to {resolution_us:g} us, the date is plausible"
    yield Check(name="clock", state=FINE, detail=detail)


def _unsynchronised() -> bool:
    """What the kernel knows from a time daemon; False where it does not tell."""
    try:
        adjtimex = ctypes.CDLL(None).adjtimex
    except (OSError, AttributeError):
        return False
    # A zeroed struct timex only asks; it has 208 bytes on 64-bit Linux.
    return bool(adjtimex(ctypes.create_string_buffer(512)) == _TIME_ERROR)
