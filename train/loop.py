"""One epoch of training, and evaluation of every subset of modalities."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from runtime.features.spec import MODALITIES

from .config import OptimConfig
from .losses import TrainingDMD
from .metrics import emotion_metrics, sentiment_metrics
from .models.dmd import DMD

__all__ = ["SUBSETS", "Predictions", "evaluate", "keep", "optimiser", "predict", "train_epoch"]

Batch = dict[str, Tensor]
Predictions = dict[str, NDArray[Any]]

# All seven non-empty subsets: the full one first, then pairs, then single modalities.
SUBSETS: tuple[tuple[str, ...], ...] = tuple(
    subset for n in (3, 2, 1) for subset in combinations(MODALITIES, n)
)


def optimiser(model: TrainingDMD, config: OptimConfig, n_steps: int) -> tuple[Any, Any]:
    """AdamW with a lower rate for the pretrained language encoder, and its schedule."""
    encoder = model.dmd.language
    language = {id(p) for p in encoder.parameters()} if encoder else set()
    groups: list[dict[str, Any]] = [
        {"params": [], "lr": config.learning_rate},
        {"params": [], "lr": config.language_learning_rate},
    ]
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups[id(parameter) in language]["params"].append(parameter)
    groups = [group for group in groups if group["params"]]
    adam = torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=True)
    n_warmup = max(1, round(config.warmup_share * n_steps))

    def factor(step: int) -> float:
        if step < n_warmup:
            return (step + 1) / n_warmup
        done = min(1.0, (step - n_warmup) / max(1, n_steps - n_warmup))
        return 0.5 * (1.0 + float(np.cos(np.pi * done)))

    return adam, torch.optim.lr_scheduler.LambdaLR(adam, factor)


def train_epoch(
    model: TrainingDMD, batches: Iterable[Batch], adam: Any, schedule: Any, clip_norm: float
) -> dict[str, float]:
    """Descend over `batches`; returns the mean of every loss term, by name, and of the total.

    Raises FloatingPointError when the loss stops being finite.
    """
    model.train()
    sums: dict[str, float] = {}
    n = 0
    device = next(model.parameters()).device
    for batch in batches:
        losses = model({name: tensor.to(device) for name, tensor in batch.items()})
        if not torch.isfinite(losses.total):
            raise FloatingPointError("the loss is no longer finite; lower optim.learning_rate")
        adam.zero_grad(set_to_none=True)
        losses.total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        adam.step()
        schedule.step()
        for name, term in {**losses.terms, "total": losses.total.detach()}.items():
            sums[name] = sums.get(name, 0.0) + float(term)
        n += 1
    return {name: value / n for name, value in sums.items()}


def keep(batch: Batch, modalities: Sequence[str]) -> Batch:
    """The batch with all other modalities masked out."""
    hidden = {f"{m}_mask" for m in MODALITIES if m not in modalities}
    return {n: torch.zeros_like(t) if n in hidden else t for n, t in batch.items()}


@torch.no_grad()
def predict(model: DMD, batches: Iterable[Batch], *, clipped: bool = True) -> Predictions:
    """Outputs of the contract over `batches`, by name, each with first axis n.

    Without `clipped`, sentiments are as they come, which is what the field's MAE is taken on.
    """
    model.eval()
    device = next(model.parameters()).device
    names = ("sentiment", "emotion", "modality_sentiment", "modality_weight")
    collected: list[tuple[Tensor, ...]] = [
        model.predict({name: tensor.to(device) for name, tensor in batch.items()}, clipped=clipped)
        for batch in batches
    ]
    return {
        name: torch.cat([outputs[k] for outputs in collected]).cpu().numpy()
        for k, name in enumerate(names)
    }


def evaluate(
    predictions: Predictions, emotion: NDArray[Any], sentiment: NDArray[Any]
) -> dict[str, float]:
    """Metrics of the labelled samples; labels (n,) with -1 and NaN for unknown."""
    out: dict[str, float] = {}
    known, rated = emotion >= 0, ~np.isnan(sentiment)
    if known.any() and predictions["emotion"].shape[1]:
        out |= emotion_metrics(predictions["emotion"][known], emotion[known])
    if rated.sum() > 1:
        out |= sentiment_metrics(predictions["sentiment"][rated], sentiment[rated])
    return out


def batched(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Consecutive slices of at most `size` items."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
