"""Building blocks: masked convolution, masked transformer, attention pooling, normalisation."""

import math

import torch
from torch import Tensor, nn

from runtime.features.spec import SPEC

__all__ = [
    "AttentionPool",
    "MaskedConv",
    "Normalise",
    "NormaliseAudio",
    "NormaliseVision",
    "Transformer",
    "head",
    "masked_mean",
]

# Positions for the longest text, audio or vision sequence of one utterance.
_MAX_ROWS = math.ceil(
    max(
        SPEC.max_pieces,
        SPEC.max_utterance_s * SPEC.audio_rate_hz,
        SPEC.max_utterance_s * SPEC.vision_rate_hz,
    )
)


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


class NormaliseAudio(Normalise):
    """Takes the utterance's mean level out first: microphones and distances differ, and a factor
    on the samples is a constant on the logarithms."""

    gain: Tensor

    def __init__(self) -> None:
        super().__init__(SPEC.audio_dim)
        gain = torch.ones(SPEC.audio_dim)
        gain[SPEC.n_mels : SPEC.n_mels + 2] = 0.0  # F0 and voicing have no level
        self.register_buffer("gain", gain, persistent=False)

    def prepare(self, rows: Tensor, mask: Tensor) -> Tensor:
        """Log-mel and log-energy relative to the utterance's mean log-mel."""
        valid = mask[..., None].to(rows.dtype)
        level = (rows[..., : SPEC.n_mels].mean(dim=-1, keepdim=True) * valid).sum(
            dim=1, keepdim=True
        ) / valid.sum(dim=1, keepdim=True).clamp(min=1.0)
        return rows - level * self.gain


class NormaliseVision(Normalise):
    """Rows without a face (last column 0) become the average row with its flag off."""

    def __init__(self) -> None:
        super().__init__(SPEC.vision_dim)

    def forward(self, rows: Tensor, mask: Tensor) -> Tensor:
        """(B, T, 59), (B, T) bool -> (B, T, 59)."""
        flag = rows[..., -1:]
        return torch.cat([super().forward(rows, mask)[..., :-1] * flag, flag], dim=-1)


class MaskedConv(nn.Module):
    """Temporal convolution to the common width; masked rows count as zero."""

    def __init__(self, dim_in: int, dim: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv1d(dim_in, dim, kernel, stride, padding=kernel // 2, bias=False)

    def forward(self, rows: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, dim_in), (B, T) bool -> (B, ceil(T / stride), dim) and its mask."""
        rows = rows * mask[..., None]
        out = self.conv(rows.transpose(1, 2)).transpose(1, 2)
        return out, mask[:, :: self.stride]


class Transformer(nn.Module):
    """Pre-norm transformer as in MulT: attends to itself, or from `query` rows to `source` rows."""

    positions: Tensor

    def __init__(self, dim: int, n_heads: int, n_layers: int, dropout: float) -> None:
        super().__init__()
        self.scale = math.sqrt(dim)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(_Layer(dim, n_heads, dropout) for _ in range(n_layers))
        self.norm = nn.LayerNorm(dim)
        self.register_buffer("positions", _sinusoids(_MAX_ROWS, dim), persistent=False)

    def forward(self, query: Tensor, source: Tensor | None, mask: Tensor) -> Tensor:
        """(B, Tq, dim), (B, Tk, dim) or None for self-attention, (B, Tk) bool -> (B, Tq, dim).

        `mask` belongs to the rows attended to; each sample must have at least one.
        """
        query = self._embed(query)
        source = None if source is None else self._embed(source)
        for layer in self.layers:
            query = layer(query, source, mask)
        return self.norm(query)

    def _embed(self, rows: Tensor) -> Tensor:
        return self.dropout(self.scale * rows + self.positions[: rows.shape[1]])


class _Layer(nn.Module):
    def __init__(self, dim: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm_attention = nn.LayerNorm(dim)
        self.norm_feed_forward = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)
        self.feed_forward = nn.Sequential(
            nn.Linear(dim, 4 * dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(4 * dim, dim)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, rows: Tensor, source: Tensor | None, mask: Tensor) -> Tensor:
        query = self.norm_attention(rows)
        source = query if source is None else self.norm_attention(source)
        rows = rows + self.dropout(self._attend(query, source, mask))
        return rows + self.dropout(self.feed_forward(self.norm_feed_forward(rows)))

    def _attend(self, query: Tensor, source: Tensor, mask: Tensor) -> Tensor:
        key, value = self.key_value(source).chunk(2, dim=-1)
        q, k, v = (
            x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # (B, heads, T, dim / heads)
            for x in (self.query(query), key, value)
        )
        scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])
        scores = scores.masked_fill(~mask[:, None, None, :], -1e9)
        return self.out((scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2))


class AttentionPool(nn.Module):
    """Weighted mean over time with learned weights: the summary of a sequence."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.score = nn.Linear(dim, 1)

    def forward(self, rows: Tensor, mask: Tensor) -> Tensor:
        """(B, T, dim), (B, T) bool -> (B, dim)."""
        scores = self.score(rows).squeeze(-1).masked_fill(~mask, -1e9)
        return (scores.softmax(dim=1)[:, None] @ rows).squeeze(1)


def head(dim: int, n_outputs: int, dropout: float) -> nn.Sequential:
    """Summary (B, dim) -> (B, n_outputs): sentiment first, then one logit per emotion."""
    return nn.Sequential(
        nn.Linear(dim, dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(dim, n_outputs)
    )


def _sinusoids(n: int, dim: int) -> Tensor:
    """(n, dim) sinusoidal positions (Vaswani et al. 2017, section 3.5)."""
    angle = torch.arange(n)[:, None] * torch.exp(
        torch.arange(0, dim, 2) * (-math.log(10_000.0) / dim)
    )
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` where `mask` (same shape or broadcastable) is true; 0 when it never is."""
    weight = mask.to(values.dtype).expand_as(values)
    return (values * weight).sum() / weight.sum().clamp(min=1.0)
