"""The appearance network: an aligned grey face of 48 pixels -> an embedding and FER+'s ten votes.

A small residual network (He et al. 2016); faces are aligned, so that a learned weight for every
place (the global depthwise convolution of MobileFaceNets, Chen et al. 2018) summarises better than
a mean over places.
"""

from itertools import pairwise
from typing import cast

from torch import Tensor, nn

from runtime.features.spec import SPEC

__all__ = ["AppearanceNet"]

_WIDTHS = (32, 64, 96)


class AppearanceNet(nn.Module):
    """0.35 million weights, 35 million multiplications a face. `n_classes`: of the votes."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        stem, first = 16, _WIDTHS[0]
        layers = [_conv(1, stem), _conv(stem, first, stride=2), _Residual(first)]
        for width_in, width in pairwise(_WIDTHS):
            layers += [_conv(width_in, width, stride=2), _Residual(width)]
        self.features = nn.Sequential(*layers)
        last, side = _WIDTHS[-1], SPEC.appearance_size // 2 ** len(_WIDTHS)
        self.summary = nn.Sequential(
            nn.Conv2d(last, last, side, groups=last, bias=False), nn.BatchNorm2d(last)
        )
        self.dropout = nn.Dropout(0.2)
        self.embed = nn.Linear(last, SPEC.appearance_dim)
        self.classify = nn.Linear(SPEC.appearance_dim, n_classes)

    def embedding(self, face: Tensor) -> Tensor:
        """(B, 1, 48, 48) pictures of mean 0 and deviation 1 -> (B, SPEC.appearance_dim)."""
        summary = self.summary(self.features(face)).flatten(1)
        return cast(Tensor, self.embed(self.dropout(summary)))

    def forward(self, face: Tensor) -> Tensor:
        """(B, 1, 48, 48) -> logits (B, n_classes)."""
        return cast(Tensor, self.classify(self.embedding(face)))


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _conv(width, width)
        self.second = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        )

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, (x + self.second(self.first(x))).relu())


def _conv(width_in: int, width: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    )
