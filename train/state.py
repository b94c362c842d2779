"""What an interrupted run needs to go on after its last finished epoch."""

import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from runtime.errors import UsageError

from . import parallel
from .config import Config
from .provenance import commit

__all__ = ["RunState", "finished"]

_KEPT = ("commit", "inputs", "epoch", "best_epoch", "best_score", "history")


def finished(out: Path, settings: Config, inputs: Mapping[str, str]) -> bool:
    """Whether `out` holds a finished run of this configuration on these inputs; raises UsageError
    for another."""
    try:
        info = json.loads((out / "checkpoint.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    if info.get("asked_sha256") != settings.sha256():
        raise UsageError(
            f"{out}: holds a finished run of another configuration; pass another --out"
        )
    _check_inputs(out, info.get("inputs", {}), inputs)
    return True


def _check_inputs(out: Path, before: Mapping[str, str], inputs: Mapping[str, str]) -> None:
    """Raises UsageError for another data set, or another checkpoint or file to learn from. What is
    known of one of both alone is not compared: a teacher may be gone when its student is there."""
    for name in before.keys() & inputs.keys():
        if before[name] != inputs[name]:
            raise UsageError(f"{out}: holds a run with another {name}; pass another --out")


@dataclass
class RunState:
    """What an interrupted run needs to go on: files in `out/state`, gone when it is finished."""

    folder: Path
    identity: str
    commit: str  # of the code that the run began with
    inputs: dict[str, str]  # `provenance.inputs`
    epoch: int = 0
    best_epoch: int = -1
    best_score: float = float("-inf")
    seconds_before: float = 0.0  # of the interrupted runs, up to the last finished epoch
    history: list[dict[str, Any]] = field(default_factory=list)
    loaded: dict[str, Any] | None = None
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Time spent so far, interrupted runs included."""
        return self.seconds_before + time.monotonic() - self.started

    @classmethod
    def open(cls, out: Path, settings: Config, inputs: dict[str, str], restart: bool) -> "RunState":
        """The state in `out`; raises UsageError when it belongs to another configuration, or to
        other inputs."""
        state = cls(out / "state", settings.sha256(), commit(), inputs)
        if restart:
            if parallel.is_first():
                shutil.rmtree(state.folder, ignore_errors=True)
                (out / "checkpoint.json").unlink(missing_ok=True)
            parallel.wait()
        elif (out / "checkpoint.json").exists() and not state.folder.exists():
            raise UsageError(f"{out}: holds a finished run; pass another --out, or --restart")
        path = state.folder / "last.pt"
        if path.exists():
            state.loaded = torch.load(path, map_location="cpu", weights_only=True)
            if state.loaded["identity"] != state.identity:
                raise UsageError(
                    f"{out}: holds an interrupted run of another configuration; finish that one, "
                    "pass another --out, or --restart"
                )
            _check_inputs(out, state.loaded["inputs"], inputs)
            for name in _KEPT:
                setattr(state, name, state.loaded[name])
            state.seconds_before = state.loaded["seconds"]
            if parallel.is_first():
                print(f"going on after epoch {state.epoch}")
        state.folder.mkdir(parents=True, exist_ok=True)
        return state

    def restore(self, model: nn.Module, adam: Any, schedule: Any) -> None:
        """Load what was saved, if anything was."""
        if self.loaded is not None:
            model.load_state_dict(self.loaded["model"])
            adam.load_state_dict(self.loaded["adam"])
            schedule.load_state_dict(self.loaded["schedule"])
            self.loaded = None

    def finish_epoch(
        self,
        epoch: int,
        score: float,
        record: dict[str, Any],
        model: nn.Module,
        adam: Any,
        schedule: Any,
    ) -> None:
        """Save the end of an epoch; `last.pt` is renamed last, so that it vouches for the rest."""
        self.history.append({"epoch": epoch + 1, "score": score, **record})
        self.epoch = epoch + 1
        if score > self.best_score or self.best_epoch < 0:
            self.best_epoch, self.best_score = epoch, score
            if parallel.is_first():
                weights = {name: t.contiguous() for name, t in model.state_dict().items()}
                save_file(weights, self.folder / f"best-{epoch}.safetensors")
        if not parallel.is_first():
            return
        partial = self.folder / "last.pt.partial"
        torch.save(
            {
                **{name: getattr(self, name) for name in _KEPT},
                "identity": self.identity,
                "seconds": self.seconds,
                "model": model.state_dict(),
                "adam": adam.state_dict(),
                "schedule": schedule.state_dict(),
            },
            partial,
        )
        os.replace(partial, self.folder / "last.pt")
        for old in self.folder.glob("best-*.safetensors"):
            if old.name != f"best-{self.best_epoch}.safetensors":
                old.unlink()

    def restore_best(self, model: nn.Module) -> None:
        """Load the weights of the best epoch."""
        parallel.wait()
        model.load_state_dict(load_file(self.folder / f"best-{self.best_epoch}.safetensors"))

    def close(self) -> None:
        """The checkpoint is written: the state is no longer needed."""
        parallel.wait()
        if not parallel.is_first():
            return
        shutil.rmtree(self.folder)
