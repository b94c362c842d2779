"""Small building blocks: dropout, summaries over time, the prediction head, a masked mean."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["AttentionPool", "Dropout", "Head", "LastStep", "masked_mean"]


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


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` where `mask` (same shape or broadcastable) is true; 0 when it never is."""
    weight = mask.to(values.dtype).expand_as(values)
    return (values * weight).sum() / weight.sum().clamp(min=1.0)
