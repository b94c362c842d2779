"""Weights and inputs that are the same wherever they are made, in the published code's layout."""

import hashlib

import torch
from torch import Tensor

# Steps of text, audio and vision (the published configuration has text, vision, audio).
LENGTHS = {
    ("mosi", "aligned"): (50, 50, 50),
    ("mosi", "unaligned"): (50, 375, 500),
    ("mosei", "aligned"): (50, 50, 50),
    ("mosei", "unaligned"): (50, 500, 500),
}
DIMS = {"mosi": (768, 5, 20), "mosei": (768, 74, 35)}
# Of what the models to compare with are checked on.
WIDTHS = {"text": 768, "audio": 6, "vision": 5}


def weights(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """Random tensors that follow from their names."""
    return {name: _random(name, shape) for name, shape in shapes.items()}


def inputs(dataset: str, layout: str) -> dict[str, Tensor]:
    """Three utterances of different lengths with zero padding, as in the data files."""
    batch = {}
    sizes = zip(LENGTHS[dataset, layout], DIMS[dataset], strict=True)
    for m, (n, dim) in zip(("text", "audio", "vision"), sizes, strict=True):
        batch[m] = 10.0 * _random(m, [3, n, dim])
        for k in range(3):
            batch[m][k, n * (k + 1) // 4 :] = 0.0
    return batch


def utterances() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Four utterances of 9, 7, 7 and 4 steps: rows (4, 9, width) by modality, and the masks; and
    rows of 16 columns, `hub` (4, 11, 16) and `other` (4, 7, 16)."""
    here = torch.arange(9) < torch.tensor([9, 7, 7, 4])[:, None]
    rows = {m: 10.0 * _random(f"rows {m}", [4, 9, n]) for m, n in WIDTHS.items()}
    rows = {m: values * here[..., None] for m, values in rows.items()}
    rows["hub"] = 10.0 * _random("hub", [4, 11, 16])
    rows["other"] = 10.0 * _random("other", [4, 7, 16])
    return rows, dict.fromkeys(WIDTHS, here)


def _random(name: str, shape: list[int]) -> Tensor:
    seed = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return 1.0 + 0.1 * values if "layer_norm" in name and "weight" in name else 0.1 * values
