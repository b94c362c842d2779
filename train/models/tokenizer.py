"""The tokenizer of the language branch: whole, or with the word pieces that the corpora need."""

import hashlib
from pathlib import Path

from runtime.errors import UsageError
from runtime.system.files import write_file

from ..config import Config
from ..data import corpora
from ..data.commands import COMMANDS, commands
from .language import locate
from .vocabulary import prune

__all__ = ["pruned", "tokenizer_of"]


def tokenizer_of(settings: Config) -> Path | None:
    """`tokenizer.json` of the language branch; for a Hugging Face name it is fetched once."""
    if settings.model.text_dim:
        return None
    name = locate(settings.model.language)
    tokenizer = Path(name) / "tokenizer.json"
    return tokenizer if tokenizer.exists() else _download_tokenizer(name)


def pruned(settings: Config, data: Path, cache: Path) -> Path:
    """A tokenizer with the pieces that the training sentences need most, in the cache."""
    whole = tokenizer_of(settings)
    if whole is None:
        raise UsageError("model.vocabulary needs a language branch (text_dim = 0)")
    names = settings.data.corpora.split()
    texts = corpora.texts(data, names) + (commands() if COMMANDS in names else [])
    content, _ = prune(
        whole, (t.text for t in texts if t.split == "train"), settings.model.vocabulary
    )
    name = hashlib.sha256(content.encode()).hexdigest()[:16]
    path = cache / f"tokenizer-{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, content.encode())
    return path


def _download_tokenizer(name: str) -> Path:
    """`tokenizer.json` of a Hugging Face model, or one made from a folder's slow tokenizer."""
    folder = Path("build") / "tokenizers" / name.replace("/", "--").strip("-")
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(name, use_fast=True).save_pretrained(folder)
    return folder / "tokenizer.json"
