"""Cross-modal dictionary matching, the finer distillation of DHMD (Li et al. 2026; arXiv 2602.04260).

DHMD is the DMD with one dictionary in each space, whose atoms d_k all modalities share. With rows x_t
of modality m, either C or what the crossmodal transformers make of P:

| Step | Equation |
| --- | --- |
| query | q_t = W_2 LN(GELU(W_1 LN(x_t))), each modality with its own |
| relevance of an atom | r_k = max_t <q_t, d_k> / sqrt(dim) |
| activation | w = sparsemax(r) |
| feature | z_m = sum_k w_k d_k |
| matching | cross-entropy of softmax(s cos(z_a, z_b)) over the batch, both ways, for each pair a, b |

Only DHMD's abstract was at hand. The dictionary is FDT's (Chen et al., CVPR 2023, section 3;
github.com/yuxiaochen1103/FDT), on which public drafts of DHMD's code build. Ours: utterances of one
label match each other, one without a label matches itself alone; the dictionaries serve training
alone, so that DHMD costs a device what the DMD does.
"""  # noqa: E501

import math
from collections.abc import Mapping
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from runtime.features.spec import MODALITIES

from .dmd import Features

__all__ = ["Dictionary", "Matching", "matching", "sparsemax"]

_SCALE, _LARGEST = 1.0 / 0.07, 100.0  # s at the start, and at most: CLIP's, which FDT takes


class Dictionary(nn.Module):
    """`n_atoms` vectors of width `dim`, shared by all modalities, and their queries."""

    def __init__(self, n_atoms: int, dim: int) -> None:
        super().__init__()
        self.atoms = nn.Parameter(torch.randn(n_atoms, dim))
        self.query = nn.ModuleDict(
            {
                m: nn.Sequential(
                    nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU(),
                    nn.LayerNorm(dim), nn.Linear(dim, dim),
                )
                for m in MODALITIES
            }
        )  # fmt: skip
        self.log_scale = nn.Parameter(torch.tensor(math.log(_SCALE)))

    @property
    def scale(self) -> Tensor:
        """s of the matching."""
        return self.log_scale.exp().clamp(max=_LARGEST)

    def activation(self, m: str, rows: Tensor, mask: Tensor) -> Tensor:
        """(B, n_atoms): how much of each atom is in rows (B, T, dim) of `m` where `mask` (B, T)."""
        relevance = self.query[m](rows) @ self.atoms.T / math.sqrt(rows.shape[-1])
        strongest = relevance.masked_fill(~mask[..., None], -torch.inf).amax(dim=1)
        here = mask.any(dim=1, keepdim=True)
        return sparsemax(torch.where(here, strongest, 0.0))

    def forward(self, rows: Mapping[str, Tensor], mask: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """(B, dim) of each modality, made of the atoms."""
        return {m: self.activation(m, rows[m], mask[m]) @ self.atoms for m in MODALITIES}


class Matching(nn.Module):
    """A dictionary of `n_atoms` in each space of a DMD of width `dim`."""

    def __init__(self, n_atoms: int, dim: int) -> None:
        super().__init__()
        self.homo, self.hetero = Dictionary(n_atoms, dim), Dictionary(n_atoms, 2 * dim)

    def forward(self, features: Features, here: Tensor, label: Tensor) -> dict[str, Tensor]:
        """The loss terms; `here` and `label` as of `matching`."""
        terms = {}
        for space, dictionary, rows in (
            ("homo", self.homo, features.common),
            ("hetero", self.hetero, features.reinforced),
        ):
            mask = {m: features.mask[m][:, -rows[m].shape[1] :] for m in MODALITIES}
            found = dictionary(rows, mask)
            terms[f"dictionary_{space}"] = matching(found, here, label, dictionary.scale)
        return terms


def matching(found: Mapping[str, Tensor], here: Tensor, label: Tensor, scale: Tensor) -> Tensor:
    """The cross-entropies of all pairs of modalities, summed.

    `found` (B, dim) of each; `here` (B, 3) bool: what takes part; `label` (B,), NaN for unknown.
    """
    total = scale.new_zeros(())
    for (i, a), (j, b) in combinations(enumerate(MODALITIES), 2):
        on = here[:, i] & here[:, j]
        if int(on.sum()) < 2:  # nothing to tell apart
            continue
        told = label[on]
        one, other = (F.normalize(found[m][on], dim=1) for m in (a, b))
        same = (told[:, None] == told).float().fill_diagonal_(1.0)
        target = same / same.sum(dim=1, keepdim=True)
        alike = scale * one @ other.T
        total = total + (F.cross_entropy(alike, target) + F.cross_entropy(alike.T, target)) / 2
    return total


def sparsemax(scores: Tensor) -> Tensor:
    """(..., n) -> the nearest probabilities, many of them 0 (Martins, Astudillo 2016, alg. 1)."""
    ordered, _ = scores.sort(dim=-1, descending=True)
    rank = torch.arange(1, scores.shape[-1] + 1, device=scores.device, dtype=scores.dtype)
    above = ordered.cumsum(dim=-1) - 1.0
    n_kept = (rank * ordered > above).sum(dim=-1, keepdim=True)
    threshold = above.gather(-1, n_kept - 1) / n_kept
    return (scores - threshold).clamp(min=0.0)
