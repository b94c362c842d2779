"""A trained DMD that teaches another one by soft targets."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from runtime.features.text import TextFeatures

from . import checkpoint
from .data.utterance import Utterance, collate
from .loop import batched

__all__ = ["Teacher"]


class Teacher:
    """A checkpoint, frozen. Its word pieces may differ from the student's: it reads the words."""

    def __init__(self, folder: Path, device: torch.device, precision: str = "fp32") -> None:
        source = checkpoint.load(folder)
        self.model, self.calibration = source.model.to(device), source.calibration
        self._device, self._low = device, precision == "bf16"
        tokenizer = folder / "tokenizer.json"
        self._text = TextFeatures(tokenizer) if tokenizer.exists() else None
        self._told: dict[str, Tensor] = {}

    def __call__(self, utterances: Sequence[Utterance]) -> Tensor:
        """Fused outputs (B, 1 + n_emotions) on utterances that miss nothing."""
        alone = all(not len(u.audio) and not len(u.vision) for u in utterances)
        if alone and all(u.words in self._told for u in utterances):
            return torch.stack([self._told[u.words] for u in utterances])
        return self._outputs(utterances)

    def remember(self, sentences: Sequence[Utterance], path: Path) -> None:
        """Read all training sentences once, so that no later epoch has to. `path` keeps the outputs
        for a run that goes on after an interruption."""
        if not path.exists():
            parts = tqdm(list(batched(sentences, 64)), desc="the teacher reads", unit="batch")
            partial = path.with_suffix(f".{os.getpid()}.partial")
            save_file(
                {"outputs": torch.cat([self._outputs(part).cpu() for part in parts])}, partial
            )
            os.replace(partial, path)
        outputs = load_file(path)["outputs"].to(self._device)
        self._told = {u.words: row for u, row in zip(sentences, outputs, strict=True)}

    @torch.no_grad()
    def _outputs(self, utterances: Sequence[Utterance]) -> Tensor:
        batch = collate([self.retold(utterance) for utterance in utterances])
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._low):
            outputs = self.model({n: t.to(self._device) for n, t in batch.items()}).outputs
        return outputs.float()

    def read(self, sentences: Sequence[str]) -> list[Utterance]:
        """Utterances of text alone."""
        config = self.model.config
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

    def retold(self, utterance: Utterance) -> Utterance:
        """The utterance with its words in the teacher's own pieces."""
        if self._text is None or not utterance.words:
            return utterance
        return replace(utterance, text=self._text.ids(utterance.words))
