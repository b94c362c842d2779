"""All loss terms of DMD (pure functions) and the training-only parts of the model."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from runtime.features.spec import MODALITIES

from .config import Config, LossConfig
from .data.corpora import NEUTRAL
from .models.dictionary import Matching
from .models.dmd import DMD, Features
from .models.gd_unit import GraphDistillation, discrepancy, parse_edges
from .models.layers import Head, masked_mean
from .parallel import gather, share
from .unimodal import agreeing, own_labels

__all__ = [
    "Losses",
    "TrainingDMD",
    "arousal_loss",
    "doubtful",
    "margin_labels",
    "margin_loss",
    "orthogonality",
    "task_loss",
    "teacher_loss",
]


@dataclass(frozen=True)
class Losses:
    """`total` to descend, and every term by name (unweighted, detached scalars)."""

    total: Tensor
    terms: dict[str, Tensor]


class TrainingDMD(nn.Module):
    """A DMD with what only training needs: decoders, extra heads, both GD-units, dictionaries.

    Export takes `dmd`, so nothing of this wrapper can reach a graph.
    """

    def __init__(self, dmd: DMD, config: Config) -> None:
        super().__init__()
        d, n = config.model.dim, dmd.n_outputs
        self.config: LossConfig = config.loss
        self.dmd = dmd
        self.decode = nn.ModuleDict({m: nn.Linear(2 * d, d, bias=False) for m in MODALITIES})
        self.common_head = Head(3 * d, n, config.model.dropout_head)
        self.hetero_heads = nn.ModuleDict(
            {m: Head(2 * d, n, config.model.dropout_head) for m in MODALITIES}
        )
        units = [
            GraphDistillation(
                n,
                dim,
                hidden,
                favoured=parse_edges(prior),
                temperature=config.loss.edge_temperature,
                learned=config.loss.learned_edges,
                by_divergence=config.loss.distil_by_divergence,
                rule=config.loss.edge_rule,
            )
            for dim, hidden, prior in (
                (d, config.model.gd_hidden, config.loss.homo_prior),
                (2 * d, config.model.gd_hidden_hetero, config.loss.hetero_prior),
            )
        ]
        self.homo_gd, self.hetero_gd = units
        used = bool(config.loss.lambda_dictionary)
        self.matching = Matching(config.loss.dictionary_atoms, d) if used else None

    def forward(self, batch: dict[str, Tensor], taught: Tensor | None = None) -> Losses:
        """All loss terms of one collated batch (labels `emotion` (B,), `sentiment` (B,)).

        `taught`: what a teacher says of the same utterances (`teacher_loss`).
        """
        features = gather(self.dmd(share(batch)))
        config, present = self.config, features.present
        homo = torch.stack([features.homo[m] for m in MODALITIES], dim=1)  # (B, 3, d)
        homo_repr = torch.stack([features.homo_repr[m] for m in MODALITIES], dim=1)  # (B, 3, d)
        homo_outputs = torch.stack([features.homo_outputs[m] for m in MODALITIES], dim=1)
        heads = [self.hetero_heads[m](features.hetero[m]) for m in MODALITIES]
        hetero_outputs = torch.stack([outputs for outputs, _, _ in heads], dim=1)
        hetero_repr = torch.stack([refined for _, _, refined in heads], dim=1)  # (B, 3, 2 d)
        common_outputs, _, _ = self.common_head((homo * present[..., None]).flatten(1))
        everywhere = torch.ones_like(present[:, 0])
        agree = agreeing(batch, present)  # what contradicts the rest is not drawn to it
        n_emotions = features.outputs.shape[1] - 1
        if config.doubt and n_emotions:  # a model of sentiment alone has none to doubt
            shown = batch.get("shown", batch["emotion"][:, None].expand(-1, len(MODALITIES)))
            target = doubtful(batch["emotion"], shown, present, n_emotions, config.doubt)
            batch = {**batch, "target": target}
        terms = {"task_fused": task_loss(features.outputs, batch, everywhere, config)}
        if n_emotions:
            terms["arousal"] = arousal_loss(features.arousal, batch["arousal"])
        if self.dmd.config.common_branch:
            terms["task_common"] = task_loss(common_outputs, batch, everywhere, config)
            terms |= _task_losses("homo", homo_outputs, batch, present, config)
        terms |= _task_losses("hetero", hetero_outputs, batch, present, config)
        if config.decoupling:
            terms |= self._decoupling(features, homo, batch, agree)
        for space, used, unit, inputs in (
            ("homo", config.homo_gd, self.homo_gd, (homo_outputs, homo_repr)),
            ("hetero", config.hetero_gd, self.hetero_gd, (hetero_outputs, hetero_repr)),
        ):
            if used:
                distilled = unit(*inputs, agree, batch)
                terms[f"distil_{space}"] = distilled.loss
                terms[f"edges_{space}"] = distilled.regularisation
                if unit.mixes:
                    terms[f"mixture_{space}"] = distilled.mixture
        if self.matching is not None:
            terms |= self.matching(features, agree, margin_labels(batch, config.margin)[0])
        if taught is not None:
            said = (features.outputs, features.arousal)
            terms["teacher"] = teacher_loss(*said, taught, config.teacher_temperature)
        return Losses(self._total(terms), {name: term.detach() for name, term in terms.items()})

    def _decoupling(
        self, features: Features, homo: Tensor, batch: dict[str, Tensor], agree: Tensor
    ) -> dict[str, Tensor]:
        """Reconstruction, cycle, orthogonality and margin terms (paper eq. 1 to 4)."""
        here = {m: features.present[:, k, None] for k, m in enumerate(MODALITIES)}
        reconstruction, cycle, orthogonal = [], [], []
        for m in MODALITIES:
            valid = (features.mask[m] & here[m])[..., None]
            common, private = features.common[m], features.private[m]
            decoded = self.decode[m](torch.cat([common, private], dim=-1))
            again = self.dmd.encode_private[m](decoded)
            reconstruction.append(masked_mean((features.shallow[m] - decoded) ** 2, valid))
            cycle.append(masked_mean((private - again) ** 2, valid))
            orthogonal.append(orthogonality(common, private, valid[..., 0]))
        terms = {
            "reconstruction": torch.stack(reconstruction).sum(),
            "cycle": torch.stack(cycle).sum(),
            "orthogonality": torch.stack(orthogonal).sum(),
        }
        if self.config.use_margin:
            label, margin = margin_labels(batch, self.config.margin)
            terms["margin"] = margin_loss(homo, label, agree, margin)
        return terms

    def _total(self, terms: dict[str, Tensor]) -> Tensor:
        """Weighted sum of the terms there are: L_task + lambda1 L_dec + lambda2 L_dtl."""
        c = self.config
        weights = {
            "task_fused": 1.0,
            "task_common": 1.0,
            "task_h": c.unimodal,
            "arousal": c.arousal,
            "reconstruction": c.lambda_decoupling,
            "cycle": c.lambda_decoupling,
            "margin": c.lambda_decoupling * c.gamma,
            "orthogonality": c.lambda_decoupling * c.gamma,
            "distil": c.lambda_distillation,
            "edges": c.lambda_distillation * c.edge_regularisation,
            "mixture": c.lambda_distillation * c.edge_mixture,
            "dictionary": c.lambda_dictionary,
            "teacher": c.lambda_teacher,
        }
        weighted = [
            next(w for start, w in weights.items() if name.startswith(start)) * term
            for name, term in terms.items()
        ]
        return torch.stack(weighted).sum()


def _task_losses(
    space: str,
    outputs: Tensor,
    batch: dict[str, Tensor],
    present: Tensor,
    config: LossConfig,
) -> dict[str, Tensor]:
    """The task loss of each modality's own outputs (B, 3, n) against its own labels, where it is
    present."""
    told = {name: labels for name, labels in batch.items() if name != "target"}  # of the whole
    return {
        f"task_{space}_{m}": task_loss(outputs[:, k], own_labels(told, k), present[:, k], config)
        for k, m in enumerate(MODALITIES)
    }


def teacher_loss(outputs: Tensor, arousal: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """What a teacher says of the same utterances; it gets no gradient. `arousal` (B,) is raw.

    A whole one says (B, 1 + n_emotions), as `outputs`: soft targets (Hinton et al. 2015), the KL
    divergence of the emotions at `temperature`, times its square, plus L1 of the sentiment. One
    that rates says (B, 2), sentiment and arousal, NaN of what it has not read: L1 of both.
    """
    if taught.shape[1] == 2:
        known = ~taught[:, 0].isnan()
        told = taught.nan_to_num()
        gaps = (outputs[:, 0] - told[:, 0]).abs() + (arousal.tanh() - told[:, 1]).abs()
        return masked_mean(gaps, known)
    return discrepancy(outputs, taught.detach(), temperature).mean()


def doubtful(
    emotion: Tensor, shown: Tensor, present: Tensor, n_emotions: int, doubt: float
) -> Tensor:
    """(B, n_emotions) target probabilities: 1 for `emotion` (B,), but for an utterance that
    contradicts itself. What its modalities show (`shown`, where `present`, both (B, 3)), neither
    neutral nor `emotion`, shares `doubt`."""
    told = F.one_hot(emotion.clamp(min=0), n_emotions).to(torch.float32)
    other = present & (shown != NEUTRAL) & (shown != emotion[:, None]) & (shown >= 0)
    votes = F.one_hot(shown.clamp(min=0), n_emotions) * other[..., None]
    against = votes.sum(dim=1) / other.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.where(other.any(dim=1, keepdim=True), (1 - doubt) * told + doubt * against, told)


def task_loss(
    outputs: Tensor, batch: dict[str, Tensor], here: Tensor, config: LossConfig
) -> Tensor:
    """Cross-entropy of the emotion plus weighted L1 of the sentiment, where labelled.

    `outputs` (B, 1 + n_emotions), `here` (B,) bool: the samples that count. `batch["target"]`
    (B, n_emotions), if there, is what the emotion's probabilities are drawn to. `log_prior` (B,
    n_emotions), if there, is added to the logits (logit adjustment; Menon et al. 2021, eq. 10), so
    that they are those of a world in which all emotions are equally common.
    """
    emotion, sentiment = batch["emotion"], batch["sentiment"]
    rated = ~sentiment.isnan()
    per_sentiment = (outputs[:, 0] - torch.where(rated, sentiment, 0.0)).abs()
    loss = config.sentiment * masked_mean(per_sentiment, here & rated)
    if outputs.shape[1] == 1:  # a model of sentiment alone
        return loss
    logits = outputs[:, 1:]
    per_emotion = F.cross_entropy(
        logits + batch["log_prior"] if "log_prior" in batch else logits,
        batch.get("target", emotion.clamp(min=0)),
        label_smoothing=config.label_smoothing,
        reduction="none",
    )
    return loss + masked_mean(per_emotion, here & (emotion >= 0))


def arousal_loss(raw: Tensor, arousal: Tensor) -> Tensor:
    """Mean absolute error of tanh(`raw`) (B,) against `arousal` (B,) in [-1, 1] where known."""
    known = ~arousal.isnan()
    return masked_mean((raw.tanh() - torch.where(known, arousal, 0.0)).abs(), known)


def orthogonality(common: Tensor, private: Tensor, mask: Tensor) -> Tensor:
    """Mean squared cosine of C and P over time: (B, T, d) twice, (B, T) bool -> scalar.

    The paper sums the cosine itself, whose minimum is -1: opposite vectors, which carry the same
    information. Squared, the minimum is where the two are orthogonal, as the text intends.
    """
    return masked_mean(F.cosine_similarity(common, private, dim=-1) ** 2, mask)


def margin_loss(homo: Tensor, label: Tensor, present: Tensor, margin: Tensor) -> Tensor:
    """Same label across modalities closer than other labels within a modality (paper eq. 3).

    `homo` (B, 3, d) summaries of the common features, `label` (B,) emotion or sentiment, NaN for
    unknown, `present` (B, 3) bool, `margin` (B, B) by i and k. Mean of
    max(0, margin - cos(i, j) + cos(i, k)) over all triples with m_i != m_j, m_i = m_k, y_i = y_j,
    y_i != y_k; 0 when there is none.
    """
    vectors = F.normalize(homo, dim=-1)
    known = present & ~label.isnan()[:, None]  # (B, 3)
    same = label[:, None] == label
    total, n = homo.new_zeros(()), homo.new_zeros(())
    for a in range(3):
        within = vectors[:, a] @ vectors[:, a].T  # cos(i, k)
        negative = ~same & known[:, a, None] & known[:, a]
        for b in range(3):
            if a == b:
                continue
            across = vectors[:, a] @ vectors[:, b].T  # cos(i, j)
            positive = same & known[:, a, None] & known[:, b]
            hinge = F.relu((margin + within)[:, None, :] - across[:, :, None])  # (i, j, k)
            triples = (positive[:, :, None] & negative[:, None, :]).to(hinge.dtype)
            total, n = total + (hinge * triples).sum(), n + triples.sum()
    return total / n.clamp(min=1.0)


def margin_labels(batch: dict[str, Tensor], margin: float) -> tuple[Tensor, Tensor]:
    """What `margin_loss` compares: the emotion, or the sentiment where no emotion is labelled.

    Returns labels (B,) with NaN for unknown and margins (B, B): constant between emotions, times
    the gap |y_i - y_k| between sentiments, as in the published code.
    """
    emotion = batch["emotion"].to(torch.float32)
    if bool((emotion >= 0).any()):
        return emotion.masked_fill(emotion < 0, float("nan")), torch.full(
            (len(emotion),) * 2, margin, device=emotion.device
        )
    sentiment = batch["sentiment"]
    return sentiment, margin * (sentiment[:, None] - sentiment).abs().nan_to_num()
