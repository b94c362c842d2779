"""Data parallel training under `torchrun`: each process encodes its share of every batch.

The losses compare samples with one another (margin, means over those present), so shares cannot be
judged alone: the features of all processes are gathered, with their gradients, and every process
computes the losses of the whole batch. Averaged over processes, the gradients are then exactly
those of a single process.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather

from runtime.errors import UsageError

__all__ = ["alone", "device", "gather", "is_first", "share", "start", "stop", "wait", "wrap"]

Features = TypeVar("Features")  # a dataclass of tensors and of dictionaries of them
_ALONE: ContextVar[bool] = ContextVar("alone", default=False)


def device(name: str) -> torch.device:
    """The device of that name; raises UsageError when it cannot be used."""
    try:
        if name == "cuda":  # torchrun gives every process a device of its own
            name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        found = torch.device(name)
        torch.zeros(1, device=found)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"--device {name} cannot be used here ({reason}); try cpu") from error
    return found


def start(here: torch.device) -> None:
    """Join the other processes when `torchrun` started several; else do nothing."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # The others wait while the first process distils the language branch.
        backend = "nccl" if here.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(hours=12))


def stop() -> None:
    """Leave the group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def is_first() -> bool:
    """Whether this process speaks and writes for all."""
    return not dist.is_initialized() or dist.get_rank() == 0


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this process sees whole batches and gathers nothing, whatever the others do."""
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


def wait() -> None:
    """Until every process is here."""
    if dist.is_initialized():
        dist.barrier()


def wrap(model: nn.Module) -> nn.Module:
    """Average gradients over the processes after every backward pass."""
    if not dist.is_initialized():
        return model
    # Whether a missing-modality token gets a gradient depends on the batch.
    return nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)


def share(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """This process's consecutive part of a whole batch. Raises UsageError if it does not divide."""
    if not dist.is_initialized() or _ALONE.get():
        return batch
    n, n_processes = len(batch["emotion"]), dist.get_world_size()
    if n % n_processes:
        raise UsageError(f"a batch of {n} cannot be divided equally among {n_processes} processes")
    size = n // n_processes
    begin = dist.get_rank() * size
    return {name: tensor[begin : begin + size] for name, tensor in batch.items()}


def gather(features: Features) -> Features:
    """The features of the whole batch from those of every process's share."""
    if not dist.is_initialized() or _ALONE.get():
        return features
    gathered: dict[str, Any] = {}
    for item in fields(features):  # type: ignore[arg-type]
        value = getattr(features, item.name)
        gathered[item.name] = (
            {m: _gather(tensor) for m, tensor in value.items()}
            if isinstance(value, dict)
            else _gather(value)
        )
    return type(features)(**gathered)


def _gather(tensor: Tensor) -> Tensor:
    if tensor.is_floating_point():
        return torch.cat(all_gather(tensor.contiguous()))
    numbers = [torch.empty_like(tensor, dtype=torch.uint8) for _ in range(dist.get_world_size())]
    dist.all_gather(numbers, tensor.to(torch.uint8))  # masks: gloo knows no bool
    return torch.cat(numbers).bool()
