"""Shared fixtures. The repository's own code is imported as `runtime`, `train`, `export`."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

Once = Callable[[str, Callable[[Path], object]], Path]

# No test may reach the network through a library that would like to.
os.environ["HF_HUB_OFFLINE"] = os.environ["ORT_DISABLE_TELEMETRY"] = "1"
# The models here are so small that two threads of torch wait for each other ten times as long as
# they compute. Programs that the tests start inherit this.
os.environ["OMP_NUM_THREADS"] = "1"

ROOT = Path(__file__).parent.parent
# The tests of these files take longest, in this order.
LONGEST = ("test_live.py", "test_run.py", "test_export.py", "test_devices.py", "test_distill.py",
           "test_mmsa.py", "test_recordings.py", "test_ablate.py", "test_package.py", "test_cli.py",
           "test_calibrate.py", "test_data.py", "test_trt.py")  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first: the last one then leaves no worker waiting for long."""
    rank = {name: k for k, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """`once(name, make)` gives a folder that `make(folder)` has filled. One worker makes it, the
    others wait for it: read it, copy it, do not write to it."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # each worker has a folder of its own in it

    def folder(name: str, make: Callable[[Path], object]) -> Path:
        made, unfinished = base / name, base / f"{name}.unfinished"
        with (base / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not made.exists():
                shutil.rmtree(unfinished, ignore_errors=True)  # what failed in another worker
                unfinished.mkdir()
                make(unfinished)
                unfinished.rename(made)
        return made

    return folder


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def demo(root: Path) -> Path:
    """The shipped clip: a talking face and two spoken sentences."""
    return root / "runtime" / "demo" / "demo.mp4"


@pytest.fixture(scope="session")
def tokenizer_json(root: Path) -> Path:
    """The tokenizer of the default bundle."""
    return root / "runtime" / "default_bundle" / "tokenizer.json"
