"""Graph distillation unit (DMD, section 3.3): who teaches whom, learned per sample."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from runtime.errors import UsageError
from runtime.features.spec import MODALITIES

__all__ = ["EDGES", "Distillation", "GraphDistillation", "discrepancy", "parse_edges"]

# Ordered pairs (teacher i, student j) over text, audio, vision.
EDGES = tuple((i, j) for i in range(3) for j in range(3) if i != j)
_PRIOR_TEMPERATURE = 0.25


@dataclass(frozen=True)
class Distillation:
    """Terms of one unit: `loss` and `regularisation` scalars; `edges` (B, 6) strengths."""

    loss: Tensor
    regularisation: Tensor
    edges: Tensor


class GraphDistillation(nn.Module):
    """Distils between the three modalities along learned directed edges.

    Each vertex is z_m = [W_logit l_m; W_repr r_m]; an edge's strength is W_edge [z_j; z_i],
    normalised over the six edges by a softmax (eq. 5 to 7 of the paper). Edges that touch an
    absent modality have strength 0. `favoured` names the (teacher, student) pairs of the published
    code's prior, towards which the mean strengths are regularised. With `learned` false the
    strengths are that prior: conventional distillation. What an edge distils is the mean absolute
    difference of the outputs, as published, or with `by_divergence` their `discrepancy`.
    """

    prior: Tensor
    teacher: Tensor
    student: Tensor

    def __init__(
        self,
        n_logits: int,
        dim: int,
        hidden: int,
        *,
        favoured: tuple[tuple[int, int], ...],
        temperature: float,
        learned: bool = True,
        by_divergence: bool = False,
    ) -> None:
        super().__init__()
        self.temperature, self.learned, self.by_divergence = temperature, learned, by_divergence
        self.logit = nn.Linear(n_logits, hidden)
        self.representation = nn.Linear(dim, hidden)
        self.edge = nn.Linear(4 * hidden, 1, bias=False)  # a softmax sees no shift
        pattern = torch.tensor([1.0 if edge in favoured else 0.0 for edge in EDGES])
        prior = torch.softmax(pattern / _PRIOR_TEMPERATURE, dim=0)
        self.register_buffer("prior", prior, persistent=False)
        self.register_buffer("teacher", torch.tensor([i for i, _ in EDGES]), persistent=False)
        self.register_buffer("student", torch.tensor([j for _, j in EDGES]), persistent=False)

    def forward(self, logits: Tensor, representation: Tensor, present: Tensor) -> Distillation:
        """`logits` (B, 3, n), `representation` (B, 3, dim), `present` (B, 3) bool."""
        vertex = torch.cat([self.logit(logits), self.representation(representation)], dim=-1)
        usable = present[:, self.teacher] & present[:, self.student]  # (B, 6)
        pairs = torch.cat([vertex[:, self.student], vertex[:, self.teacher]], dim=-1)
        scores = self.edge(pairs).squeeze(-1) / self.temperature
        edges = scores.masked_fill(~usable, -1e9).softmax(dim=-1) * usable
        if not self.learned:
            edges = self.prior * usable
        # The teacher is detached: knowledge flows along the edge, not against it.
        student, teacher = logits[:, self.student], logits[:, self.teacher].detach()
        gap = (student - teacher).abs().mean(dim=-1)
        if self.by_divergence:
            gap = discrepancy(student, teacher, 1.0)
        loss = ((edges + self.prior * usable) * gap).sum(dim=1).mean()
        complete = usable.all(dim=1)
        mean = (edges * complete[:, None]).sum(dim=0) / complete.sum().clamp(min=1)
        regularisation = ((mean - self.prior) ** 2).sum() * complete.any()
        return Distillation(loss, regularisation, edges.detach())


def discrepancy(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """How far outputs (..., 1 + n_emotions) are from a teacher's: (...).

    L1 of the sentiment, plus the KL divergence of the emotions at `temperature`, times its square
    (Hinton et al. 2015). By an absolute difference of logits, a student who cannot tell would learn
    their median, which says nothing; by the divergence it learns the teacher's probabilities given
    what it knows itself.
    """
    gap = (student[..., 0] - teacher[..., 0]).abs()
    if student.shape[-1] == 1:
        return gap
    told = F.log_softmax(teacher[..., 1:] / temperature, dim=-1)
    own = F.log_softmax(student[..., 1:] / temperature, dim=-1)
    return gap + temperature**2 * (told.exp() * (told - own)).sum(dim=-1)


def parse_edges(text: str) -> tuple[tuple[int, int], ...]:
    """`text>audio vision>audio` as pairs (teacher, student); raises UsageError otherwise."""
    names = {f"{MODALITIES[i]}>{MODALITIES[j]}": (i, j) for i, j in EDGES}
    if wrong := [edge for edge in text.split() if edge not in names]:
        raise UsageError(f"edge {wrong[0]!r}: write teacher>student, such as {next(iter(names))}")
    return tuple(names[edge] for edge in text.split())
