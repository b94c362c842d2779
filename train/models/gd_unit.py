"""Graph distillation unit (DMD, section 3.3): who teaches whom, learned per sample."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from runtime.errors import UsageError
from runtime.features.spec import MODALITIES

from .layers import masked_mean

__all__ = [
    "EDGES",
    "RULES",
    "Distillation",
    "GraphDistillation",
    "discrepancy",
    "parse_edges",
    "task_error",
]

# Ordered pairs (teacher i, student j) over text, audio, vision.
EDGES = tuple((i, j) for i in range(3) for j in range(3) if i != j)
_PRIOR_TEMPERATURE = 0.25
# How edges are learned:
# published    the gradient reaches the edges through the distance that they weigh
# detached     not through it; instead each student's mixture of its teachers, by their edges, has
#              to be right (`mixture_error`): who is right teaches
# per_student  softmax over each student's two teachers, not over all six edges
# no_constant  no constant prior beside the edges
# by_error     nothing learned: edges are the softmax of minus the teachers' own task errors
# per_class    as detached, with one set of edges for each class instead of a small network
# held_out     not through it; edges go where a step along them would lower the task loss of other
#              utterances: a meta-gradient (Ren et al. 2018, "Learning to reweight examples")
# together     detached, per_student and no_constant
RULES = (
    "published",
    "detached",
    "per_student",
    "no_constant",
    "by_error",
    "per_class",
    "held_out",
    "together",
)
_BY_MIXTURE = ("detached", "per_class", "together")
_BY_GAIN = ("held_out",)
_BY_STUDENT = ("per_student", "together")
_WITHOUT_CONSTANT = ("no_constant", "together")


@dataclass(frozen=True)
class Distillation:
    """Terms of one unit: `loss`, `regularisation` and `mixture` scalars; `edges` (B, 6) strengths.

    `mixture` is what edges learn from under rules that keep the distance from them, else 0.
    """

    loss: Tensor
    regularisation: Tensor
    mixture: Tensor
    edges: Tensor


class GraphDistillation(nn.Module):
    """Distils between the three modalities along learned directed edges.

    Each vertex is z_m = [W_logit l_m; W_repr r_m]; an edge's strength is W_edge [z_j; z_i],
    normalised over the six edges by a softmax (eq. 5 to 7 of the paper), or under some rules over
    each student's two. Edges that touch an absent modality have strength 0. `favoured` names the
    (teacher, student) pairs of the published code's prior, towards which the mean strengths are
    regularised. `rule` is one of `RULES`; under all of them the strengths of a whole utterance sum
    to 2, so that they differ in where the teaching goes and not in how much there is. Where a
    modality is missing, learned edges may teach more than fixed ones. With `learned` false the
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
        rule: str = "published",
    ) -> None:
        super().__init__()
        if rule not in RULES:
            raise UsageError(f"loss.edge_rule {rule!r}: there are {', '.join(RULES)}")
        self.temperature, self.learned, self.by_divergence = temperature, learned, by_divergence
        self.rule, self.mixes = rule, learned and rule in _BY_MIXTURE + _BY_GAIN
        self.logit = nn.Linear(n_logits, hidden)
        self.representation = nn.Linear(dim, hidden)
        self.edge = nn.Linear(4 * hidden, 1, bias=False)  # a softmax sees no shift
        if rule == "per_class":
            self.by_class = nn.Parameter(torch.zeros(max(2, n_logits - 1), len(EDGES)))
        pattern = torch.tensor([1.0 if edge in favoured else 0.0 for edge in EDGES])
        prior = torch.softmax(pattern / _PRIOR_TEMPERATURE, dim=0)
        self.register_buffer("prior", prior, persistent=False)
        self.register_buffer("teacher", torch.tensor([i for i, _ in EDGES]), persistent=False)
        self.register_buffer("student", torch.tensor([j for _, j in EDGES]), persistent=False)

    def forward(
        self,
        logits: Tensor,
        representation: Tensor,
        present: Tensor,
        labels: dict[str, Tensor] | None = None,
    ) -> Distillation:
        """`logits` (B, 3, n), `representation` (B, 3, dim), `present` (B, 3) bool; `labels`:
        `emotion` (B,) with -1 and `sentiment` (B,) with NaN for unknown, for rules that ask how
        right somebody is."""
        usable = present[:, self.teacher] & present[:, self.student]  # (B, 6)
        told = _unlabelled(logits) if labels is None else labels
        edges = self.prior * usable
        if self.learned:
            edges = self._edges(logits, representation, usable, told)
        # The teacher is detached: knowledge flows along the edge, not against it.
        student, teacher = logits[:, self.student], logits[:, self.teacher].detach()
        gap = self._gap(student, teacher)
        strength = edges.detach() if self.mixes else edges
        if self.learned and self.rule in _WITHOUT_CONSTANT:
            strength = 2.0 * strength
        else:
            strength = strength + self.prior * usable
        complete = usable.all(dim=1)
        mean = (edges * complete[:, None]).sum(dim=0) / complete.sum().clamp(min=1)
        mixture = gap.new_zeros(())
        if self.mixes and self.rule in _BY_GAIN:
            gain = self._gain(logits.detach(), representation.detach(), present, told) * usable
            mixture = -(edges * gain / gain.abs().mean().clamp(min=1e-8)).sum(dim=1).mean()
        elif self.mixes:
            mixture = self._mixture_error(edges, teacher, told)
        return Distillation(
            loss=(strength * gap).sum(dim=1).mean(),
            regularisation=((mean - self.prior) ** 2).sum() * complete.any(),
            mixture=mixture,
            edges=edges.detach(),
        )

    def _gap(self, student: Tensor, teacher: Tensor) -> Tensor:
        """What an edge distils: (B, 6) differences of outputs (B, 6, n)."""
        if self.by_divergence:
            return discrepancy(student, teacher, 1.0)
        return (student - teacher).abs().mean(dim=-1)

    @torch.enable_grad()
    def _gain(
        self, logits: Tensor, representation: Tensor, present: Tensor, labels: dict[str, Tensor]
    ) -> Tensor:
        """(B, 6): how fast the task losses of the batch's other samples fall along an edge.

        A step against the gap of sample s moves the student's outputs on sample b, as far as a
        linear layer on the representations makes them, by the gap's gradient times r_s . r_b; the
        task loss of b falls by that times its own gradient. All arguments are detached.
        """
        outputs = logits.requires_grad_()
        errors = task_error(outputs, labels).nan_to_num() * present
        (slope,) = torch.autograd.grad(errors.sum(), outputs)  # (B, 3, n)
        student = logits.detach()[:, self.student].requires_grad_()
        gap = self._gap(student, logits.detach()[:, self.teacher])
        (step,) = torch.autograd.grad(gap.sum(), student)  # (B, 6, n)
        alike = torch.einsum("sjd,bjd->jsb", representation, representation)
        alike = alike * (1.0 - torch.eye(len(logits), device=logits.device))
        moved = torch.einsum("jsb,bjn->sjn", alike, slope) / max(1, len(logits) - 1)
        return (step * moved[:, self.student]).sum(dim=-1)

    def _edges(
        self, logits: Tensor, representation: Tensor, usable: Tensor, labels: dict[str, Tensor]
    ) -> Tensor:
        """(B, 6) strengths that sum to 1, 0 where not `usable` (B, 6)."""
        if self.rule == "by_error":
            scores = self._minus_errors(logits, labels)
        elif self.rule == "per_class":
            scores = self.by_class[_classes(logits, labels)]
        else:
            vertex = torch.cat([self.logit(logits), self.representation(representation)], dim=-1)
            pairs = torch.cat([vertex[:, self.student], vertex[:, self.teacher]], dim=-1)
            scores = self.edge(pairs).squeeze(-1) / self.temperature
        scores = scores.masked_fill(~usable, -1e9)
        if self.rule not in _BY_STUDENT:
            return scores.softmax(dim=-1) * usable
        share = torch.zeros_like(scores)
        for j in range(3):  # each student has an equal part
            mine = self.student == j
            share = share + scores.masked_fill(~mine, -1e9).softmax(dim=-1) * mine
        share = share * usable
        return share / share.sum(dim=-1, keepdim=True).clamp(min=1.0)

    def _minus_errors(self, logits: Tensor, labels: dict[str, Tensor]) -> Tensor:
        """(B, 6) minus each teacher's task error; the mean of the others' where it is unknown."""
        error = task_error(logits.detach(), labels)  # (B, 3)
        known = ~error.isnan()
        mean = error.nan_to_num().sum(dim=0) / known.sum(dim=0).clamp(min=1)
        return -torch.where(known, error, mean.expand_as(error))[:, self.teacher]

    def _mixture_error(self, edges: Tensor, teacher: Tensor, labels: dict[str, Tensor]) -> Tensor:
        """The mean task error of what each student's teachers say together, mixed by their edges:
        `teacher` (B, 6, n) detached, so that the edges alone learn from it."""
        mixed = []
        for j in range(3):
            share = edges * (self.student == j)
            share = share / share.sum(dim=-1, keepdim=True).clamp(min=1e-6)
            mixed.append((share[..., None] * teacher).sum(dim=1))
        error = task_error(torch.stack(mixed, dim=1), labels)
        taught = torch.stack(
            [(edges * (self.student == j)).detach().sum(dim=-1) > 0 for j in range(3)], dim=1
        )
        return masked_mean(error.nan_to_num(), taught & ~error.isnan())


def task_error(outputs: Tensor, labels: dict[str, Tensor]) -> Tensor:
    """(B, 3): cross-entropy of the emotion where it is labelled, else L1 of the sentiment; NaN
    where nothing is known. `outputs` (B, 3, 1 + n_emotions)."""
    emotion, sentiment = labels["emotion"], labels["sentiment"]
    error = (outputs[..., 0] - sentiment[:, None]).abs()
    if outputs.shape[-1] == 1:
        return error
    told = emotion.clamp(min=0)[:, None].expand(-1, 3)
    wrong = F.cross_entropy(outputs[..., 1:].flatten(0, 1), told.flatten(), reduction="none")
    return torch.where(emotion[:, None] >= 0, wrong.view_as(told), error)


def _unlabelled(logits: Tensor) -> dict[str, Tensor]:
    n = len(logits)
    return {
        "emotion": torch.full((n,), -1, device=logits.device),
        "sentiment": torch.full((n,), float("nan"), device=logits.device),
    }


def _classes(logits: Tensor, labels: dict[str, Tensor]) -> Tensor:
    """(B,) the labelled class, else what the modalities say on the mean; by sign of the sentiment
    where there are no emotions."""
    if logits.shape[-1] == 1:
        said, rated = logits[..., 0].detach().mean(dim=1), labels["sentiment"]
        return (torch.where(rated.isnan(), said, rated) > 0).long()
    guess = logits[..., 1:].detach().mean(dim=1).argmax(dim=-1)
    return torch.where(labels["emotion"] >= 0, labels["emotion"], guess)


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
