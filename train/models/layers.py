"""Building blocks: masked convolution, masked transformer, attention pooling, normalisation."""

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from runtime.features.spec import SPEC

__all__ = [
    "AttentionPool",
    "ConvFront",
    "Dropout",
    "Head",
    "LastStep",
    "MaskedConv",
    "Normalise",
    "NormaliseVision",
    "Statistics",
    "Transformer",
    "TransformerConfig",
    "masked_mean",
]

# Positions for the longest sequence: an utterance has 375 audio rows, MOSI and MOSEI up to 500.
_MAX_ROWS = 512
_FEW_VOICED = 4  # rows: with fewer, an utterance counts as unvoiced


class Normalise(nn.Module):
    """Standardises raw feature rows by statistics of the training set, clipped to +-5."""

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    def prepare(self, rows: Tensor, mask: Tensor) -> Tensor:
        """What is standardised; `rows` (B, T, dim), `mask` (B, T) bool."""
        return rows

    def forward(self, rows: Tensor, mask: Tensor) -> Tensor:
        """(B, T, dim), (B, T) bool -> (B, T, dim)."""
        return ((self.prepare(rows, mask) - self.mean) / self.std).clamp(-5.0, 5.0)


class NormaliseVision(Normalise):
    """Rows without a face (last column 0) become the average row with its flag off."""

    def __init__(self) -> None:
        super().__init__(SPEC.vision_dim)

    def forward(self, rows: Tensor, mask: Tensor) -> Tensor:
        """(B, T, 59), (B, T) bool -> (B, T, 59)."""
        flag = rows[..., -1:]
        return torch.cat([super().forward(rows, mask)[..., :-1] * flag, flag], dim=-1)


class MaskedConv(nn.Module):
    """Temporal convolution to the common width; masked rows count as zero.

    `pad` keeps the length; without it, as in the published code, kernel - 1 rows are lost.
    """

    def __init__(
        self, dim_in: int, dim: int, kernel: int, stride: int = 1, *, pad: bool = True
    ) -> None:
        super().__init__()
        self.stride, self.n_lost = stride, 0 if pad else kernel - 1
        padding = kernel // 2 if pad else 0
        self.conv = nn.Conv1d(dim_in, dim, kernel, stride, padding=padding, bias=False)

    def forward(self, rows: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, dim_in), (B, T) bool -> (B, ceil(T / stride), dim) and its mask."""
        rows = rows * mask[..., None]
        out = _convolve(self.conv, rows)
        return out, mask[:, self.n_lost :: self.stride]


def _convolve(conv: nn.Module, rows: Tensor) -> Tensor:
    """(B, T, dim_in) -> (B, T', dim), on the CPU never in bf16: there torch 2.13's gradient of the
    weights is not finite where all rows are 0 (a modality that a whole batch lacks)."""
    if rows.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        with torch.autocast("cpu", enabled=False):
            return cast(Tensor, conv(rows.float().transpose(1, 2)).transpose(1, 2))
    return cast(Tensor, conv(rows.transpose(1, 2)).transpose(1, 2))


class ConvFront(nn.Module):
    """Three convolutions instead of the published one: a transformer of this size, on rows that
    one linear convolution makes, does not learn voices that it can tell apart in strangers."""

    def __init__(
        self, dim_in: int, width: int, dim: int, kernel: int, stride: int, dropout: float
    ) -> None:
        super().__init__()
        self.stride = stride
        self.convs = nn.ModuleList(
            [
                nn.Conv1d(dim_in, width, kernel, padding=kernel // 2),
                nn.Conv1d(width, width, 5, stride, padding=4, dilation=2),
                nn.Conv1d(width, dim, 3, padding=1),
            ]
        )
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(dim)])
        self.dropout = Dropout(dropout)

    def forward(self, rows: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, dim_in), (B, T) bool -> (B, ceil(T / stride), dim) and its mask."""
        for k, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            rows = _convolve(conv, rows * mask[..., None])
            mask = mask[:, :: self.stride] if k == 1 else mask
            rows = norm(rows).relu()
            rows = self.dropout(rows) if k < 2 else rows
        return rows, mask


class Statistics(nn.Module):
    """What an utterance's rows are on the whole: the functionals of classic voice analysis
    (Eyben et al. 2016) as statistics pooling (Snyder et al. 2018, section 3.1). With few voices to
    learn from, they carry over to strangers and to other corpora better than rows do."""

    def __init__(self, dim: int, width: int, dim_out: int, dropout: float) -> None:
        super().__init__()
        n = 5 * dim + 1
        self.normalise = Normalise(n)
        self.net = nn.Sequential(
            Dropout(dropout),
            nn.Linear(n, width),
            nn.ReLU(),
            Dropout(2.0 * dropout),
            nn.Linear(width, dim_out),
        )

    def prepare(self, rows: Tensor, mask: Tensor, voiced: Tensor) -> Tensor:
        """(B, T, dim), (B, T) bool twice -> (B, 5 dim + 1): mean and deviation of voiced rows and
        of all, mean absolute change, share of voiced rows. With too few voiced rows, all count."""
        every = mask.to(rows.dtype)
        some = every * voiced.to(rows.dtype)
        n_voiced = some.sum(dim=1, keepdim=True)
        used = torch.where(n_voiced < _FEW_VOICED, every, some)
        both = every[:, 1:] * every[:, :-1]
        change = _weighted_mean((rows[:, 1:] - rows[:, :-1]).abs(), both)
        share = n_voiced / every.sum(dim=1, keepdim=True).clamp(min=1.0)
        return torch.cat([*_moments(rows, used), *_moments(rows, every), change, share], dim=1)

    def forward(self, rows: Tensor, mask: Tensor, voiced: Tensor) -> Tensor:
        """(B, T, dim), (B, T) bool twice -> (B, dim_out)."""
        return cast(Tensor, self.net(self.normalise(self.prepare(rows, mask, voiced), mask)))


def _moments(rows: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over time, (B, dim) each; `rows` (B, T, dim), `weight` (B, T)."""
    mean = _weighted_mean(rows, weight)
    variance = _weighted_mean((rows - mean[:, None]).square(), weight)
    return mean, (variance + 1e-5).sqrt()


def _weighted_mean(rows: Tensor, weight: Tensor) -> Tensor:
    total = weight.sum(dim=1, keepdim=True).clamp(min=1.0)
    return (rows * weight[..., None]).sum(dim=1) / total


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


class Dropout(nn.Module):
    """Dropout with p rounded to 1/256: eight random bits an element instead of `nn.Dropout`'s 32,
    which one core draws and which would take a quarter of a training step."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = round(256 * p) / 256

    def forward(self, values: Tensor) -> Tensor:
        """Any shape; the identity in evaluation."""
        if not self.training or self.p == 0.0:
            return values
        if values.device.type != "cpu":
            return F.dropout(values, self.p)
        n = values.numel()
        words = torch.empty((n + 6) // 7, dtype=torch.int64).random_()  # 63 bits: 7 whole bytes
        byte = words.view(torch.uint8).view(-1, 8)[:, :7].reshape(-1)[:n].view(values.shape)
        keep = (byte >= round(256 * self.p)).to(values.dtype)
        return values * keep.mul_(1.0 / (1.0 - self.p))


class AttentionPool(nn.Module):
    """Weighted mean over time with learned weights: the summary of a sequence."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.score = nn.Linear(dim, 1, bias=False)  # a softmax sees no shift

    def forward(self, rows: Tensor, mask: Tensor) -> Tensor:
        """(B, T, dim), (B, T) bool -> (B, dim)."""
        scores = self.score(rows).squeeze(-1).masked_fill(~mask, -1e9)
        return (scores.softmax(dim=1)[:, None] @ rows).squeeze(1)


class LastStep(nn.Module):
    """The last valid row: the summary of a sequence in the published code."""

    def forward(self, rows: Tensor, mask: Tensor) -> Tensor:
        """(B, T, dim), (B, T) bool with at least one true a sample -> (B, dim)."""
        last = mask.shape[1] - 1 - mask.flip(1).int().argmax(dim=1)
        return rows[torch.arange(len(rows), device=rows.device), last]


class Head(nn.Module):
    """Residual two-layer head of the published code: (B, dim) -> outputs and representations."""

    def __init__(self, dim: int, n_outputs: int, dropout: float, hidden: int | None = None) -> None:
        super().__init__()
        self.down = nn.Linear(dim, hidden or dim)
        self.up = nn.Linear(hidden or dim, dim)
        self.dropout = Dropout(dropout)
        self.out = nn.Linear(dim, n_outputs)

    def forward(self, summary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, dim) -> outputs (B, n_outputs: sentiment, then one logit per emotion), hidden layer
        (B, hidden), and the refined summary (B, dim)."""
        hidden = self.down(summary).relu()
        refined = self.up(self.dropout(hidden)) + summary
        return self.out(refined), hidden, refined


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


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` where `mask` (same shape or broadcastable) is true; 0 when it never is."""
    weight = mask.to(values.dtype).expand_as(values)
    return (values * weight).sum() / weight.sum().clamp(min=1.0)
