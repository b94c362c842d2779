"""The model's transformer: masked, pre-norm, over one modality or from one to another."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import Dropout

__all__ = ["Transformer", "TransformerConfig"]

# Positions for the longest sequence: an utterance has 375 audio rows, MOSI and MOSEI up to 500.
_MAX_ROWS = 512


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Shape and habits of one transformer. `dropout`: residual and feed-forward branches.

    `causal`: a row attends to no later row (with the offset |Tq - Tk| between sequences).
    `published_positions`: those of the published code, which start at 1, put all sines before all
    cosines, and give none to a row whose first channel is 0 (padding, in its data).
    """

    n_heads: int
    n_layers: int
    dropout: float
    dropout_embed: float
    dropout_attention: float
    causal: bool
    published_positions: bool


class Transformer(nn.Module):
    """Pre-norm transformer as in MulT: attends to itself, or from `query` rows to `source` rows."""

    positions: Tensor

    def __init__(self, dim: int, config: TransformerConfig) -> None:
        super().__init__()
        self.scale = math.sqrt(dim)
        self.dropout = Dropout(config.dropout_embed)
        self.causal, self.published_positions = config.causal, config.published_positions
        self.layers = nn.ModuleList(_Layer(dim, config) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(dim)
        table = _published_sinusoids if config.published_positions else _sinusoids
        self.register_buffer("positions", table(_MAX_ROWS, dim), persistent=False)

    def forward(
        self, query: Tensor, source: Tensor | None, mask: Tensor, *, last: bool = False
    ) -> Tensor:
        """(B, Tq, dim), (B, Tk, dim) or None for self-attention, (B, Tk) bool -> (B, Tq, dim).

        `mask` belongs to the rows attended to; each sample must have at least one. With `last`,
        for summaries that read the last row only, no other is computed in the last layer: (B, 1,
        dim).
        """
        query = self.place(query)
        source = None if source is None else self.place(source)
        allowed = mask[:, None, None, :]  # (B, 1, 1, Tk)
        if self.causal:
            allowed = allowed & _not_later(query.shape[1], mask.shape[1], mask.device)
        for layer in self.layers[:-1]:
            query = layer(query, source, allowed)
        return self.norm(self.layers[-1](query, source, allowed, last=last))

    def place(self, rows: Tensor) -> Tensor:
        """(B, T, dim) rows scaled, with their positions."""
        positions = self.positions[: rows.shape[1]]
        if self.published_positions:
            positions = positions * (rows[..., :1] != 0)
        return self.dropout(self.scale * rows + positions)


class _Layer(nn.Module):
    def __init__(self, dim: int, config: TransformerConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.norm_attention = nn.LayerNorm(dim)
        self.norm_feed_forward = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)
        self.feed_forward = nn.Sequential(
            nn.Linear(dim, 4 * dim), nn.ReLU(), Dropout(config.dropout), nn.Linear(4 * dim, dim)
        )
        self.dropout = Dropout(config.dropout)
        self.dropout_attention = Dropout(config.dropout_attention)

    def forward(
        self, rows: Tensor, source: Tensor | None, allowed: Tensor, *, last: bool = False
    ) -> Tensor:
        query = self.norm_attention(rows)
        source = query if source is None else self.norm_attention(source)
        if last:
            rows, query, allowed = rows[:, -1:], query[:, -1:], allowed[:, :, -1:]
        rows = rows + self.dropout(self._attend(query, source, allowed))
        return rows + self.dropout(self.feed_forward(self.norm_feed_forward(rows)))

    def _attend(self, query: Tensor, source: Tensor, allowed: Tensor) -> Tensor:
        key, value = self.key_value(source).chunk(2, dim=-1)
        q, k, v = (
            x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # (B, heads, T, dim / heads)
            for x in (self.query(query), key, value)
        )
        if self.training and self.dropout_attention.p == 0.0:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        else:  # the same, in operators that every exporter knows
            scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(2, 3)
            # A sum, which costs less than a choice and is shared by all layers in a graph.
            weights = (scores + (~allowed).to(scores.dtype) * -1e9).softmax(dim=-1)
            mixed = self.dropout_attention(weights) @ v
        return self.out(mixed.transpose(1, 2).flatten(2))


def _not_later(n_query: int, n_key: int, device: torch.device) -> Tensor:
    """(Tq, Tk) bool: key j is allowed for query i when j - i <= |Tq - Tk|."""
    gap = torch.arange(n_key, device=device) - torch.arange(n_query, device=device)[:, None]
    return gap <= abs(n_query - n_key)


def _sinusoids(n: int, dim: int) -> Tensor:
    """(n, dim) sinusoidal positions (Vaswani et al. 2017, section 3.5)."""
    angle = torch.arange(n)[:, None] * torch.exp(
        torch.arange(0, dim, 2) * (-math.log(10_000.0) / dim)
    )
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


def _published_sinusoids(n: int, dim: int) -> Tensor:
    """(n, dim) positions 1 to n as in tensor2tensor: sines, then cosines."""
    half = dim // 2
    rate = torch.exp(torch.arange(half) * (-math.log(10_000.0) / (half - 1)))
    angle = torch.arange(1, n + 1)[:, None] * rate
    return torch.cat([angle.sin(), angle.cos()], dim=1)
