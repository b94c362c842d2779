"""One way to every data set: `--data PATH --data-format NAME`."""

from pathlib import Path

from runtime.errors import UsageError

from ..config import Config
from ..prepare import prepare
from . import corpora
from .compose import Composer
from .utterance import Corpus

__all__ = ["FORMATS", "fit", "open_corpus"]

FORMATS = ("corpora",)


def open_corpus(
    data: Path, data_format: str, settings: Config, tokenizer: Path | None, cache: Path
) -> Corpus:
    """A data set as `settings.model` wants it. `corpora`: a folder of the corpora of `corpora.py`,
    composed. `tokenizer` is the tokenizer.json of the language branch. Raises DmdLiveError."""
    if tokenizer is None:
        raise UsageError(f"{data_format} are words: the model needs a language branch (text_dim=0)")
    texts = corpora.texts(data)
    return Composer(texts, prepare(data, cache), tokenizer, settings.data, settings.seed)


def fit(settings: Config, corpus: Corpus) -> Config:
    """`settings` with what only the data set knows."""
    return settings
