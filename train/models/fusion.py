"""From the summaries of three modalities to one vector and a weight for each modality."""

import torch
from torch import Tensor, nn

from runtime.features.spec import MODALITIES

from .layers import Dropout

__all__ = ["SigmoidGate", "SoftmaxGate"]

Summaries = dict[str, Tensor]


class SoftmaxGate(nn.Module):
    """Weighs the present modalities against one another, then a residual MLP. `dim`: 3 d."""

    def __init__(self, d: int, dropout: float) -> None:
        super().__init__()
        self.dim = 3 * d
        self.gate = nn.ModuleDict({m: nn.Linear(3 * d, 1) for m in MODALITIES})
        self.fuse = nn.Sequential(nn.Linear(9 * d, 3 * d), nn.ReLU(), Dropout(dropout))
        self.skip = nn.Linear(9 * d, 3 * d)

    def forward(self, hetero: Summaries, homo: Summaries, present: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 2 d) and (B, d) by modality, `present` (B, 3) bool -> (B, 3 d), weights (B, 3)."""
        summary = {m: torch.cat([hetero[m], homo[m]], dim=-1) for m in MODALITIES}  # (B, 3 d)
        scores = torch.cat([self.gate[m](summary[m]) for m in MODALITIES], dim=1)
        # An utterance with nothing at all still needs a finite answer: all weights are then 0.
        weight = scores.masked_fill(~present, -1e9).softmax(dim=1) * present
        gated = torch.cat(
            [3.0 * weight[:, k : k + 1] * summary[m] for k, m in enumerate(MODALITIES)], dim=-1
        )
        return self.fuse(gated) + self.skip(gated), weight


class SigmoidGate(nn.Module):
    """The published code's fusion: the gates themselves, not the gated features. `dim`: 9 d.

    It has no weight per modality; the one reported is the mean gate of the modality's
    heterogeneous features, normalised over the present ones.
    """

    def __init__(self, d: int) -> None:
        super().__init__()
        self.dim = 9 * d
        self.hetero = nn.ModuleDict({m: nn.Linear(2 * d, 2 * d) for m in MODALITIES})
        self.homo = nn.Linear(3 * d, 3 * d)

    def forward(self, hetero: Summaries, homo: Summaries, present: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 2 d) and (B, d) by modality, `present` (B, 3) bool -> (B, 9 d), weights (B, 3)."""
        gates = [self.hetero[m](hetero[m]).sigmoid() for m in MODALITIES]
        common = self.homo(torch.cat([homo[m] for m in MODALITIES], dim=-1)).sigmoid()
        open_ = torch.stack([gate.mean(dim=-1) for gate in gates], dim=1) * present
        weight = open_ / open_.sum(dim=1, keepdim=True).clamp(min=1e-9)
        return torch.cat([*gates, common], dim=-1), weight
