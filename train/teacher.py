"""A trained DMD that teaches another one by soft targets."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from runtime.features.text import TextFeatures

from . import checkpoint
from .data.utterance import Utterance, collate

__all__ = ["Teacher"]


class Teacher:
    """A checkpoint, frozen. Its word pieces may differ from the student's: it reads the words."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._model = checkpoint.load(folder).model.to(device)
        self._device = device
        tokenizer = folder / "tokenizer.json"
        self._text = TextFeatures(tokenizer) if tokenizer.exists() else None

    @torch.no_grad()
    def __call__(self, utterances: Sequence[Utterance]) -> Tensor:
        """Fused outputs (B, 1 + n_emotions) on utterances that miss nothing."""
        batch = collate([self._retold(utterance) for utterance in utterances])
        return self._model({n: t.to(self._device) for n, t in batch.items()}).outputs

    def read(self, sentences: Sequence[str]) -> list[Utterance]:
        """Utterances of text alone."""
        config = self._model.config
        return [
            Utterance(
                text=np.zeros(0, np.int64),
                words=sentence,
                audio=np.zeros((0, config.audio_dim), np.float32),
                vision=np.zeros((0, config.vision_dim), np.float32),
                emotion=-1,
                sentiment=float("nan"),
            )
            for sentence in sentences
        ]

    def _retold(self, utterance: Utterance) -> Utterance:
        if self._text is None or not utterance.words:
            return utterance
        return replace(utterance, text=self._text.ids(utterance.words))
