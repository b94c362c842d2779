"""Training of the models that the DMD is compared with, by the DMD's own task losses."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from runtime.features.spec import MODALITIES

from . import checkpoint
from .config import Config, LossConfig
from .losses import Losses, TrainingDMD, arousal_loss, doubtful, task_loss, teacher_loss
from .models.dmd import DMD
from .models.inputs import Inputs
from .models.others import CORRKD, Comparator, Outcome
from .parallel import gather, share
from .unimodal import own_labels

__all__ = ["TrainingOther", "training_model"]


def training_model(model: Inputs, settings: Config, teacher: str | None) -> nn.Module:
    """`model` with the losses of its kind; `teacher` is the folder of one, for kinds that ask."""
    if isinstance(model, DMD):
        return TrainingDMD(model, settings)
    assert isinstance(model, Comparator)
    frozen = None
    if settings.model.kind == CORRKD and teacher is not None:
        frozen = checkpoint.load_any(Path(teacher)).model
    return TrainingOther(model, settings, frozen)


class TrainingOther(nn.Module):
    """A comparator, under the name `dmd` that the trainer knows, and its losses.

    The fused prediction, and each modality's own where there is one, have the DMD's task losses and
    weights; then come the method's own terms. A `teacher` is frozen, and sees whole utterances.
    """

    def __init__(self, model: Comparator, config: Config, teacher: nn.Module | None) -> None:
        super().__init__()
        self.config: LossConfig = config.loss
        self.dmd = model
        self.teacher = teacher
        if teacher is not None:
            teacher.requires_grad_(False)

    def train(self, mode: bool = True) -> "TrainingOther":
        """As of every module; the teacher stays as it is."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def forward(self, batch: dict[str, Tensor], taught: Tensor | None = None) -> Losses:
        """All loss terms of one collated batch; `taught` as of `TrainingDMD`."""
        outcome = gather(self.dmd(share(batch)))
        config, n_emotions = self.config, self.dmd.n_outputs - 1
        everywhere = torch.ones_like(outcome.present[:, 0])
        told = batch
        if config.doubt and n_emotions:
            shown = batch.get("shown", batch["emotion"][:, None].expand(-1, len(MODALITIES)))
            target = doubtful(batch["emotion"], shown, outcome.present, n_emotions, config.doubt)
            told = {**batch, "target": target}
        terms = {"task_fused": task_loss(outcome.outputs, told, everywhere, config)}
        if n_emotions:
            terms["arousal"] = arousal_loss(outcome.arousal, batch["arousal"])
        for m, outputs in outcome.homo_outputs.items():
            k = MODALITIES.index(m)
            own = own_labels(batch, k)
            terms[f"task_own_{m}"] = task_loss(outputs, own, outcome.present[:, k], config)
        method = self.dmd.terms(outcome, batch, self._teach(batch))
        weights: dict[str, float] = {"arousal": config.arousal, **self.dmd.weights}
        if taught is not None:
            said = (outcome.outputs, outcome.arousal)
            method["teacher"] = teacher_loss(*said, taught, config.teacher_temperature)
            weights["teacher"] = config.lambda_teacher
        terms |= method
        total = torch.stack(
            [
                weights.get(name, config.unimodal if name.startswith("task_own") else 1.0) * term
                for name, term in terms.items()
            ]
        ).sum()
        return Losses(total, {name: term.detach() for name, term in terms.items()})

    @torch.no_grad()
    def _teach(self, batch: dict[str, Tensor]) -> Outcome | None:
        """What the teacher says of the utterances before parts of them were hidden."""
        if self.teacher is None:
            return None
        whole = {f"{m}_mask": batch.get(f"{m}_whole", batch[f"{m}_mask"]) for m in MODALITIES}
        told: Any = gather(self.teacher(share({**batch, **whole})))
        assert isinstance(told, Outcome)
        return told
