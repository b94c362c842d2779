"""One epoch of training, and evaluation of every subset of modalities."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from runtime.features.spec import MODALITIES
from runtime.judging.calibration import BALANCED, Calibration

from .config import OptimConfig
from .data.corpora import EMOTIONS, NEUTRAL
from .data.features import SCALE
from .losses import Losses
from .metrics import emotion_metrics, sentiment_metrics, sims_metrics
from .models.inputs import Inputs

__all__ = [
    "SUBSETS",
    "Batch",
    "Predictions",
    "batched",
    "evaluate",
    "here",
    "hide",
    "keep",
    "likely",
    "optimiser",
    "predict",
    "train_epoch",
]

Batch = dict[str, Tensor]
Predictions = dict[str, NDArray[Any]]

# All seven non-empty subsets: the full one first, then pairs, then single modalities.
SUBSETS: tuple[tuple[str, ...], ...] = tuple(
    subset for n in (3, 2, 1) for subset in combinations(MODALITIES, n)
)


def optimiser(model: Any, config: OptimConfig, n_steps: int) -> tuple[Any, Any]:
    """AdamW with a lower rate for the pretrained language encoder, and its schedule.

    `model` is a TrainingDMD or a TrainingOther.
    """
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
    model: nn.Module,
    batches: Iterable[tuple[Batch, Tensor | None]],
    adam: Any,
    schedule: Any,
    config: OptimConfig,
) -> dict[str, float]:
    """Descend over `batches`: (batch, what the teacher says of it or None) pairs.

    `config.accumulate` batches make one step. Returns the mean of every loss term, by name, and of
    the total. Raises FloatingPointError when the loss stops being finite.
    """
    model.train()
    sums: dict[str, float] = {}
    n = 0
    device = next(model.parameters()).device
    for batch, taught in batches:
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            losses: Losses = model(batch, None if taught is None else taught.to(device))
        if not torch.isfinite(losses.total):
            raise FloatingPointError("the loss is no longer finite; lower optim.learning_rate")
        (losses.total / config.accumulate).backward()
        n += 1
        if n % config.accumulate == 0:
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
            adam.step()
            adam.zero_grad(set_to_none=True)
            schedule.step()
        for name, term in {**losses.terms, "total": losses.total.detach()}.items():
            sums[name] = sums.get(name, 0.0) + float(term)
    adam.zero_grad(set_to_none=True)  # of an incomplete last step
    return {name: value / n for name, value in sums.items()}


def hide(batch: Batch, rate: float, rng: np.random.Generator) -> Batch:
    """Modality dropout: with probability `rate`, a sample that has all three modalities keeps a
    random non-empty proper subset of them. Its label is then what is left of it (`_left`)."""
    out = dict(batch)
    masks = [batch[f"{m}_mask"] for m in MODALITIES]
    complete = torch.stack([mask.any(dim=1) for mask in masks], dim=1).all(dim=1).numpy()
    chosen = (rng.random(len(complete)) < rate) & complete
    kept = np.where(chosen, rng.integers(1, 7, len(complete)), 7)  # bits of the subset
    for k, (m, mask) in enumerate(zip(MODALITIES, masks, strict=True)):
        out[f"{m}_whole"] = mask  # for a teacher that misses nothing
        out[f"{m}_mask"] = mask & torch.from_numpy(kept >> k & 1 > 0)[:, None]
    if "shown" in batch:
        visible = torch.from_numpy(kept[:, None] >> np.arange(3) & 1 > 0)
        out["emotion"] = _left(batch["emotion"], batch["shown"], visible)
        # Weak labels, made of the emotion: none where that has changed.
        changed = out["emotion"] != batch["emotion"]
        for name in ("sentiment", "arousal"):
            if name in batch:
                out[name] = batch[name].masked_fill(changed, float("nan"))
    return out


def _left(emotion: Tensor, shown: Tensor, visible: Tensor) -> Tensor:
    """(B,) labels of what can be told from the `visible` (B, 3) modalities, which show `shown`
    (B, 3): what all of them show, or all that are not neutral; else `emotion`, that of the whole.
    What shows nothing that can be told (-1) does not count, and alone it has no label.
    """
    known = visible & (shown >= 0)
    telling = known & (shown != NEUTRAL)
    for wider in (known, visible):
        telling = torch.where(telling.any(dim=1, keepdim=True), telling, wider)
    low = shown.masked_fill(~telling, len(EMOTIONS)).amin(dim=1)
    high = shown.masked_fill(~telling, -1).amax(dim=1)
    return torch.where(low == high, low, emotion)


def keep(batch: Batch, modalities: Sequence[str], *, cut: bool = False) -> Batch:
    """The batch with all other modalities masked out.

    With `cut`, one row is left of them, which takes less time to pass over. Only for models that
    mask padding: to the others, lengths are given.
    """
    out = dict(batch)
    for m in MODALITIES:
        if m not in modalities:
            rows, mask = "input_ids" if m == "text" and "input_ids" in batch else m, f"{m}_mask"
            out[mask] = torch.zeros_like(batch[mask])
            if cut:
                out[rows], out[mask] = out[rows][:, :1], out[mask][:, :1]
    return out


@torch.no_grad()
def predict(
    model: Inputs,
    batches: Iterable[Batch],
    *,
    clipped: bool = True,
    precision: str = "fp32",
    calibration: Calibration | None = None,
) -> Predictions:
    """Outputs of the contract over `batches`, by name, each with first axis n, and the labels:
    `emotion_label` (n,) with -1, `sentiment_label` and `arousal_label` (n,) and `own_label` (n, 3),
    the sentiment of each modality, with NaN for unknown.

    `emotion` are probabilities under the balanced prior, by `calibration` where there is one;
    `logits` what they are made of.

    Without `clipped`, sentiments are as they come, which is what the field's MAE is taken on.
    """
    model.eval()
    device = next(model.parameters()).device
    names = ("sentiment", "emotion", "arousal", "modality_sentiment", "modality_weight")
    collected: list[tuple[Tensor, ...]] = []
    for batch in batches:
        moved = {name: tensor.to(device) for name, tensor in batch.items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            outputs = model.predict(moved, clipped=clipped)
        labels = (batch[name] for name in ("emotion", "sentiment", "arousal"))
        unrated = torch.full((len(batch["emotion"]), len(MODALITIES)), float("nan"))
        own = batch.get("own_sentiment", unrated)
        collected.append((*outputs, *labels, own, here(batch)))
    labelled = ("emotion_label", "sentiment_label", "arousal_label", "own_label", "present")
    found = {
        name: _numpy(torch.cat([outputs[k] for outputs in collected]))
        for k, name in enumerate((*names, *labelled))
    }
    return likely(found, calibration)


def here(batch: Batch) -> Tensor:
    """(B, 3) bool: which modalities an utterance has."""
    return torch.stack([batch[f"{m}_mask"].any(dim=1) for m in MODALITIES], dim=1)


def likely(found: Predictions, calibration: Calibration | None) -> Predictions:
    """Outputs with probabilities as `emotion`, under the balanced prior, and `logits`."""
    logits = found["emotion"]
    if not logits.shape[1]:
        return found | {"logits": logits}
    used = calibration or Calibration(emotions=EMOTIONS[: logits.shape[1]])
    return found | {
        "emotion": used.probabilities(logits, found["present"], BALANCED),
        "logits": logits,
    }


def _numpy(tensor: Tensor) -> NDArray[Any]:
    return (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy()


def evaluate(
    predictions: Predictions,
    emotion: NDArray[Any],
    sentiment: NDArray[Any],
    scale: float = SCALE,
) -> dict[str, float]:
    """Metrics of the labelled samples; labels (n,) with -1 and NaN for unknown.

    `scale`: the largest sentiment in the data set's own unit; CH-SIMS, of scale 1, has metrics of
    its own.
    """
    out: dict[str, float] = {}
    known, rated = emotion >= 0, ~np.isnan(sentiment)
    if known.any() and predictions["emotion"].shape[1]:
        out |= emotion_metrics(predictions["emotion"][known], emotion[known])
    if rated.sum() > 1:
        said, truth = predictions["sentiment"][rated], sentiment[rated]
        if scale == SCALE:
            out |= sentiment_metrics(said, truth)
        else:  # rounded, so that a rating on the bound of a class stays there
            out |= sims_metrics(*(np.round(v * (scale / SCALE), 6) for v in (said, truth)))
    return out


def batched(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Consecutive lists of at most `size` items."""
    iterator = iter(items)
    while part := list(islice(iterator, size)):
        yield part
