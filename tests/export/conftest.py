"""A checkpoint to export, and its bundle."""

import json
import shutil
from pathlib import Path

import pytest

from export import graph
from tests.once import Once
from tests.small_run import data, settings, trained
from tests.small_run import traced as traced_run
from train import checkpoint

__all__ = ["data", "settings", "traced_run", "trained"]

CALIBRATION = {
    "temperature": {"text": 0.5, "text+audio": 1.5},
    "uncertain_below": {"text+audio+vision": 0.5},
}


@pytest.fixture(scope="session")
def saved(once: Once, trained: Path) -> Path:
    """A checkpoint folder of a small model, with a calibration that is easily recognised."""

    def make(folder: Path) -> None:
        for name in ("model.safetensors", "tokenizer.json"):
            shutil.copyfile(trained / name, folder / name)
        info = json.loads((trained / "checkpoint.json").read_text())
        info |= {"commit": "test", "calibration": CALIBRATION}
        (folder / "checkpoint.json").write_text(json.dumps(info))

    return once("saved", make)


@pytest.fixture(scope="session")
def traced(once: Once, saved: Path, traced_run: Path) -> Path:
    """The checkpoint's bundle with fp32 alone. The model is the one of the small run, so that it
    need not be traced again, which takes long."""
    fp32 = traced_run / "model.fp32.onnx"

    def make(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(graph, "export_graph", lambda _, path: shutil.copyfile(fp32, path))
            graph.write_bundle(checkpoint.load(saved), folder / "bundle")

    return once("traced", make) / "bundle"
