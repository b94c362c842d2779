"""The language branch: the first layers of a pretrained BERT-like encoder."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from runtime import models as store
from runtime.errors import ModelError

__all__ = ["LanguageEncoder", "load_pretrained", "locate"]


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


def locate(name: str) -> str:
    """Folder of a part of the model store, or the name itself (folder or Hugging Face name)."""
    in_store = any(part.name == name for part in store.PARTS)
    return str(store.resolve(name)) if in_store else name


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
            raise ModelError(f"language encoder {name!r} has {has} layers, {n_layers} asked for")
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
