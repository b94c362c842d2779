"""DMD (Li et al., CVPR 2023): what inference needs, and nothing else.

Heads, decoders and graph distillation that only training needs are in `train/losses.py`. By
default this is the deployable form: padding masks, no causal masks, pooled summaries instead of
flattened time, learned tokens for missing modalities, two tasks. The options of `ModelConfig`
switch each of these to what the published code does (`configs/paper_*.toml`).
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from runtime.features.spec import MODALITIES

from ..config import ModelConfig
from . import parts
from .inputs import Inputs
from .language import LanguageEncoder
from .layers import Head

__all__ = ["DMD", "OTHERS", "Features"]

# The modalities that each one attends to, in the order of the memory's input (paper, fig. 3).
OTHERS = {"text": ("audio", "vision"), "audio": ("text", "vision"), "vision": ("text", "audio")}


@dataclass(frozen=True)
class Features:
    """All intermediate values of one forward pass; dictionaries are keyed by modality.

    `shallow` X~, `common` C, `private` P: (B, T_m, d) with `mask` (B, T_m); `reinforced`
    (B, T_m, 2 d): P after the crossmodal transformers. `homo` (B, d) and `hetero` (B, 2 d) are
    summaries; `outputs` (B, 1 + n_emotions) is the fused prediction,
    `arousal` (B,) the fused arousal before tanh, `homo_outputs` each modality's own, `homo_repr`
    (B, d) what its head makes of it; `weight` (B, 3) the fusion gate; `present` (B, 3) bool.
    """

    shallow: dict[str, Tensor]
    common: dict[str, Tensor]
    private: dict[str, Tensor]
    reinforced: dict[str, Tensor]
    mask: dict[str, Tensor]
    homo: dict[str, Tensor]
    hetero: dict[str, Tensor]
    homo_outputs: dict[str, Tensor]
    homo_repr: dict[str, Tensor]
    outputs: Tensor
    arousal: Tensor
    weight: Tensor
    present: Tensor


class DMD(Inputs):
    """The model that is exported. Its emotions are logits of a world where all are equally common;
    temperatures and the prior are applied beside the graph (`runtime/judging/calibration.py`).

    `language` is None where a data set brings ready text vectors (`ModelConfig.text_dim`).
    """

    def __init__(
        self, config: ModelConfig, language: LanguageEncoder | None, n_emotions: int
    ) -> None:
        super().__init__(config, language, n_emotions)
        d = config.dim
        self.encode_common = nn.Linear(d, d, bias=False)  # 1x1 convolution, shared
        self.encode_private = nn.ModuleDict({m: nn.Linear(d, d, bias=False) for m in MODALITIES})
        if config.orthogonal:
            for encoder in (self.encode_common, *self.encode_private.values()):
                nn.init.orthogonal_(cast(nn.Linear, encoder).weight)
        self.self_common = nn.ModuleDict({m: parts.transformer(config, d, m) for m in MODALITIES})
        self.crossmodal = nn.ModuleDict(
            {
                f"{source}_to_{m}": parts.transformer(config, d, source)
                for m in MODALITIES
                for source in OTHERS[m]
            }
        )
        self.memory = nn.ModuleDict(
            {m: parts.transformer(config, 2 * d, "text") for m in MODALITIES}
        )
        self.pool_homo = nn.ModuleDict({m: parts.summary(config, d) for m in MODALITIES})
        self.pool_hetero = nn.ModuleDict({m: parts.summary(config, 2 * d) for m in MODALITIES})
        widths = parts.flattened(config)
        self.flatten = widths is not None
        self._last = config.summary == "last" and not config.masked
        self.homo_heads = nn.ModuleDict(
            {
                m: Head(widths[m] if widths else d, self.n_outputs, config.dropout_head, d)
                for m in MODALITIES
            }
        )
        self.fusion = parts.fusion(config)
        self.fused_head = Head(self.fusion.dim, self.n_outputs, config.dropout_head)
        if n_emotions:  # what has emotions has arousal too; MOSI's models have neither
            self.arousal_head = nn.Linear(self.fusion.dim, 1)

    def forward(self, batch: dict[str, Tensor]) -> Features:
        """Decouple, reinforce, summarise and fuse one batch.

        `batch`: `input_ids` (B, Tt) int64 or `text` (B, Tt, Dt), `audio` (B, Ta, Da), `vision`
        (B, Tv, Dv) float32 and `text_mask`, `audio_mask`, `vision_mask` (B, T) bool, all false
        where a modality is absent.
        """
        shallow, mask, present = self.shallow(batch)
        common, private = shallow, shallow
        if self.config.decoupled:
            common = {m: self.encode_common(shallow[m]) for m in MODALITIES}
            private = {m: self.encode_private[m](shallow[m]) for m in MODALITIES}
        homo = {
            m: self._summarise(
                self.pool_homo[m], self._attend(self.self_common[m], common[m], mask[m]), mask[m]
            )
            for m in MODALITIES
        }
        reinforced = {m: self._reinforce(m, private, mask) for m in MODALITIES}
        hetero = {
            m: self._summarise(self.pool_hetero[m], reinforced[m], mask[m]) for m in MODALITIES
        }
        homo_heads = {
            m: self.homo_heads[m](common[m].flatten(1) if self.flatten else homo[m])
            for m in MODALITIES
        }
        if not self.config.common_branch:
            homo = {m: torch.zeros_like(homo[m]) for m in MODALITIES}
        fused, weight = self.fusion(hetero, homo, present)
        outputs, _, refined = self.fused_head(fused)
        arousal = self.arousal_head(refined) if self.n_outputs > 1 else 0.0 * outputs[:, :1]
        return Features(
            shallow=shallow,
            common=common,
            private=private,
            reinforced=reinforced,
            mask=mask,
            homo=homo,
            hetero=hetero,
            homo_outputs={m: homo_heads[m][0] for m in MODALITIES},
            homo_repr={m: homo_heads[m][1] for m in MODALITIES},
            outputs=outputs,
            arousal=arousal.squeeze(-1),
            weight=weight,
            present=present,
        )

    def _reinforce(self, m: str, private: dict[str, Any], mask: dict[str, Any]) -> Tensor:
        """Private rows of `m` attend to both other modalities: (B, T, 2 d) (paper eq. 8)."""
        crossed = [
            self.crossmodal[f"{source}_to_{m}"](private[m], private[source], mask[source])
            for source in OTHERS[m]
        ]
        return self._attend(self.memory[m], torch.cat(crossed, dim=-1), mask[m])

    def _attend(self, transformer: nn.Module, rows: Tensor, mask: Tensor) -> Tensor:
        """Self-attention; (B, T, dim) -> the same, or the last step (B, 1, dim) if it is all that
        the summary reads."""
        if self._last:
            return cast(Tensor, transformer(rows, None, mask, last=True))
        return cast(Tensor, transformer(rows, None, mask))

    def _summarise(self, pool: nn.Module, rows: Tensor, mask: Tensor) -> Tensor:
        """The summary over time; (B, T, dim) -> (B, dim)."""
        return rows[:, -1] if self._last else cast(Tensor, pool(rows, mask))
