"""MISA (Hazarika, Zimmermann, Poria; ACM Multimedia 2020), as its public code has it.

Source: github.com/declare-lab/MISA. For modality m with utterance vector u_m (section 3.3):

| Step | Equation |
| --- | --- |
| utterance vectors | words: mean over time; the rest: last states of two stacked biLSTMs |
| projection | x_m = LayerNorm(ReLU(W_m u_m)) |
| subspaces | h^c_m = sigmoid(W_c x_m), shared by all; h^p_m = sigmoid(W_p,m x_m) |
| fusion | six vectors through one transformer layer, concatenated, two linear layers |
| similarity | L_sim = 1/3 sum over pairs of CMD_5(h^c_a, h^c_b) (eq. 8, 9) |
| difference | L_diff = sum_m ||H^c_m' H^p_m||^2 + sum over pairs ||H^p_a' H^p_b||^2, rows centred and of length 1 (eq. 10, 11; the public code takes means) |
| reconstruction | L_recon = 1/3 sum_m MSE(x_m, D_m(h^c_m + h^p_m)) (eq. 12) |
| total | L_task + 1.0 L_sim + 0.3 L_diff + 1.0 L_recon |

CMD_5 is the central moment discrepancy of Zellinger et al. 2017 up to the fifth moment. A missing
modality is a learned vector in place of x_m, and takes no part in the losses; MISA has no answer of
its own. Rows that the DMD's convolutions skip by their stride are skipped here too.
"""  # noqa: E501

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from runtime.features.spec import MODALITIES

from ...config import ModelConfig
from ..language import LanguageEncoder
from ..layers import Dropout
from .base import Comparator, Outcome, equal_weight

__all__ = ["MISA", "central_moments", "difference"]

_ORDER = ("text", "vision", "audio")  # of the six vectors, as in the public code
_PAIRS = (("text", "vision"), ("text", "audio"), ("audio", "vision"))
_N_MOMENTS = 5
_FEED_FORWARD = 2048  # torch's default, which the public code leaves


class MISA(Comparator):
    """Two subspaces for each modality, kept apart and together by losses, and fused."""

    weights: ClassVar[Mapping[str, float]] = {
        "similarity": 1.0,
        "difference": 0.3,
        "reconstruction": 1.0,
    }

    def __init__(
        self, config: ModelConfig, language: LanguageEncoder | None, n_emotions: int
    ) -> None:
        super().__init__(config, language, n_emotions)
        d = config.dim
        del self.project  # rows go into the LSTMs as they are
        self.recurrent = nn.ModuleDict(
            {
                m: _Recurrent(width)
                for m, width in (("audio", config.audio_dim), ("vision", config.vision_dim))
            }
        )
        widths = {
            "text": config.text_dim if language is None else language.dim,
            "audio": 4 * config.audio_dim,
            "vision": 4 * config.vision_dim,
        }
        self.projection = nn.ModuleDict(
            {
                m: nn.Sequential(nn.Linear(widths[m], d), nn.ReLU(), nn.LayerNorm(d))
                for m in MODALITIES
            }
        )
        self.private = nn.ModuleDict({m: nn.Linear(d, d) for m in MODALITIES})
        self.shared = nn.Linear(d, d)
        self.reconstruct = nn.ModuleDict({m: nn.Linear(d, d) for m in MODALITIES})
        self.attend = nn.TransformerEncoderLayer(d, 2, _FEED_FORWARD, 0.1, batch_first=True)
        self.hidden = nn.Sequential(
            nn.Linear(6 * d, 3 * d), Dropout(config.dropout_head), nn.ReLU()
        )
        self.out = nn.Linear(3 * d, self.n_outputs)
        if n_emotions:
            self.arousal = nn.Linear(3 * d, 1)

    def forward(self, batch: dict[str, Tensor]) -> Outcome:
        """Utterance vectors, their two parts, and the prediction."""
        present = torch.stack([batch[f"{m}_mask"].any(dim=1) for m in MODALITIES], dim=1)
        original, private, shared = {}, {}, {}
        for k, m in enumerate(MODALITIES):
            x = self.projection[m](self._utterance(m, batch))
            if self.config.masked:
                x = torch.where(present[:, k, None], x, self.missing[m])
            original[m] = x
            private[m], shared[m] = self.private[m](x).sigmoid(), self.shared(x).sigmoid()
        six = torch.stack([private[m] for m in _ORDER] + [shared[m] for m in _ORDER], dim=1)
        hidden = self.hidden(self.attend(six).flatten(1))
        outputs = self.out(hidden)
        parts = {f"original_{m}": x for m, x in original.items()}
        parts |= {f"private_{m}": x for m, x in private.items()}
        parts |= {f"shared_{m}": x for m, x in shared.items()}
        parts |= {f"again_{m}": self.reconstruct[m](private[m] + shared[m]) for m in MODALITIES}
        return Outcome(
            outputs=outputs,
            arousal=(self.arousal(hidden) if self.n_outputs > 1 else 0.0 * outputs[:, :1]).squeeze(
                -1
            ),
            homo_outputs={},
            weight=equal_weight(present),
            present=present,
            parts=parts,
        )

    def terms(
        self, outcome: Outcome, batch: dict[str, Tensor], taught: Outcome | None
    ) -> dict[str, Tensor]:
        """Similarity, difference and reconstruction, each over the samples that have what it is
        about."""
        part, here = outcome.parts, dict(zip(MODALITIES, outcome.present.T, strict=True))
        both = {pair: here[pair[0]] & here[pair[1]] for pair in _PAIRS}
        similarity = [
            central_moments(part[f"shared_{a}"][on], part[f"shared_{b}"][on])
            for (a, b), on in both.items()
        ]
        apart = [
            difference(part[f"private_{m}"][here[m]], part[f"shared_{m}"][here[m]])
            for m in MODALITIES
        ]
        apart += [
            difference(part[f"private_{a}"][on], part[f"private_{b}"][on])
            for (a, b), on in both.items()
        ]
        again = [
            _mean((part[f"again_{m}"] - part[f"original_{m}"])[here[m]] ** 2) for m in MODALITIES
        ]
        return {
            "similarity": torch.stack(similarity).sum() / 3.0,
            "difference": torch.stack(apart).sum(),
            "reconstruction": torch.stack(again).sum() / 3.0,
        }

    def _utterance(self, m: str, batch: dict[str, Tensor]) -> Tensor:
        """(B, width) one vector of a modality."""
        rows, mask = self.rows(m, batch), batch[f"{m}_mask"]
        if m == "text":
            total = mask.sum(dim=1, keepdim=True).clamp(min=1)
            return (rows * mask[..., None]).sum(dim=1) / total
        stride = self.config.stride_audio if m == "audio" else self.config.stride_vision
        found: Tensor = self.recurrent[m](rows[:, ::stride], mask[:, ::stride])
        return found


class _Recurrent(nn.Module):
    """Two bidirectional LSTMs with a layer norm between; (B, T, width) -> (B, 4 width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.LSTM(width, width, bidirectional=True, batch_first=True)
        self.second = nn.LSTM(2 * width, width, bidirectional=True, batch_first=True)
        self.norm = nn.LayerNorm(2 * width)

    def forward(self, rows: Tensor, mask: Tensor) -> Tensor:
        """Last states of both, forwards and backwards, up to the last row that is on; rows that are
        off before it count as 0."""
        rows = rows * mask[..., None]
        at = torch.arange(1, mask.shape[1] + 1, device=mask.device)
        lengths = (mask * at).amax(dim=1).clamp(min=1).cpu()
        options: Any = {"batch_first": True, "enforce_sorted": False}
        packed, (one, _) = self.first(pack_padded_sequence(rows, lengths, **options))
        padded, _ = pad_packed_sequence(packed, batch_first=True)
        _, (two, _) = self.second(pack_padded_sequence(self.norm(padded), lengths, **options))
        return torch.cat([one, two], dim=2).transpose(0, 1).flatten(1)


def central_moments(a: Tensor, b: Tensor) -> Tensor:
    """Central moment discrepancy of two samples (n, d): distance of the means plus the distances of
    the second to fifth central moments; 0 of less than two."""
    if len(a) < 2:
        return a.new_zeros(())
    mean_a, mean_b = a.mean(dim=0), b.mean(dim=0)
    total = torch.linalg.vector_norm(mean_a - mean_b)
    for k in range(2, _N_MOMENTS + 1):
        moment_a, moment_b = ((a - mean_a) ** k).mean(dim=0), ((b - mean_b) ** k).mean(dim=0)
        total = total + torch.linalg.vector_norm(moment_a - moment_b)
    return total


def difference(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared product of the columns of `a` and `b` (n, d), rows centred and of length 1; 0 of
    less than two."""
    if len(a) < 2:
        return a.new_zeros(())
    a, b = (_unit(x - x.mean(dim=0)) for x in (a, b))
    return ((a.T @ b) ** 2).mean()


def _unit(rows: Tensor) -> Tensor:
    return rows / (rows.norm(dim=1, keepdim=True).detach() + 1e-6)


def _mean(values: Tensor) -> Tensor:
    return values.sum() / max(1, values.numel())
