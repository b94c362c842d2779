"""PMR: progressive modality reinforcement (Lv, Chen, Huang, Duan, Lin; CVPR 2021).

A message hub holds what is common, Z_C; at the start all rows of all modalities. In each layer

| Step | Equation |
| --- | --- |
| reinforce a modality | Z_m := MRU(Z_m, Z_C) |
| reinforce the hub by it | Z_C,m := MRU(Z_C, Z_m) |
| update the hub | Z_C := Z' + PFF(LN(Z')), Z' = sum_m a_m Z_C,m, a = softmax over m of v' tanh(W Z_C,m + b) |

and the unit MRU(Z, S) is, with LN the same for all it reads,

| Step | Equation |
| --- | --- |
| cross attention | CA = Z + Att_c(LN(Z), LN(S)) |
| self attention | SA = Z + Att_s(LN(Z), LN(Z)) |
| gate | G = sigmoid(W_s SA + W_c CA + b) |
| filter | F = G * SA + (1 - G) * CA |
| feed-forward | MRU = F + PFF(LN(F)) |

At the end hub and modalities are concatenated over time and go through a transformer, whose summary
gives the prediction. The authors have published no code. The unit is checked against the
re-implementation github.com/SZU-AdvTech-2022/332-Progressive-Modality-Reinforcement-..., which has
one unit for all modalities and layers, one attention for CA and SA, and makes the hub's weights W
and v anew, at random, in every call; here every layer and direction has a unit of its own, as in
the paper's figure, and W and v are learned. The weights a are for each row of the hub.
"""  # noqa: E501

import math

import torch
from torch import Tensor, nn

from runtime.features.spec import MODALITIES

from ...config import ModelConfig
from ..language import LanguageEncoder
from ..layers import Dropout, Head
from ..parts import summary, transformer
from .base import Comparator, Outcome, equal_weight

__all__ = ["PMR", "Reinforcement"]


class PMR(Comparator):
    """`config.n_layers` layers of reinforcement between the modalities and the hub."""

    def __init__(
        self, config: ModelConfig, language: LanguageEncoder | None, n_emotions: int
    ) -> None:
        super().__init__(config, language, n_emotions)
        d = config.dim
        self.layers = nn.ModuleList(_Layer(d, config) for _ in range(config.n_layers))
        self.join = transformer(config, d, "text")
        self.pool: nn.Module = summary(config, d)
        self.head = Head(d, self.n_outputs + 1, config.dropout_head)  # the last: arousal

    def forward(self, batch: dict[str, Tensor]) -> Outcome:
        """Reinforce, join, summarise and predict."""
        shallow, mask, present = self.shallow(batch)
        own = {m: self.join.place(shallow[m]) for m in MODALITIES}
        hub = torch.cat([own[m] for m in MODALITIES], dim=1)
        hub_mask = torch.cat([mask[m] for m in MODALITIES], dim=1)
        for layer in self.layers:
            own, hub = layer(own, hub, mask, hub_mask)
        rows = torch.cat([hub, *(own[m] for m in MODALITIES)], dim=1)
        all_mask = torch.cat([hub_mask, hub_mask], dim=1)
        # Rows have their positions: those of the concatenation would change with padding.
        allowed = all_mask[:, None, None, :]
        for layer in self.join.layers:
            rows = layer(rows, None, allowed)
        said, _, _ = self.head(self.pool(self.join.norm(rows), all_mask))
        return Outcome(
            outputs=said[:, :-1],
            arousal=said[:, -1],
            homo_outputs={},
            weight=equal_weight(present),
            present=present,
            parts={},
        )


class _Layer(nn.Module):
    """One round: each modality learns from the hub, then the hub from each of them."""

    def __init__(self, d: int, config: ModelConfig) -> None:
        super().__init__()
        options = (config.n_heads, config.dropout, config.causal)
        self.to_modality = nn.ModuleDict({m: Reinforcement(d, *options) for m in MODALITIES})
        self.to_hub = nn.ModuleDict({m: Reinforcement(d, *options) for m in MODALITIES})
        self.project = nn.Linear(d, d)
        self.score = nn.Linear(d, 1, bias=False)
        self.norm = nn.LayerNorm(d)
        self.feed_forward = _feed_forward(d, config.dropout)

    def forward(
        self, own: dict[str, Tensor], hub: Tensor, mask: dict[str, Tensor], hub_mask: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Rows of the modalities and of the hub, (B, T, d) each, and their masks (B, T)."""
        own = {m: self.to_modality[m](own[m], hub, mask[m], hub_mask) for m in MODALITIES}
        told = torch.stack(
            [self.to_hub[m](hub, own[m], hub_mask, mask[m]) for m in MODALITIES], dim=2
        )  # (B, T, 3, d)
        share = self.score(self.project(told).tanh()).softmax(dim=2)
        hub = (share * told).sum(dim=2)
        return own, hub + self.feed_forward(self.norm(hub))


class Reinforcement(nn.Module):
    """The unit MRU: rows reinforced by a source and by themselves, through a gate."""

    def __init__(self, d: int, n_heads: int, dropout: float, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.cross, self.own = _Attention(d, n_heads), _Attention(d, n_heads)
        self.gate_cross, self.gate_own = nn.Linear(d, d), nn.Linear(d, d, bias=False)
        self.norm_attention, self.norm_feed_forward = nn.LayerNorm(d), nn.LayerNorm(d)
        self.feed_forward = _feed_forward(d, dropout)
        self.dropout = Dropout(dropout)

    def forward(self, rows: Tensor, source: Tensor, mask: Tensor, source_mask: Tensor) -> Tensor:
        """(B, T, d), (B, S, d), (B, T) and (B, S) bool -> (B, T, d)."""
        query, key = self.norm_attention(rows), self.norm_attention(source)
        crossed = rows + self.dropout(
            self.cross(query, key, self._allowed(rows, source, source_mask))
        )
        attended = rows + self.dropout(self.own(query, query, self._allowed(rows, rows, mask)))
        gate = (self.gate_cross(crossed) + self.gate_own(attended)).sigmoid()
        mixed = attended * gate + crossed * (1.0 - gate)
        return mixed + self.dropout(self.feed_forward(self.norm_feed_forward(mixed)))

    def _allowed(self, rows: Tensor, source: Tensor, mask: Tensor) -> Tensor:
        """(B, 1, 1 or T, S) bool: which rows of the source a row may attend to."""
        allowed = mask[:, None, None, :]
        if not self.causal:
            return allowed
        n, k = rows.shape[1], source.shape[1]
        ahead = torch.arange(k, device=rows.device) - torch.arange(n, device=rows.device)[:, None]
        return allowed & (ahead <= abs(n - k))


class _Attention(nn.Module):
    def __init__(self, d: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query, self.key_value, self.out = nn.Linear(d, d), nn.Linear(d, 2 * d), nn.Linear(d, d)

    def forward(self, rows: Tensor, source: Tensor, allowed: Tensor) -> Tensor:
        key, value = self.key_value(source).chunk(2, dim=-1)
        q, k, v = (
            x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            for x in (self.query(rows), key, value)
        )
        scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(2, 3)
        weights = scores.masked_fill(~allowed, -1e9).softmax(dim=-1)
        mixed: Tensor = self.out((weights @ v).transpose(1, 2).flatten(2))
        return mixed


def _feed_forward(d: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(d, 4 * d), nn.ReLU(), Dropout(dropout), nn.Linear(4 * d, d))
