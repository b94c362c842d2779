"""What every model that the DMD is compared with says, and how it is made to learn."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..inputs import Inputs

__all__ = ["Comparator", "Outcome", "equal_weight"]


@dataclass(frozen=True)
class Outcome:
    """What one forward pass says; named as in the DMD's `Features`.

    `outputs` (B, 1 + n_emotions) and `arousal` (B,) before tanh are the prediction; `homo_outputs`
    each modality's own, where the model has one; `weight` (B, 3) and `present` (B, 3) bool; `parts`
    is what the method's own losses are taken of, first axis B.
    """

    outputs: Tensor
    arousal: Tensor
    homo_outputs: dict[str, Tensor]
    weight: Tensor
    present: Tensor
    parts: dict[str, Tensor]


class Comparator(Inputs):
    """Same inputs, heads and predictions as the DMD. `weights`: of the method's own loss terms."""

    weights: ClassVar[Mapping[str, float]] = {}

    def terms(
        self, outcome: Outcome, batch: dict[str, Tensor], taught: Outcome | None
    ) -> dict[str, Tensor]:
        """The method's own loss terms beside those of the task, by the names of `weights`.

        `taught`: what a frozen teacher says of the same utterances, whole, if there is one.
        """
        return {}


def equal_weight(present: Tensor) -> Tensor:
    """(B, 3) bool -> the same weight for all that is present, 0 elsewhere."""
    return present / present.sum(dim=1, keepdim=True).clamp(min=1).to(torch.float32)
