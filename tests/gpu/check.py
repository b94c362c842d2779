"""Training, graphs and engines on a GPU, against the CPU: see `run.sh`.

Each part is tried by itself. Its entry in the JSON is what it found, or `{"not_tried": reason}`, or
`{"failed": reason}`; the exit code is 1 if one failed, 2 if there is no GPU. The file is written
after each part, so that a run that is cut off leaves what it found.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from export import bundle as bundles
from export import graph, trt
from export.half import to_fp16
from runtime.bench.run import measure, targets
from runtime.engines import gpu
from runtime.engines.choose import open_engine
from runtime.engines.golden import GOLDEN, differences
from runtime.errors import DmdLiveError, EngineError
from runtime.store.bundle import DEFAULT, Bundle
from runtime.system.files import write_file
from tests.train.tiny import utterances
from train import checkpoint
from train.config import Config, ModelConfig
from train.data.corpora import EMOTIONS
from train.data.utterance import collate
from train.losses import TrainingDMD
from train.models.dmd import DMD
from train.models.language import LanguageEncoder

_PACKAGES = ("torch", "onnxruntime", "onnxruntime-gpu", "tensorrt-rtx-cu13", "cuda-bindings")
# The shipped model's size. Dropout is off: its random numbers differ between devices.
_CONFIG = Config(
    model=ModelConfig(
        front_audio=96, statistics_audio=96, dropout=0.0, dropout_embed=0.0, dropout_head=0.0
    )
)
_LANGUAGE = {
    "model_type": "bert",
    "vocab_size": 30_522,
    "hidden_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 12,
    "intermediate_size": 1_536,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
_BATCH, _STEPS, _TIMED = 32, 3, 5
_CLOSE = {"fp32": 1e-3, "bf16": 0.05}  # largest relative difference of a loss from the CPU's
_BUILT = ("fp32", "fp16", "int8", "mixed")


class NotTriedError(Exception):
    """What a part needs is not here."""


def main(arguments: list[str]) -> int:
    """Run all parts; returns the exit code."""
    if not 1 <= len(arguments) <= 2:
        print("usage: tests/gpu/run.sh FILE.json [BUNDLE]", file=sys.stderr)
        return 2
    out, found = Path(arguments[0]), {}
    with tempfile.TemporaryDirectory() as temporary:
        bundle = Path(temporary) / "bundle"
        if len(arguments) == 2:
            shutil.copytree(arguments[1], bundle)
        parts: dict[str, Callable[[], Any]] = {
            "machine": _machine,
            "training": _training,
            "bundle": lambda: _bundle(bundle),
            "engines": lambda: _built(bundle),
            "difference": lambda: _differences(bundle),
            "speed": lambda: [asdict(row) for row in measure(targets(bundle), n_runs=100)],
            "auto": lambda: _auto(bundle),
            "doctor": _doctor,
        }
        for name, part in parts.items():
            started = time.monotonic()
            try:
                found[name] = {"found": part()}
            except NotTriedError as reason:
                found[name] = {"not_tried": str(reason)}
            except Exception as error:  # one part must not take the others with it
                found[name] = {"failed": f"{type(error).__name__}: {error}"}
            found[name]["seconds"] = round(time.monotonic() - started, 1)
            print(name, json.dumps(found[name])[:300], flush=True)
            write_file(out, (json.dumps(found, indent=1) + "\n").encode())
    if any("failed" in part for part in found.values()):
        return 1
    return 2 if "not_tried" in found["machine"] else 0


def _machine() -> dict[str, Any]:
    found: dict[str, Any] = {name: _version(name) for name in _PACKAGES}
    try:
        found |= {"capability": gpu.capability(), "driver": gpu.driver_version()}
    except EngineError as error:
        raise NotTriedError(str(error)) from error
    if torch.cuda.is_available():
        found["card"] = torch.cuda.get_device_name()
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _training() -> dict[str, Any]:
    """Losses of the same steps on CPU and GPU, and milliseconds of a step."""
    kinds = [("cpu", "fp32"), ("cuda", "fp32"), ("cuda", "bf16")]
    if not torch.cuda.is_available():
        kinds = kinds[:1]
    found = {f"{device} {precision}": _steps(device, precision) for device, precision in kinds}
    if len(found) == 1:
        raise NotTriedError(f"torch {torch.__version__} sees no GPU; CPU: {found['cpu fp32']}")
    wanted = np.array(found["cpu fp32"]["losses"])
    for name, run in found.items():
        run["gap"] = float(np.max(np.abs(np.array(run["losses"]) / wanted - 1.0)))
        run["faster"] = found["cpu fp32"]["step_ms"] / run["step_ms"]
        if run["gap"] > _CLOSE[name.split()[1]]:
            raise AssertionError(f"{name}: losses are off by {run['gap']:.1%}: {found}")
    return found


def _steps(device: str, precision: str) -> dict[str, Any]:
    model = _model().to(device).train()
    batch = collate(utterances(_BATCH, DEFAULT / "tokenizer.json"))
    batch = {name: values.to(device) for name, values in batch.items()}
    adam = torch.optim.AdamW(model.parameters(), 1e-4)
    losses, times = [], []
    for _ in range(_STEPS + _TIMED):
        _wait(device)
        started = time.perf_counter()
        adam.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            total = model(batch).total
        total.backward()
        adam.step()
        _wait(device)
        times.append(time.perf_counter() - started)
        losses.append(float(total.detach()))
    return {"losses": losses[:_STEPS], "step_ms": 1e3 * float(np.median(times[_STEPS:]))}


def _model() -> TrainingDMD:
    torch.manual_seed(0)
    dmd = DMD(_CONFIG.model, LanguageEncoder.from_config(_LANGUAGE), len(EMOTIONS))
    dmd.fit_normalisation(collate(utterances(_BATCH, DEFAULT / "tokenizer.json")))
    return TrainingDMD(dmd, _CONFIG)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _bundle(folder: Path) -> list[str]:
    """The precisions of the bundle; made up at `folder` where none was given."""
    if not folder.exists():
        saved = folder.with_name("checkpoint")
        info = {"emotions": list(EMOTIONS), "commit": "untrained", "calibration": {}}
        checkpoint.save(saved, _model().dmd, _CONFIG, DEFAULT / "tokenizer.json", info)
        graph.write_bundle(checkpoint.load(saved), folder)
        half = to_fp16((folder / "model.fp32.onnx").read_bytes())
        write_file(folder / "model.fp16.onnx", half)
        bundles.update(folder, {"models": {"fp32": "model.fp32.onnx", "fp16": "model.fp16.onnx"}})
    return sorted(Bundle.load(folder).info["models"])


def _built(folder: Path) -> dict[str, Any]:
    """TensorRT for RTX's engines, by precision: what export.trt writes of each."""
    if _version("tensorrt-rtx-cu13") is None:
        raise NotTriedError("tensorrt-rtx-cu13 is not installed")
    try:
        target: str | None = gpu.capability()
    except EngineError:
        target = None  # it builds without a GPU, for all that it knows
    found = {}
    for precision in _BUILT:
        options = trt.Options(
            bundle=str(folder), backend="rtx", precision=precision, targets=target
        )
        try:
            found[precision] = json.loads(trt.build(options).read_text(encoding="utf-8"))
        except DmdLiveError as error:
            found[precision] = {"not_built": str(error)}
    return found


def _differences(folder: Path) -> dict[str, Any]:
    """How far each engine is from the fp32 graph on the bundle's known utterances, by output."""
    if GOLDEN not in Bundle.load(folder).info["files"]:
        raise NotTriedError(f"{folder} has no {GOLDEN}")
    found: dict[str, Any] = {}
    for target in targets(folder):
        try:
            engine = target.open()
            found[f"{target.engine} {target.precision}"] = differences(engine, Bundle.load(folder))
        except DmdLiveError as error:
            found[f"{target.engine} {target.precision}"] = {"not_opened": str(error)}
    used = {name.split()[0] for name, gaps in found.items() if "not_opened" not in gaps}
    if not used - {"cpu"}:
        raise NotTriedError(f"only the CPU runs here: {found}")
    return found


def _auto(folder: Path) -> str:
    engine = open_engine(Bundle.load(folder), "auto")
    return f"{engine.name} {engine.precision}"


def _doctor() -> list[str]:
    """What `dmd-live --doctor` says of engines."""
    said = subprocess.run(
        [sys.executable, "-m", "runtime.cli", "--doctor"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if "Traceback" in said.stderr:
        raise AssertionError(said.stderr)
    return [line for line in said.stdout.splitlines() if line.strip()]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
