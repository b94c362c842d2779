"""From raw rows of a modality to the model's common width: standardised, then convolved."""

from typing import cast

import torch
from torch import Tensor, nn

from runtime.features.spec import SPEC

from .layers import Dropout

__all__ = ["ConvFront", "Embedding", "MaskedConv", "Normalise", "NormaliseVision", "Statistics"]

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
        """(B, T, 91), (B, T) bool -> (B, T, 91)."""
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


class Embedding(nn.Module):
    """What a speech recogniser's encoder made of an utterance (`runtime/features/embedding.py`),
    brought to the common width; nothing where that is not known."""

    def __init__(self, dim: int, width: int, dim_out: int, dropout: float) -> None:
        super().__init__()
        self.normalise = Normalise(dim)
        self.net = nn.Sequential(
            Dropout(2.0 * dropout),
            nn.Linear(dim, width),
            nn.ReLU(),
            Dropout(2.0 * dropout),
            nn.Linear(width, dim_out),
        )

    def forward(self, embedding: Tensor) -> Tensor:
        """(B, dim), zeros where it is not known -> (B, dim_out)."""
        known = (embedding != 0).any(dim=-1, keepdim=True)
        return cast(Tensor, self.net(self.normalise(embedding, known))) * known


def _moments(rows: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over time, (B, dim) each; `rows` (B, T, dim), `weight` (B, T)."""
    mean = _weighted_mean(rows, weight)
    variance = _weighted_mean((rows - mean[:, None]).square(), weight)
    return mean, (variance + 1e-5).sqrt()


def _weighted_mean(rows: Tensor, weight: Tensor) -> Tensor:
    total = weight.sum(dim=1, keepdim=True).clamp(min=1.0)
    return (rows * weight[..., None]).sum(dim=1) / total
