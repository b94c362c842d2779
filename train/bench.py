"""Speed of a full training step on MOSI-shaped data: `python -m train.bench`.

Measures the model of the published code (`configs/paper_*.toml`) and the deployable one, each in a
process of its own. With `--reference CLONE` (a checkout of mdswyz/DMD) the published code runs the
same step: its model, both graph distillation units and all its loss terms, on the same batch.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from runtime.config import option, parse
from runtime.errors import DmdLiveError, UsageError

from . import config, workers
from .config import Config
from .losses import TrainingDMD
from .models.dmd import DMD

__all__ = ["Options", "check_clone", "main", "published_code"]

_CONFIGS = Path(__file__).parent.parent / "configs"
_TEXT_DIM = 768


@dataclass(frozen=True, kw_only=True)
class Options:
    """Samples per second of a full training step (forward, all losses, backward, optimiser)."""

    dataset: str = option(
        "mosi", choices=("mosi", "mosei"), help="data set whose shapes and preset are used"
    )
    batch_sizes: str = option("16,64", metavar="N,N", help="batch sizes to measure")
    n_steps: int = option(
        10, metavar="N", help="timed steps for each batch size; the median is reported"
    )
    device: str = option("cpu", help="cpu, cuda or cuda:N")
    precision: str = option("fp32", choices=("fp32", "bf16"), help="precision of our own steps")
    reference: str | None = option(
        None, metavar="CLONE", help="checkout of the published code, to compare with"
    )


def main() -> int:
    """Run the command; returns the exit code."""
    options = parse(Options, None, prog="python -m train.bench")
    try:
        sizes = [int(size) for size in options.batch_sizes.split(",")]
    except ValueError:
        print("train.bench: --batch-sizes takes numbers, such as 16,64", file=sys.stderr)
        return 2
    try:
        _run(options, sizes)
    except DmdLiveError as error:
        print(f"train.bench: {error}", file=sys.stderr)
        return 2
    return 0


def _run(options: Options, sizes: list[int]) -> None:
    if options.reference is not None:
        check_clone(Path(options.reference))
    print(f"{options.dataset} shapes, aligned, no BERT, {options.precision}, {options.device}")
    for size in sizes:
        baseline = None
        if options.reference is not None:
            baseline = _alone(options, "published", size)
            print(f"batch {size:3}  published code    {baseline.line()}", flush=True)
        for preset in ("paper", "deployable"):
            found = _alone(options, preset, size)
            ratio = f"  {found.samples_per_s / baseline.samples_per_s:5.2f} x" if baseline else ""
            print(f"batch {size:3}  {preset:<16}  {found.line()}{ratio}", flush=True)


@dataclass(frozen=True)
class _Measured:
    samples_per_s: float
    peak_mb: float

    def line(self) -> str:
        return f"{self.samples_per_s:8.1f} samples/s  peak {self.peak_mb:6.0f} MB"


def _alone(options: Options, preset: str, size: int) -> _Measured:
    """Measure in a process of its own, so that no other's memory or threads count."""
    with workers.pool(1) as pool:
        return pool.submit(_measure, options, preset, size).result()


def _measure(options: Options, preset: str, size: int) -> _Measured:
    batch = _batch(options, size)
    if preset == "published":
        step = _published_step(Path(options.reference or ""), options, batch)
    else:
        step = _our_step(_settings(options, preset), batch, options)
    speed = _samples_per_s(step, size, options)
    if options.device.startswith("cuda"):
        return _Measured(speed, torch.cuda.max_memory_allocated() / 1e6)
    return _Measured(speed, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)


def _settings(options: Options, preset: str) -> Config:
    """The published code's model, or the deployable one on the same raw features."""
    paper = config.load(_CONFIGS / f"paper_{options.dataset}.toml")
    if preset == "paper":
        model = replace(paper.model, n_steps_text=50, n_steps_audio=50, n_steps_vision=50)
    else:
        dims = paper.model
        model = replace(Config().model, audio_dim=dims.audio_dim, vision_dim=dims.vision_dim)
    settings = paper if preset == "paper" else Config()
    return replace(settings, model=replace(model, text_dim=_TEXT_DIM))


def _batch(options: Options, n: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    model = _settings(options, "paper").model
    dims = (_TEXT_DIM, model.audio_dim, model.vision_dim)
    batch = {
        m: torch.randn(n, 50, dim, generator=generator)
        for m, dim in zip(("text", "audio", "vision"), dims, strict=True)
    }
    batch |= {f"{m}_mask": torch.ones(n, 50, dtype=torch.bool) for m in list(batch)}
    # MOSI's labels are means of five ratings: multiples of 0.2, so that some are equal.
    batch["sentiment"] = torch.randint(-15, 16, (n,), generator=generator) / 5.0
    batch["emotion"] = torch.full((n,), -1)
    return {name: tensor.to(options.device) for name, tensor in batch.items()}


def _our_step(settings: Config, batch: dict[str, Tensor], options: Options) -> Callable[[], None]:
    torch.manual_seed(0)
    model = TrainingDMD(DMD(settings.model, None, n_emotions=0), settings)
    model = model.to(options.device).train()
    adam = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
    low = options.precision == "bf16"

    def step() -> None:
        adam.zero_grad(set_to_none=True)
        with torch.autocast(torch.device(options.device).type, torch.bfloat16, enabled=low):
            total = model(batch).total
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()

    return step


def _samples_per_s(step: Callable[[], None], size: int, options: Options) -> float:
    """From the median time of a step, after two that warm up."""
    seconds = []
    for k in range(options.n_steps + 2):
        started = time.perf_counter()
        step()
        if options.device.startswith("cuda"):
            torch.cuda.synchronize()
        if k >= 2:
            seconds.append(time.perf_counter() - started)
    return size / sorted(seconds)[len(seconds) // 2]


def _published_step(clone: Path, options: Options, batch: dict[str, Tensor]) -> Callable[[], None]:
    """The published code's training step, with a repair that it needs to run at all: the cosine
    loss gets 2-D tensors."""
    code = published_code(clone, options.dataset, options.device)
    args = code.args
    model = code.dmd.DMD(args).to(options.device).train()
    kernels = [
        kernel(
            n_classes=1, hidden_size=width, gd_size=size, to_idx=[0, 1, 2], from_idx=[0, 1, 2],
            gd_prior=prior, gd_reg=10, w_losses=[1, 10], metric="l1", alpha=1 / 8, hyp_params=args,
        ).to(options.device)
        for kernel, width, size, prior in (
            (code.homo, model.d_l, 64, code.softmax([0, 0, 1, 0, 1, 0], 0.25)),
            (code.hetero, 2 * model.d_l, 32, code.softmax([0, 0, 1, 0, 1, 1], 0.25)),
        )
    ]  # fmt: skip
    parameters = [p for part in (model, *kernels) for p in part.parameters()]
    adam = torch.optim.Adam(parameters, 1e-4)
    labels = batch["sentiment"][:, None]

    def step() -> None:
        adam.zero_grad()
        out = model(batch["text"], batch["audio"], batch["vision"], is_distill=True)
        _published_loss(out, labels, kernels, code.hinge()).backward()
        nn.utils.clip_grad_value_(parameters, args.grad_clip)
        adam.step()

    return step


def _published_loss(out: dict[str, Tensor], labels: Tensor, kernels: Any, hinge: Any) -> Tensor:
    """All terms of the published trainer with its weights, from its own parts."""
    l1, mse, minus = nn.L1Loss(), nn.MSELoss(), torch.tensor([-1], device=labels.device)
    heads = [f"logits_{x}_{space}" for space in ("homo", "hetero") for x in "lva"]
    task = sum(l1(out[name], labels) for name in ("output_logit", "logits_c", *heads))
    reconstruction = sum(mse(out[f"recon_{x}"], out[f"origin_{x}"]) for x in "lva")
    cycle = sum(mse(out[f"s_{x}"].permute(1, 2, 0), out[f"s_{x}_r"]) for x in "lva")
    orthogonal = sum(
        nn.functional.cosine_embedding_loss(
            out[f"s_{x}"].flatten(0, 1), out[f"c_{x}"].flatten(0, 1), minus
        )
        for x in "lva"
    )
    vectors = torch.stack([out[f"c_{x}_sim"] for x in "lva"], dim=1).flatten(0, 1)
    margin = hinge(labels.repeat_interleave(3, dim=0), vectors)
    distilled = 0.0
    for kernel, space in zip(kernels, ("homo", "hetero"), strict=True):
        logits = torch.stack([out[f"logits_{x}_{space}"] for x in "lva"])
        vectors = torch.stack([out[f"repr_{x}_{space}"] for x in "lva"])
        edges, _ = kernel(logits, vectors)
        regular, logit, representation = kernel.distillation_loss(logits, vectors, edges)
        distilled = distilled + 0.05 * (logit + regular)
        if space == "hetero":
            distilled = distilled + 0.05 * representation
    return task + distilled + 0.1 * (cycle + reconstruction + 0.1 * (margin + orthogonal))


def check_clone(clone: Path) -> None:
    """Raises UsageError when the folder is no checkout of the published code."""
    if not (clone / "trains" / "singleTask" / "model" / "dmd.py").exists():
        raise UsageError(f"{clone}: not a checkout of mdswyz/DMD; clone it and pass its folder")


def published_code(clone: Path, dataset: str, device: str) -> SimpleNamespace:
    """The parts of a checkout, and `args`: its settings for a data set, aligned, text as vectors.

    `.cuda()` keeps tensors on `device` from then on: the code calls it everywhere.
    """
    sys.modules.setdefault("pynvml", ModuleType("pynvml"))  # asked for at import, used on GPUs only
    sys.path.append(str(clone))
    torch.Tensor.cuda = lambda tensor, *_: tensor.to(device)  # type: ignore[method-assign]
    settings = json.loads((clone / "config" / "config.json").read_text())
    args = SimpleNamespace(
        **settings["dmd"]["commonParams"],
        **settings["dmd"]["datasetParams"][dataset],
        **settings["datasetCommonParams"][dataset]["aligned"],
        dataset_name=dataset,
    )
    args.use_bert = False
    nets = "trains.singleTask.distillnets.get_distillation_kernel"
    return SimpleNamespace(
        args=args,
        dmd=import_module("trains.singleTask.model.dmd"),
        homo=import_module(f"{nets}_homo").DistillationKernel,
        hetero=import_module(nets).DistillationKernel,
        softmax=import_module("trains.singleTask.utils.misc").softmax,
        hinge=import_module("trains.singleTask.HingeLoss").HingeLoss,
    )


if __name__ == "__main__":
    sys.exit(main())
