"""The language branch: the first layers of a pretrained BERT-like encoder."""

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from runtime.errors import ModelError
from runtime.store import models as store

__all__ = ["FrozenLanguage", "LanguageEncoder", "load_frozen", "load_pretrained", "locate"]


class LanguageEncoder(nn.Module):
    """Word pieces -> contextual vectors. `dim` is the encoder's hidden size."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        if hasattr(encoder, "pooler"):
            encoder.pooler = None  # summarises [CLS]; the model pools by itself
        self.encoder = encoder
        self.dim = int(encoder.config.hidden_size)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "LanguageEncoder":
        """Untrained encoder of the architecture that `architecture()` described."""
        from transformers import AutoConfig, AutoModel

        config = dict(config)
        built = AutoConfig.for_model(config.pop("model_type"), **config)
        return cls(AutoModel.from_config(built, attn_implementation="eager"))

    def architecture(self) -> dict[str, Any]:
        """What `from_config` needs, as plain JSON."""
        return dict(self.encoder.config.to_diff_dict())

    def forward(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """(B, T) int64, (B, T) bool with at least one true a sample -> (B, T, dim)."""
        out = self.encoder(input_ids=input_ids, attention_mask=mask.long())
        return out.last_hidden_state


class FrozenLanguage(LanguageEncoder):
    """An encoder that does not learn, and so need read each sentence only once: what it made of one
    is kept (some 25 kB a sentence of MiniLM's width)."""

    def __init__(self, encoder: Any) -> None:
        super().__init__(encoder)
        self._known: dict[bytes, Tensor] = {}

    def train(self, mode: bool = True) -> "FrozenLanguage":
        """Stays in evaluation: without dropout, a sentence is always read alike."""
        super().train(False)
        return self

    @torch.no_grad()
    def forward(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """As `LanguageEncoder`, but masked pieces are left out before; their rows are 0."""
        sentences = [row[here] for row, here in zip(input_ids, mask, strict=True)]
        keys = [sentence.cpu().numpy().tobytes() for sentence in sentences]
        new = [k for k, key in enumerate(keys) if key not in self._known]
        if new:
            ids = pad_sequence([sentences[k] for k in new], batch_first=True)
            lengths = torch.tensor([len(sentences[k]) for k in new], device=ids.device)
            valid = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
            for k, rows in zip(new, super().forward(ids, valid), strict=True):
                self._known[keys[k]] = rows[: len(sentences[k])].clone()
        out = torch.zeros((*input_ids.shape, self.dim), device=input_ids.device)
        out[mask] = torch.cat([self._known[key] for key in keys])
        return out


def locate(name: str) -> str:
    """Folder of a part of the model store, or the name itself (folder or Hugging Face name)."""
    in_store = any(part.name == name for part in store.PARTS)
    return str(store.resolve(name)) if in_store else name


@lru_cache(maxsize=1)
def load_frozen(name: str, n_layers: int) -> FrozenLanguage:
    """As `load_pretrained`; all that ask for the same encoder share it, and what it has read."""
    loaded = load_pretrained(name, n_layers, freeze_words=True, n_trained=0)
    return FrozenLanguage(loaded.encoder).eval()


def load_pretrained(
    name: str, n_layers: int, *, freeze_words: bool, n_trained: int = -1
) -> LanguageEncoder:
    """Pretrained weights from the model store, a local folder or the Hugging Face hub.

    Keeps the first `n_layers` layers (0: all), of which the upper `n_trained` learn and the rest,
    embeddings included, are frozen (-1: all learn). Raises ModelError when it cannot be loaded.
    """
    from transformers import AutoModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    folder = locate(name)
    try:
        encoder = AutoModel.from_pretrained(
            folder,
            attn_implementation="eager",
            dtype=torch.float32,
            local_files_only=Path(folder).is_dir() or os.environ.get("HF_HUB_OFFLINE") == "1",
            trust_remote_code=False,
            use_safetensors=True,
        )
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(
            f"language encoder {name!r} cannot be loaded ({reason}); name a part of the model "
            "store, a folder with config.json and model.safetensors, or a Hugging Face model"
        ) from error
    stack = encoder.transformer if hasattr(encoder, "transformer") else encoder.encoder
    if n_layers:
        if n_layers > encoder.config.num_hidden_layers:
            has = encoder.config.num_hidden_layers
            raise ModelError(
                f"language encoder {name!r} has {has} layers; {n_layers} were asked for"
            )
        stack.layer = stack.layer[:n_layers]
        encoder.config.num_hidden_layers = n_layers
    if n_trained >= 0:
        # What all layers share (MPNet's position bias) is frozen too: its gradient needs them all.
        encoder.requires_grad_(False)
        for layer in stack.layer[len(stack.layer) - min(n_trained, len(stack.layer)) :]:
            layer.requires_grad_(True)
    if freeze_words:
        encoder.get_input_embeddings().weight.requires_grad_(False)
    return LanguageEncoder(encoder)
