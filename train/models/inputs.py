"""From raw rows to X~: what the DMD and the models that it is compared with have in common."""

from typing import Any, cast

import torch
from torch import Tensor, nn

from runtime.features.spec import MODALITIES, SPEC

from ..config import ModelConfig
from . import parts
from .front import Normalise, NormaliseVision
from .language import LanguageEncoder
from .layers import Dropout

__all__ = ["Inputs"]

_STILL = 1e-6  # deviation of a column of numbers that are all the same


class Inputs(nn.Module):
    """Encoded words and standardised rows, brought to the common width; a missing modality.

    `language` is None where a data set brings ready text vectors (`ModelConfig.text_dim`). What
    `forward` returns has the fields that `predict` reads.
    """

    def __init__(
        self, config: ModelConfig, language: LanguageEncoder | None, n_emotions: int
    ) -> None:
        super().__init__()
        self.config, self.n_outputs = config, 1 + n_emotions
        # The order of these lines is that of the random numbers and of the checkpoint's tensors.
        self.language = language
        self.normalise = parts.normalisation(config)
        self.dropout_text = Dropout(config.dropout_text)
        self.project = parts.projections(config, None if language is None else language.dim)
        self.statistics = parts.statistics(config)
        self.embedding = parts.embedding(config)
        if config.masked:
            self.missing = nn.ParameterDict(
                {m: nn.Parameter(0.02 * torch.randn(config.dim)) for m in MODALITIES}
            )

    def predict(
        self, batch: dict[str, Tensor], *, clipped: bool = True
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The graph outputs of the contract; without `clipped`, sentiments may leave [-3, 3].

        `sentiment` (B,) in [-3, 3], `emotion` (B, n_emotions) balanced logits, `arousal` (B,) in
        [-1, 1], `modality_sentiment` (B, 3) in [-3, 3] and `modality_weight` (B, 3), both 0 where
        absent.
        """
        features: Any = self(batch)
        said = features.homo_outputs  # what it says of a modality alone; 0 of those it is silent on
        own = torch.stack(
            [
                said[m][:, 0] if m in said else torch.zeros_like(features.outputs[:, 0])
                for m in MODALITIES
            ],
            dim=1,
        )
        bound = 3.0 if clipped else float("inf")
        return (
            features.outputs[:, 0].clamp(-bound, bound),
            features.outputs[:, 1:],
            features.arousal.tanh(),
            own.clamp(-bound, bound) * features.present,
            features.weight,
        )

    def fit_normalisation(self, batch: dict[str, Tensor]) -> None:
        """Set the statistics of raw rows from a batch of training utterances."""
        for m in self.normalise:
            normalise = cast(Normalise, self.normalise[m])
            valid = batch[f"{m}_mask"]
            if isinstance(normalise, NormaliseVision):
                valid = valid & (batch[m][..., -1] > 0)
            _fit(normalise, normalise.prepare(batch[m], batch[f"{m}_mask"])[valid])
        if self.statistics is not None:
            of_all = self.statistics.prepare(*self._voice(batch))
            _fit(self.statistics.normalise, of_all[batch["audio_mask"].any(dim=1)])
        if self.embedding is not None:
            known = (batch["audio_embedding"] != 0).any(dim=1)
            _fit(self.embedding.normalise, batch["audio_embedding"][known])

    def shallow(
        self, batch: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        """X~ and masks; an absent modality becomes one learned token (masked) or zeros."""
        present = torch.stack([batch[f"{m}_mask"].any(dim=1) for m in MODALITIES], dim=1)
        shallow, masks = {}, {}
        for k, m in enumerate(MODALITIES):
            here, mask = present[:, k, None, None], batch[f"{m}_mask"]
            if not self.config.masked:
                mask = here[..., 0].expand_as(mask)  # padding is data
            x, mask = self.project[m](self.rows(m, batch), mask)
            if m == "audio" and self.statistics is not None:
                x = x + self.statistics(*self._voice(batch))[:, None]
            if m == "audio" and self.embedding is not None:
                x = x + self.embedding(batch["audio_embedding"])[:, None]
            if self.config.masked:
                x = torch.where(here, x, self.missing[m])
            shallow[m], masks[m] = x, _first_on(mask) if self.config.masked else mask | True
        return shallow, masks, present

    def rows(self, m: str, batch: dict[str, Tensor]) -> Tensor:
        """Raw rows of a modality (B, T, dim): encoded words, or standardised features."""
        if m != "text":
            rows, mask = batch[m], batch[f"{m}_mask"]
            return self.normalise[m](rows, mask) if m in self.normalise else rows
        if self.language is None:
            return self.dropout_text(batch["text"])
        mask = batch["text_mask"]
        if not self.config.masked:
            mask = mask & (batch["input_ids"] != 0)  # BERT's [PAD], the only padding masked
        return self.dropout_text(self.language(batch["input_ids"], _first_on(mask)))

    def _voice(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Standardised audio rows (B, Ta, 43), their mask, and which of them are voiced."""
        voicing = batch["audio"][..., SPEC.n_mels + 1]
        return self.rows("audio", batch), batch["audio_mask"], voicing >= SPEC.voicing_threshold


def _fit(normalise: Normalise, rows: Tensor) -> None:
    """Take the statistics of rows (n, dim); none, where nobody is heard or seen in a data set."""
    if len(rows):
        normalise.mean.copy_(rows.mean(dim=0))
        std = rows.std(dim=0)
        # A column that never moves has taught nothing: what it is on a device must not count.
        normalise.std.copy_(torch.where(std < _STILL, 1e6, std.clamp(min=1e-3)))


def _first_on(mask: Tensor) -> Tensor:
    """`mask` (B, T) with the first position switched on where a sample has none."""
    first = torch.arange(mask.shape[1], device=mask.device) == 0
    return mask | (first & ~mask.any(dim=1, keepdim=True))
