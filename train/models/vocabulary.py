"""A smaller vocabulary for a WordPiece encoder: fewer embedding rows, longer sequences."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from runtime.errors import ModelError
from runtime.features.text import normalise

__all__ = ["kept", "prune", "shrink"]


def prune(
    tokenizer_json: Path, sentences: Iterable[str], n_pieces: int
) -> tuple[str, torch.Tensor]:
    """The tokenizer that keeps about `n_pieces` pieces, as JSON, and the old ids of its pieces.

    Kept are special tokens, all single characters (so that every word that had pieces still has),
    and the pieces most frequent in `sentences`. Raises ModelError for another kind of tokenizer.
    """
    described = json.loads(tokenizer_json.read_text(encoding="utf-8"))
    if described["model"].get("type") != "WordPiece":
        raise ModelError(f"{tokenizer_json}: only WordPiece vocabularies can be pruned")
    vocabulary: dict[str, int] = described["model"]["vocab"]
    tokenizer = Tokenizer.from_file(str(tokenizer_json))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    counts = Counter(i for text in sentences for i in tokenizer.encode(normalise(text)).ids)
    prefix = described["model"]["continuing_subword_prefix"]
    kept = {token["id"] for token in described["added_tokens"]}
    kept |= {i for piece, i in vocabulary.items() if len(piece.removeprefix(prefix)) == 1}
    for i, _ in counts.most_common():
        if len(kept) >= n_pieces:
            break
        kept.add(i)
    old = sorted(kept)
    new = {i: k for k, i in enumerate(old)}
    described["model"]["vocab"] = {p: new[i] for p, i in vocabulary.items() if i in new}
    for token in described["added_tokens"]:
        token["id"] = new[token["id"]]
    for token in described["post_processor"].get("special_tokens", {}).values():
        token["ids"] = [new[i] for i in token["ids"]]
    return json.dumps(described, ensure_ascii=False), torch.tensor(old)


def kept(whole_json: Path, pruned_json: Path) -> torch.Tensor:
    """The old ids of a pruned tokenizer's pieces, in their new order."""
    whole, pruned = (
        json.loads(path.read_text(encoding="utf-8"))["model"]["vocab"]
        for path in (whole_json, pruned_json)
    )
    return torch.tensor([whole[piece] for piece in sorted(pruned, key=pruned.__getitem__)])


def shrink(encoder: Any, pieces: torch.Tensor) -> None:
    """Leave only the embeddings of these (old) pieces in a transformers encoder."""
    table = encoder.get_input_embeddings().weight
    rows, learns = table.detach()[pieces].clone(), table.requires_grad
    encoder.resize_token_embeddings(len(pieces), mean_resizing=False)
    new = encoder.get_input_embeddings().weight
    new.data.copy_(rows)
    new.requires_grad_(learns)
