"""Checkpoints: a folder with `model.safetensors`, `tokenizer.json` and `checkpoint.json`."""

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from runtime.errors import BundleError
from runtime.features.spec import SPEC
from runtime.judging.calibration import Calibration

from .config import Config, from_dict
from .models.dmd import DMD
from .models.inputs import Inputs
from .models.language import LanguageEncoder
from .models.others import new_model
from .provenance import write_json

__all__ = ["Checkpoint", "Loaded", "load", "load_any", "save"]


@dataclass(frozen=True)
class Loaded:
    """A loaded checkpoint of any kind; `info` is the content of `checkpoint.json`."""

    folder: Path
    model: Inputs
    config: Config
    info: dict[str, Any]

    @property
    def calibration(self) -> Calibration:
        """How its logits become probabilities; that of training, which leaves them as they are
        where there was none."""
        return Calibration.from_dict(self.info["emotions"], self.info.get("calibration", {}))


@dataclass(frozen=True)
class Checkpoint(Loaded):
    """A checkpoint of a DMD, which is what can be exported."""

    model: DMD


def save(
    folder: Path, model: Inputs, config: Config, tokenizer: Path | None, info: dict[str, Any]
) -> None:
    """Write a checkpoint; each file appears whole or not at all, `checkpoint.json` last.

    `tokenizer` is None for a model without a language encoder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    partial = folder / "model.safetensors.partial"
    save_file(weights, partial)
    os.replace(partial, folder / "model.safetensors")
    if tokenizer is not None:
        shutil.copyfile(tokenizer, folder / "tokenizer.json.partial")
        os.replace(folder / "tokenizer.json.partial", folder / "tokenizer.json")
    write_json(
        folder / "checkpoint.json",
        {
            "config": asdict(config),
            "seed": config.seed,
            "feature_spec_sha256": SPEC.sha256(),
            "weights_sha256": hashlib.sha256(
                (folder / "model.safetensors").read_bytes()
            ).hexdigest(),
            "language_architecture": model.language.architecture() if model.language else None,
            **info,
        },
    )


def load(folder: Path, *, words_only: bool = False) -> Checkpoint:
    """Read a DMD's checkpoint for evaluation or export (`model.eval()`).

    `words_only`: the model is only given words, which do not depend on the feature spec.

    Raises BundleError, in one line, when a file is missing, damaged or of another feature spec, or
    the model is one that the DMD is compared with.
    """
    found = load_any(folder, words_only=words_only)
    if not isinstance(found.model, DMD):
        raise BundleError(f"{folder}: is a model of kind {found.config.model.kind}, not a DMD")
    return Checkpoint(folder, found.model, found.config, found.info)


def load_any(folder: Path, *, words_only: bool = False) -> Loaded:
    """Read a checkpoint of any kind, as `load` does."""
    try:
        info = json.loads((folder / "checkpoint.json").read_text(encoding="utf-8"))
        config = from_dict(info["config"])
        described = info["language_architecture"]
        language = LanguageEncoder.from_config(described) if described else None
        model = new_model(config.model, language, len(info["emotions"]))
        weights = load_file(folder / "model.safetensors")
        model.load_state_dict(weights)
    except FileNotFoundError as error:
        raise BundleError(
            f"{folder}: no {Path(error.filename or 'checkpoint').name}; "
            "train one with `python -m train.run`"
        ) from error
    except (json.JSONDecodeError, KeyError, SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise BundleError(f"{folder}: damaged checkpoint ({reason}); train it again") from error
    if not words_only and info["feature_spec_sha256"] != SPEC.sha256():
        raise BundleError(f"{folder}: made with another feature spec; train it again")
    return Loaded(folder, model.eval(), config, info)
