"""The data of a report's pictures, taken while the model and its test split are in memory.

Checkpoints do not hold the GD-units, so `train/report.py` could not ask them later. Arrays of
`analysis.safetensors`, over n test utterances, k emotions, d = `model.dim`:

| Name | Shape | Content |
| --- | --- | --- |
| `probabilities` | (n, k) float32 | calibrated emotion probabilities, all modalities given |
| `emotion` | (n,) int64 | label, -1 for none |
| `sentiment`, `sentiment_predicted` | (n,) float32 | label, NaN for none; prediction in [-3, 3] |
| `present` | (n, 3) bool | which of text, audio, vision the utterance has |
| `homo` | (n, 3, d) float32 | summaries of the homogeneous features, per modality |
| `hetero` | (n, 3, 2 d) float32 | the same of the heterogeneous ones |
| `edges_homo`, `edges_hetero` | (n, 6) float32 | strengths in the order `gd_unit.EDGES` |
| `prior_homo`, `prior_hetero` | (6,) float32 | towards which training pulls their mean |
| `attention/K/A_to_B` | (T_B, T_A) float32 | shown utterance K: rows of B attend to rows of A |

Attention is the last layer's, mean over heads; a pair with an absent modality is left out, and so
are the edges of a GD-unit that is off. The metadata `shown` lists index, id and word pieces.
"""

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor, nn

from runtime.errors import BundleError
from runtime.features.spec import MODALITIES
from runtime.judging.calibration import Calibration

from . import parallel
from .data.utterance import Utterance, collate
from .loop import batched, likely
from .losses import TrainingDMD
from .models.dmd import Features

__all__ = [
    "FILE",
    "SPACES",
    "Analysis",
    "Shown",
    "attention_weights",
    "collect",
    "keep",
    "load",
    "save",
]

FILE = "analysis.safetensors"
SPACES = ("homo", "hetero")
_AXES = {
    "probabilities": "nk",
    "emotion": "n",
    "sentiment": "n",
    "sentiment_predicted": "n",
    "present": "n3",
    "homo": "n3d",
    "hetero": "n3D",
}
_AXES_OF_GD_UNITS = {f"{name}_{s}": axes for s in SPACES for name, axes in
                     (("edges", "n6"), ("prior", "6"))}  # fmt: skip
_N_ANALYSED = 1_500  # utterances that the pictures of train.report show
_N_SHOWN = 2  # utterances of each class whose attention is kept


@dataclass(frozen=True)
class Shown:
    """An utterance whose attention is kept: `index` into the arrays; no `pieces` for vectors."""

    index: int
    id: str
    pieces: tuple[str, ...]


@dataclass(frozen=True)
class Analysis:
    """`arrays` by the names above; attention K is that of `shown[K]`."""

    arrays: dict[str, NDArray[Any]]
    shown: tuple[Shown, ...]


@torch.no_grad()
def collect(
    model: TrainingDMD,
    utterances: Sequence[Utterance],
    tokenizer_json: Path | None = None,
    calibration: Calibration | None = None,
) -> Analysis:
    """Run the model over the utterances (at least one); leaves it in evaluation mode.

    `tokenizer_json` gives word pieces their names.
    """
    model.eval()
    parts = [_outputs(model, collate(part)) for part in batched(utterances, 64)]
    tensors = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    logits, present = tensors.pop("logits").cpu().numpy(), tensors["present"].cpu().numpy()
    found = likely({"emotion": logits, "present": present}, calibration)["emotion"]
    tensors["probabilities"] = torch.from_numpy(found.astype(np.float32))
    for space in SPACES:
        if f"edges_{space}" in tensors:
            tensors[f"prior_{space}"] = getattr(model, f"{space}_gd").prior
    chosen = _choose(utterances)
    for k, index in enumerate(chosen):
        for pair, weights in _attention(model, utterances[index]).items():
            tensors[f"attention/{k}/{pair}"] = weights
    shown = tuple(
        Shown(i, utterances[i].id or f"utterance-{i}", _pieces(utterances[i], tokenizer_json))
        for i in chosen
    )
    return Analysis({name: t.cpu().numpy() for name, t in tensors.items()}, shown)


def keep(
    folder: Path,
    model: TrainingDMD,
    utterances: Iterable[Utterance],
    tokenizer_json: Path | None,
    calibration: Calibration | None,
) -> None:
    """`collect` over utterances from the first to the last, by this process alone, and `save`."""
    with parallel.alone():
        n = sum(1 for _ in utterances)
        chosen = {*np.linspace(0, n - 1, min(n, _N_ANALYSED)).astype(int).tolist()}
        some = [utterance for k, utterance in enumerate(utterances) if k in chosen]
        save(folder, collect(model, some, tokenizer_json, calibration))


def save(folder: Path, analysis: Analysis) -> None:
    """Write `analysis.safetensors` under a temporary name, then rename."""
    partial = folder / f"{FILE}.partial"
    arrays = {name: np.ascontiguousarray(a) for name, a in analysis.arrays.items()}
    shown = json.dumps([asdict(utterance) for utterance in analysis.shown])
    save_file(arrays, partial, metadata={"shown": shown})
    os.replace(partial, folder / FILE)


def load(folder: Path) -> Analysis:
    """Read what `save` wrote. Raises BundleError, in one line, for a missing or damaged file."""
    path = folder / FILE
    if not path.exists():
        raise BundleError(
            f"{folder}: no {FILE} (made by an older version?); train again with --restart"
        )
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            listed = json.loads((file.metadata() or {})["shown"])
        shown = tuple(Shown(int(s["index"]), str(s["id"]), tuple(s["pieces"])) for s in listed)
        _check(arrays, shown)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise BundleError(f"{path}: damaged ({reason}); train again with --restart") from error
    return Analysis(arrays, shown)


def attention_weights(
    layer: Any, rows: Tensor, source: Tensor, allowed: Tensor
) -> Tensor:  # (B, heads, Tq, Tk)
    """The weights inside a transformer layer for the inputs of its `forward`.

    `rows` (B, Tq, dim) attend to `source` (B, Tk, dim); `allowed` (B, 1, 1 or Tq, Tk).
    """
    query = layer.query(layer.norm_attention(rows))
    key, _ = layer.key_value(layer.norm_attention(source)).chunk(2, dim=-1)
    q, k = (x.unflatten(-1, (layer.n_heads, -1)).transpose(1, 2) for x in (query, key))
    scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])
    return scores.masked_fill(~allowed, -1e9).softmax(dim=-1)


def _outputs(model: TrainingDMD, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """One pass over a batch: all that is kept of every utterance, first axis B."""
    units = {space: getattr(model, f"{space}_gd") for space in SPACES}
    with _watched({"dmd": model.dmd, **units}) as calls:
        model(_on_device(model, batch))
    features: Features = calls["dmd"][1]
    out = {
        "logits": features.outputs[:, 1:],
        "sentiment_predicted": features.outputs[:, 0].clamp(-3.0, 3.0),
        "present": features.present,
        "emotion": batch["emotion"],
        "sentiment": batch["sentiment"],
        "homo": torch.stack([features.homo[m] for m in MODALITIES], dim=1),
        "hetero": torch.stack([features.hetero[m] for m in MODALITIES], dim=1),
    }
    return out | {f"edges_{s}": calls[s][1].edges for s in SPACES if s in calls}


def _attention(model: TrainingDMD, utterance: Utterance) -> dict[str, Tensor]:
    """By pair such as text_to_audio: (T_audio, T_text), last layer, mean over heads."""
    crossmodal: Any = model.dmd.crossmodal
    last = {pair: transformer.layers[-1] for pair, transformer in crossmodal.items()}
    with _watched(last) as calls:  # alone, hence without padding
        model.dmd(_on_device(model, collate([utterance])))
    return {
        pair: attention_weights(last[pair], *calls[pair][0])[0].mean(dim=0)
        for pair in last
        if all(len(getattr(utterance, m)) for m in pair.split("_to_"))
    }


@contextmanager
def _watched(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, tuple[Any, Any]]]:
    """Inside, the yielded dictionary gets each module's latest (arguments, result) by name."""
    calls: dict[str, tuple[Any, Any]] = {}

    def watch(name: str, module: nn.Module) -> Any:
        def remember(_: nn.Module, args: Any, result: Any) -> None:
            calls[name] = (args, result)

        return module.register_forward_hook(remember)

    handles = [watch(name, module) for name, module in modules.items()]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _on_device(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    device = next(model.parameters()).device
    return {name: tensor.to(device) for name, tensor in batch.items()}


def _choose(utterances: Sequence[Utterance]) -> list[int]:
    """The first of each class, those with all modalities before others; by index."""
    classes: dict[object, list[tuple[int, int]]] = {}
    for index, u in enumerate(utterances):
        rated = None if math.isnan(u.sentiment) else round(u.sentiment)
        n_absent = sum(len(getattr(u, m)) == 0 for m in MODALITIES)
        key = u.emotion if u.emotion >= 0 else f"sentiment {rated}"
        classes.setdefault(key, []).append((n_absent, index))
    return sorted(index for found in classes.values() for _, index in sorted(found)[:_N_SHOWN])


def _pieces(utterance: Utterance, tokenizer_json: Path | None) -> tuple[str, ...]:
    if tokenizer_json is None or utterance.text.ndim != 1:
        return ()
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_json))
    return tuple(tokenizer.id_to_token(int(i)) or "?" for i in utterance.text)


def _check(arrays: dict[str, NDArray[Any]], shown: tuple[Shown, ...]) -> None:
    """Raises ValueError or KeyError where the arrays do not fit the table above."""
    sizes: dict[str, int] = {"3": 3, "6": 6}
    there = {name: axes for name, axes in _AXES_OF_GD_UNITS.items() if name in arrays}
    for name, axes in {**_AXES, **there}.items():
        shape = arrays[name].shape
        if len(shape) != len(axes) or any(
            sizes.setdefault(axis, size) != size for axis, size in zip(axes, shape, strict=True)
        ):
            raise ValueError(f"{name} has shape {shape}")
    for name, array in arrays.items():
        if name != "sentiment" and not np.isfinite(array).all():
            raise ValueError(f"{name} holds NaN or infinite values")
        if name.startswith("attention/") and array.ndim != 2:
            raise ValueError(f"{name} has shape {array.shape}")
    labels = arrays["emotion"]
    if not sizes["n"] or labels.min() < -1 or labels.max() >= max(sizes["k"], 0):
        raise ValueError("labels out of range")
    if not all(0 <= utterance.index < sizes["n"] for utterance in shown):
        raise ValueError("shown utterances out of range")
