"""The appearance network: an aligned grey face of 48 pixels -> an embedding and FER+'s ten votes.

A small residual network (He et al. 2016); faces are aligned, so that a learned weight for every
place (the global depthwise convolution of MobileFaceNets, Chen et al. 2018) summarises better than
a mean over places.
"""

import io
import warnings
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from runtime.features.spec import SPEC

from .half import store_in_half

__all__ = ["AppearanceNet", "to_onnx"]

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


class _Embedding(nn.Module):
    """What is exported."""

    def __init__(self, net: AppearanceNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, face: Tensor) -> Tensor:
        return self.net.embedding(face)


def to_onnx(net: AppearanceNet) -> bytes:
    """The embedding as an ONNX graph, its weights stored in half precision.

    Input `face` (B, 1, 48, 48), output `embedding` (B, SPEC.appearance_dim).
    """
    import onnx

    size, buffer = SPEC.appearance_size, io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is a newer exporter
        torch.onnx.export(
            _Embedding(net).eval(),
            (torch.zeros(1, 1, size, size),),
            buffer,  # type: ignore[arg-type]  # a stub's oversight: a buffer will do
            input_names=["face"],
            output_names=["embedding"],
            dynamic_axes={"face": {0: "B"}, "embedding": {0: "B"}},
            opset_version=18,
            dynamo=False,
        )
    model = onnx.load_from_string(buffer.getvalue())
    store_in_half(model, above=64)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
