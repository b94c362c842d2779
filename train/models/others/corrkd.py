"""CorrKD: correlation-decoupled knowledge distillation (Li et al., CVPR 2024; arXiv 2404.16456).

For missing modalities: a teacher learns from whole utterances and is frozen; a student of the same
shape sees utterances with parts missing and is drawn to the teacher in three ways. With joint
representations h_t, h_s (B, 3 d) and probabilities p_t, p_s (B, k):

| Term | Equation |
| --- | --- |
| network | h = [mean over time of transformer(X~_m)] over m, then a head |
| SCD, sample-level contrastive | mean_i D(h_s,i, h_t,i)^2 + mean_{i != j} max(0, eta - D(h_s,i, h_t,j))^2, D Euclidean |
| CPD, category-guided prototypes | mean over samples and categories of (cos(h_s,i, c_s,k) - cos(h_t,i, c_t,k))^2, c_k the mean of the category's h in the batch |
| RCD, response-disentangled consistency | -I(u_t; u_s) - I(v_t; v_s): u the target's probability, v the others'; I by Jensen-Shannon (Hjelm et al. 2019, eq. 4) |

No code is public. The paper leaves open the statistics network of I (here two layers on both
responses), what negatives it has (here the batch shifted by one), a category without samples (here
it has no prototype), and D's scale (here both h have length 1). All weights are 1, as in the paper.
Without emotions, the categories are negative, zero and positive sentiment, and RCD is left out: one
number has no other responses. Train the teacher first, with `data.modality_dropout=0`, and give it
by `--teacher-checkpoint`; without a teacher there are no such terms.
"""  # noqa: E501

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from runtime.features.spec import MODALITIES

from ...config import ModelConfig
from ..language import LanguageEncoder
from ..layers import Head
from ..parts import transformer
from .base import Comparator, Outcome, equal_weight

__all__ = ["CorrKD", "contrastive", "mutual_information", "prototypes"]

_MARGIN = 1.0  # eta; vectors of length 1 are at most 2 apart
_STATISTICS = 32  # width of the statistics networks


class CorrKD(Comparator):
    """Teacher or student: one transformer for each modality and one head."""

    weights: ClassVar[Mapping[str, float]] = {"contrastive": 1.0, "prototypes": 1.0,
                                              "responses": 1.0}  # fmt: skip

    def __init__(
        self, config: ModelConfig, language: LanguageEncoder | None, n_emotions: int
    ) -> None:
        super().__init__(config, language, n_emotions)
        d = config.dim
        self.attend = nn.ModuleDict({m: transformer(config, d, m) for m in MODALITIES})
        self.head = Head(3 * d, self.n_outputs + 1, config.dropout_head)  # the last: arousal
        if n_emotions:
            self.of_target, self.of_others = _statistics(2), _statistics(2 * (n_emotions - 1))

    def forward(self, batch: dict[str, Tensor]) -> Outcome:
        """The joint representation, `parts["joint"]`, and the prediction."""
        shallow, mask, present = self.shallow(batch)
        means = []
        for m in MODALITIES:
            rows, weight = self.attend[m](shallow[m], None, mask[m]), mask[m][..., None]
            means.append((rows * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1))
        joint = torch.cat(means, dim=1)
        said, _, _ = self.head(joint)
        return Outcome(
            outputs=said[:, :-1],
            arousal=said[:, -1],
            homo_outputs={},
            weight=equal_weight(present),
            present=present,
            parts={"joint": joint},
        )

    def terms(
        self, outcome: Outcome, batch: dict[str, Tensor], taught: Outcome | None
    ) -> dict[str, Tensor]:
        """SCD, CPD and RCD against what the teacher says; none without a teacher."""
        if taught is None:
            return {}
        student, teacher = outcome.parts["joint"], taught.parts["joint"].detach()
        label, n = _categories(batch, self.n_outputs - 1)
        terms = {
            "contrastive": contrastive(student, teacher),
            "prototypes": prototypes(student, teacher, label, n),
        }
        known = batch["emotion"] >= 0
        if self.n_outputs > 1 and known.sum() > 1:
            told = batch["emotion"][known]
            ps, pt = (o.outputs[known, 1:].softmax(dim=1) for o in (outcome, taught))
            us, ut = (p.gather(1, told[:, None]) for p in (ps, pt.detach()))
            vs, vt = (_others(p, told) for p in (ps, pt.detach()))
            terms["responses"] = -(
                mutual_information(self.of_target, us, ut)
                + mutual_information(self.of_others, vs, vt)
            )
        elif self.n_outputs > 1:
            terms["responses"] = student.new_zeros(())
        return terms


def contrastive(student: Tensor, teacher: Tensor) -> Tensor:
    """Same sample near, other samples at least the margin away; (B, d) each."""
    s, t = F.normalize(student, dim=1), F.normalize(teacher, dim=1)
    squared = (s[:, None] - t[None]).square().sum(dim=-1)  # (B, B)
    same = torch.eye(len(s), dtype=torch.bool, device=s.device)
    near = squared[same].mean()
    if len(s) < 2:
        return near
    distance = (squared[~same] + 1e-12).sqrt()
    return near + F.relu(_MARGIN - distance).square().mean()


def prototypes(student: Tensor, teacher: Tensor, label: Tensor, n: int) -> Tensor:
    """How alike both see samples and categories; `label` (B,) with -1 for unknown, `n` of them."""
    known = label >= 0
    one = F.one_hot(label.clamp(min=0), n).to(student.dtype) * known[:, None]
    count = one.sum(dim=0)
    there = count > 0
    if not there.any():
        return student.new_zeros(())
    seen = []
    for h in (student, teacher):
        centre = (one.T @ h)[there] / count[there, None]
        seen.append(F.normalize(h, dim=1) @ F.normalize(centre, dim=1).T)
    return (seen[0] - seen[1])[known].square().mean()


def mutual_information(statistics: nn.Module, a: Tensor, b: Tensor) -> Tensor:
    """Jensen-Shannon estimate of what rows of `a` and `b` (n, d) tell of each other."""
    together = statistics(torch.cat([a, b], dim=1))
    apart = statistics(torch.cat([a, b.roll(1, dims=0)], dim=1))
    return -F.softplus(-together).mean() - F.softplus(apart).mean()


def _others(probabilities: Tensor, target: Tensor) -> Tensor:
    """(n, k) -> (n, k - 1) probabilities of all but the target's."""
    k = probabilities.shape[1]
    kept = torch.arange(k, device=target.device) != target[:, None]
    return probabilities[kept].view(-1, k - 1)


def _categories(batch: dict[str, Tensor], n_emotions: int) -> tuple[Tensor, int]:
    if n_emotions:
        return batch["emotion"], n_emotions
    rated = ~batch["sentiment"].isnan()
    return torch.where(rated, batch["sentiment"].nan_to_num().sign().long() + 1, -1), 3


def _statistics(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, _STATISTICS), nn.ReLU(), nn.Linear(_STATISTICS, 1))
