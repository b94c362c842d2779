"""Each modality by itself, and late fusion of the three: no modality sees another.

A branch is X~ through self-attention, a summary over time and a head. Late fusion is the weighted
mean of the branches' outputs, sum_m a_m y_m with a = softmax of one learned number for each
modality over those present (decision-level fusion; Snoek et al. 2005). The unimodal models, kinds
`text`, `audio` and `vision`, are one branch alone: what the paper's figure 3 compares.
"""

import torch
from torch import Tensor, nn

from runtime.features.spec import MODALITIES

from ...config import ModelConfig
from ..language import LanguageEncoder
from ..layers import Head
from ..parts import summary, transformer
from .base import Comparator, Outcome

__all__ = ["Late"]


class Late(Comparator):
    """One branch for each modality of `config.kind`: all three for `late`."""

    def __init__(
        self, config: ModelConfig, language: LanguageEncoder | None, n_emotions: int
    ) -> None:
        super().__init__(config, language, n_emotions)
        d = config.dim
        self.used = MODALITIES if config.kind == "late" else (config.kind,)
        self.attend = nn.ModuleDict({m: transformer(config, d, m) for m in self.used})
        self.pool = nn.ModuleDict({m: summary(config, d) for m in self.used})
        # The last output is the arousal.
        self.heads = nn.ModuleDict(
            {m: Head(d, self.n_outputs + 1, config.dropout_head) for m in self.used}
        )
        self.trust = nn.Parameter(torch.zeros(3))

    def forward(self, batch: dict[str, Tensor]) -> Outcome:
        """The branches' outputs and their mean."""
        shallow, mask, present = self.shallow(batch)
        said = {}
        for m in self.used:
            rows = self.attend[m](shallow[m], None, mask[m])
            said[m], _, _ = self.heads[m](self.pool[m](rows, mask[m]))
        mine = torch.tensor([m in self.used for m in MODALITIES], device=present.device)
        heard = present & mine
        # Where none of them is present, the tokens of missing modalities speak.
        counted = torch.where(heard.any(dim=1, keepdim=True), heard, mine.expand_as(heard))
        weight = self.trust.expand(len(heard), -1).masked_fill(~counted, -1e9).softmax(dim=1)
        fused = torch.stack(
            [weight[:, k, None] * said[m] for k, m in enumerate(MODALITIES) if m in said]
        ).sum(dim=0)
        return Outcome(
            outputs=fused[:, :-1],
            arousal=fused[:, -1],
            homo_outputs={m: outputs[:, :-1] for m, outputs in said.items()},
            weight=weight * heard,
            present=present,
            parts={},
        )
