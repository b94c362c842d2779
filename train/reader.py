"""What an encoder makes of sentences, word by word, so that two of them can be compared."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from runtime.errors import ModelError
from runtime.features.embedding import EMBEDDING_DIM
from runtime.features.spec import SPEC
from runtime.features.text import normalise

from .models.dmd import DMD
from .models.language import LanguageEncoder

__all__ = ["Reader", "Sight", "readable"]

_QUERIES = ("attention.self.query", "attention.attn.q")  # BERT, MPNet


@dataclass(frozen=True)
class Sight:
    """What an encoder makes of a batch of sentences, by word; (B, W, ...) with `mask` (B, W).

    `embeddings`, `hidden` (B, W, dim); `relations`: queries, keys, values of one layer; `sentence`
    (B, dim): the mean over words; `soft` (B, n_emotions): a DMD's logits, or none.
    """

    embeddings: Tensor
    hidden: Tensor
    relations: tuple[Tensor, Tensor, Tensor]
    sentence: Tensor
    soft: Tensor
    mask: Tensor


class Reader:
    """An encoder with its tokenizer, by itself or as the language branch of a DMD, which then says
    what it makes of the sentences. `layer`: whose queries, keys and values are watched."""

    def __init__(
        self,
        source: LanguageEncoder | DMD,
        tokenizer_json: Path,
        *,
        layer: int = -1,
        precision: str = "fp32",
    ) -> None:
        language = source.language if isinstance(source, DMD) else source
        assert language is not None
        self.source, self.language, self._low = source, language, precision == "bf16"
        self._tokenizer = Tokenizer.from_file(str(tokenizer_json))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        modules = dict(language.named_modules())
        queries = [name for name in modules if name.endswith(_QUERIES)]
        if not queries:
            raise ModelError("only BERT-like and MPNet-like encoders can be distilled")
        stem, last = queries[layer].rsplit(".", 1)
        names = ("q", "k", "v") if last == "q" else ("query", "key", "value")
        encoder = language.encoder
        self._watched = [
            encoder.embeddings,
            encoder,
            *(modules[f"{stem}.{name}"] for name in names),
        ]

    def __call__(self, sentences: Sequence[str]) -> Sight:
        """Read a batch; the gradient flows as the caller's context says."""
        told = [self._tokenizer.encode(normalise(text)) for text in sentences]
        words = max(1, max((max((w for w in e.word_ids if w is not None), default=-1) + 1)
                           for e in told))  # fmt: skip
        length = max(len(e.ids) for e in told)
        ids = torch.zeros(len(told), length, dtype=torch.int64)
        spread = torch.zeros(len(told), words, length)  # (B, W, T): 1 where a piece is of a word
        for b, encoding in enumerate(told):
            ids[b, : len(encoding.ids)] = torch.tensor(encoding.ids)
            for t, word in enumerate(encoding.word_ids):
                if word is not None:
                    spread[b, word, t] = 1.0
        valid = torch.arange(length) < torch.tensor([len(e.ids) for e in told])[:, None]
        mask = spread.any(dim=2)
        mean = spread / spread.sum(dim=2, keepdim=True).clamp(min=1.0)
        device = next(self.language.parameters()).device
        ids, valid, mean, mask = (t.to(device) for t in (ids, valid, mean, mask))
        with (
            _outputs_of(self._watched) as seen,
            torch.autocast(device.type, torch.bfloat16, enabled=self._low),
        ):
            soft = self._read(ids, valid)
        embeddings, hidden, query, key, value = (mean @ tensor.float() for tensor in seen)
        weight = mask[..., None] / mask.sum(dim=1)[:, None, None].clamp(min=1)
        return Sight(
            embeddings=embeddings,
            hidden=hidden,
            relations=(query, key, value),
            sentence=(hidden * weight).sum(dim=1),
            soft=soft.float(),
            mask=mask,
        )

    def _read(self, ids: Tensor, valid: Tensor) -> Tensor:
        """Pass through the encoder; a DMD's emotion logits (B, n_emotions), else (B, 0)."""
        if not isinstance(self.source, DMD):
            self.language(ids, valid)
            return torch.zeros(len(ids), 0, device=ids.device)
        config, n = self.source.config, len(ids)
        batch = {"input_ids": ids, "text_mask": valid}
        for m, dim in (("audio", config.audio_dim), ("vision", config.vision_dim)):
            batch[m] = torch.zeros(n, 1, dim, device=ids.device)
            batch[f"{m}_mask"] = torch.zeros(n, 1, dtype=torch.bool, device=ids.device)
        batch["audio_embedding"] = torch.zeros(n, EMBEDDING_DIM, device=ids.device)
        outputs: Tensor = self.source(batch).outputs
        return outputs[:, 1:]


def readable(sentences: Sequence[str], tokenizers: Sequence[Path]) -> list[str]:
    """The sentences that have words and fit an utterance for every tokenizer."""
    loaded = [Tokenizer.from_file(str(path)) for path in tokenizers]
    for tokenizer in loaded:
        tokenizer.no_truncation()
        tokenizer.no_padding()
    told = (normalise(text) for text in sentences)
    return [
        text
        for text in told
        if text and all(len(t.encode(text).ids) <= SPEC.max_pieces for t in loaded)
    ]


@contextmanager
def _outputs_of(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Inside, the yielded list gets each module's output, in order of `modules`."""
    found: list[Any] = [None] * len(modules)

    def keeper(k: int) -> Any:
        def keep(_: nn.Module, __: Any, output: Any) -> None:
            found[k] = output if isinstance(output, Tensor) else output[0]

        return keep

    handles = [module.register_forward_hook(keeper(k)) for k, module in enumerate(modules)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
