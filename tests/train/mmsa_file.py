"""A small file in MMSA's layout, with zero padding and broken values like real ones."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

STEPS = {"aligned": (50, 50, 50), "unaligned": (50, 375, 500)}
DIMS = {"mosi": (5, 20), "mosei": (74, 35)}


def content(
    dataset: str = "mosi", layout: str = "aligned", n: tuple[int, int, int] = (24, 6, 8)
) -> dict[str, dict[str, Any]]:
    rng = np.random.default_rng(0)
    steps, dims = STEPS[layout], (768, *DIMS[dataset])
    if (dataset, layout) == ("mosei", "unaligned"):
        steps = (50, 500, 500)
    out = {}
    for split, size in zip(("train", "valid", "test"), n, strict=True):
        table: dict[str, Any] = {}
        shares = rng.uniform(0.1, 0.9, size)
        for m, t, d in zip(("text", "audio", "vision"), steps, dims, strict=True):
            rows = rng.normal(size=(size, t, d)).astype(np.float32)
            lengths = np.maximum(3, (t * shares).astype(int))
            rows[np.arange(t) >= lengths[:, None]] = 0.0
            table[m] = rows
            if layout == "unaligned" and m != "text":
                table[f"{m}_lengths"] = lengths.tolist()
        n_pieces = np.maximum(3, (50 * shares).astype(int))[:, None]
        mask = (np.arange(50) < n_pieces).astype(np.float32)
        ids = rng.integers(1, 90, (size, 50)) * mask
        table["text_bert"] = np.stack([ids, mask, 0 * mask], axis=1).astype(np.float32)
        table["raw_text"] = np.array([f"words {k}" for k in range(size)])
        table["id"] = [f"{split}$_${k}" for k in range(size)]
        table["regression_labels"] = (rng.integers(-15, 16, size) / 5.0).astype(np.float32)
        table["classification_labels"] = np.zeros(size)
        out[split] = table
    out["train"]["audio"][0, 0, 0] = -np.inf
    out["train"]["vision"][1, 1, 1] = np.nan
    return out


def write(path: Path, tables: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(tables, protocol=protocol))
    return path
