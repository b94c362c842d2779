"""DMD (Li et al., CVPR 2023) in its deployable form: what inference needs, and nothing else.

Heads, decoders and graph distillation that only training needs are in `train/losses.py`. Changes
against the paper are those of the project's edge variant: padding masks, no causal masks, pooled
summaries instead of flattened time, learned tokens for missing modalities, two tasks.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from runtime.features.spec import MODALITIES, SPEC

from ..config import ModelConfig
from .language import LanguageEncoder
from .layers import (
    AttentionPool,
    MaskedConv,
    Normalise,
    NormaliseAudio,
    NormaliseVision,
    Transformer,
    head,
)

__all__ = ["DMD", "Features"]

OTHERS = {"text": ("audio", "vision"), "audio": ("text", "vision"), "vision": ("text", "audio")}


@dataclass(frozen=True)
class Features:
    """All intermediate values of one forward pass; dictionaries are keyed by modality.

    `shallow` X~, `common` C, `private` P: (B, T_m, d) with `mask` (B, T_m). `homo` (B, d) and
    `hetero` (B, 2 d) are summaries; `outputs` (B, 1 + n_emotions) is the fused prediction,
    `homo_outputs` each modality's own; `weight` (B, 3) the fusion gate; `present` (B, 3) bool.
    """

    shallow: dict[str, Tensor]
    common: dict[str, Tensor]
    private: dict[str, Tensor]
    mask: dict[str, Tensor]
    homo: dict[str, Tensor]
    hetero: dict[str, Tensor]
    homo_outputs: dict[str, Tensor]
    outputs: Tensor
    weight: Tensor
    present: Tensor


class DMD(nn.Module):
    """The model that is exported. `temperature` calibrates the emotion probabilities."""

    temperature: Tensor

    def __init__(self, config: ModelConfig, language: LanguageEncoder, n_emotions: int) -> None:
        super().__init__()
        d, self.n_outputs = config.dim, 1 + n_emotions
        self.language = language
        self.normalise = nn.ModuleDict(
            {
                "audio": NormaliseAudio(),
                "vision": NormaliseVision(),
            }
        )
        self.project = nn.ModuleDict(
            {
                "text": MaskedConv(language.dim, d, config.kernel_text),
                "audio": MaskedConv(SPEC.audio_dim, d, config.kernel_audio, config.stride_audio),
                "vision": MaskedConv(
                    SPEC.vision_dim, d, config.kernel_vision, config.stride_vision
                ),
            }
        )
        self.missing = nn.ParameterDict(
            {m: nn.Parameter(0.02 * torch.randn(d)) for m in MODALITIES}
        )
        self.encode_common = nn.Linear(d, d, bias=False)  # 1x1 convolution, shared
        self.encode_private = nn.ModuleDict({m: nn.Linear(d, d, bias=False) for m in MODALITIES})

        def transformer(dim: int) -> Transformer:
            return Transformer(dim, config.n_heads, config.n_layers, config.dropout)

        self.self_common = nn.ModuleDict({m: transformer(d) for m in MODALITIES})
        self.crossmodal = nn.ModuleDict(
            {f"{source}_to_{m}": transformer(d) for m in MODALITIES for source in OTHERS[m]}
        )
        self.memory = nn.ModuleDict({m: transformer(2 * d) for m in MODALITIES})
        self.pool_homo = nn.ModuleDict({m: AttentionPool(d) for m in MODALITIES})
        self.pool_hetero = nn.ModuleDict({m: AttentionPool(2 * d) for m in MODALITIES})
        self.homo_heads = nn.ModuleDict(
            {m: head(d, self.n_outputs, config.dropout_head) for m in MODALITIES}
        )
        self.gate = nn.ModuleDict({m: nn.Linear(3 * d, 1) for m in MODALITIES})
        self.fuse = nn.Sequential(
            nn.Linear(9 * d, 3 * d), nn.ReLU(), nn.Dropout(config.dropout_head)
        )
        self.fuse_skip = nn.Linear(9 * d, 3 * d)
        self.fused_head = head(3 * d, self.n_outputs, config.dropout_head)
        self.register_buffer("temperature", torch.ones(()))

    def forward(self, batch: dict[str, Tensor]) -> Features:
        """Decouple, reinforce, summarise and fuse one batch.

        `batch`: `input_ids` (B, Tt) int64, `audio` (B, Ta, 43), `vision` (B, Tv, 59) float32 and
        `text_mask`, `audio_mask`, `vision_mask` (B, T) bool, all false where a modality is absent.
        """
        shallow, mask, present = self._shallow(batch)
        common = {m: self.encode_common(shallow[m]) for m in MODALITIES}
        private = {m: self.encode_private[m](shallow[m]) for m in MODALITIES}
        homo = {
            m: self.pool_homo[m](self.self_common[m](common[m], None, mask[m]), mask[m])
            for m in MODALITIES
        }
        hetero = {m: self._reinforce(m, private, mask) for m in MODALITIES}
        summary = {m: torch.cat([hetero[m], homo[m]], dim=-1) for m in MODALITIES}  # (B, 3 d)
        scores = torch.cat([self.gate[m](summary[m]) for m in MODALITIES], dim=1)
        # An utterance with nothing at all still needs a finite answer: all weights are then 0.
        weight = scores.masked_fill(~present, -1e9).softmax(dim=1) * present
        gated = torch.cat(
            [3.0 * weight[:, k : k + 1] * summary[m] for k, m in enumerate(MODALITIES)], dim=-1
        )
        return Features(
            shallow=shallow,
            common=common,
            private=private,
            mask=mask,
            homo=homo,
            hetero=hetero,
            homo_outputs={m: self.homo_heads[m](homo[m]) for m in MODALITIES},
            outputs=self.fused_head(self.fuse(gated) + self.fuse_skip(gated)),
            weight=weight,
            present=present,
        )

    def predict(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The graph outputs of the contract.

        `sentiment` (B,) in [-3, 3], `emotion` (B, n_emotions) calibrated probabilities,
        `modality_sentiment` (B, 3) in [-3, 3] and `modality_weight` (B, 3), both 0 where absent.
        """
        features = self(batch)
        own = torch.stack([features.homo_outputs[m][:, 0] for m in MODALITIES], dim=1)
        return (
            features.outputs[:, 0].clamp(-3.0, 3.0),
            (features.outputs[:, 1:] / self.temperature).softmax(dim=-1),
            own.clamp(-3.0, 3.0) * features.present,
            features.weight,
        )

    def fit_normalisation(self, batch: dict[str, Tensor]) -> None:
        """Set the statistics of raw rows from a batch of training utterances."""
        for m in ("audio", "vision"):
            valid = batch[f"{m}_mask"]
            if m == "vision":
                valid = valid & (batch[m][..., -1] > 0)
            normalise = cast(Normalise, self.normalise[m])
            rows = normalise.prepare(batch[m], batch[f"{m}_mask"])[valid]
            normalise.mean.copy_(rows.mean(dim=0))
            normalise.std.copy_(rows.std(dim=0).clamp(min=1e-3))

    def _shallow(
        self, batch: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        """X~ and masks; an absent modality becomes one learned token."""
        rows: dict[str, Tensor] = {
            "text": self.language(batch["input_ids"], _first_on(batch["text_mask"])),
            "audio": self.normalise["audio"](batch["audio"], batch["audio_mask"]),
            "vision": self.normalise["vision"](batch["vision"], batch["vision_mask"]),
        }
        shallow, masks, present = {}, {}, []
        for m in MODALITIES:
            x, mask = self.project[m](rows[m], batch[f"{m}_mask"])
            here = mask.any(dim=1)
            x = torch.where(here[:, None, None], x, self.missing[m])
            shallow[m], masks[m] = x, _first_on(mask)
            present.append(here)
        return shallow, masks, torch.stack(present, dim=1)

    def _reinforce(self, m: str, private: dict[str, Any], mask: dict[str, Any]) -> Tensor:
        """Private rows of `m` attend to both other modalities; summary (B, 2 d) (paper eq. 8)."""
        crossed = [
            self.crossmodal[f"{source}_to_{m}"](private[m], private[source], mask[source])
            for source in OTHERS[m]
        ]
        return self.pool_hetero[m](
            self.memory[m](torch.cat(crossed, dim=-1), None, mask[m]), mask[m]
        )


def _first_on(mask: Tensor) -> Tensor:
    """`mask` (B, T) with the first position switched on where a sample has none."""
    first = torch.arange(mask.shape[1], device=mask.device) == 0
    return mask | (first & ~mask.any(dim=1, keepdim=True))
