"""One way to every data set: `--data PATH --data-format NAME`."""

from dataclasses import replace
from pathlib import Path

from runtime.errors import UsageError

from ..config import Config
from ..prepare import Features as Recorded
from ..prepare import prepare
from . import corpora
from .commands import COMMANDS, commands
from .compose import Composer
from .dialogues import dialogues
from .features import Features
from .mmsa import Mmsa
from .mmsa_config import feature_file
from .mult import mult
from .prototypes import PROTOTYPES, prototypes
from .shards import Shards
from .ur_funny import ur_funny
from .utterance import Corpus

__all__ = ["FORMATS", "VECTORS", "classes", "compose", "fit", "open_corpus", "recorded"]

FORMATS = ("corpora", "mmsa", "mult", "dialogues", "ur-funny", "shards")
VECTORS = ("mult", "dialogues", "ur-funny")  # formats whose words are vectors, never word pieces


def open_corpus(
    data: Path, data_format: str, settings: Config, tokenizer: Path | None, cache: Path
) -> Corpus:
    """A data set as `settings.model` wants it.

    `corpora`: a folder of the corpora of `corpora.py`, composed; `mmsa`: a feature pickle of MOSI,
    MOSEI or CH-SIMS, or what MMSA's configuration calls one (`mmsa_config.py`); `mult`,
    `dialogues`, `ur-funny`: as the modules of these names say; `shards`: a folder that
    `train.prepare --manifest` wrote. `tokenizer` is the tokenizer.json of the language branch, None
    without one. Raises DmdLiveError.
    """
    if data_format == "mmsa" or data_format in VECTORS:
        return _features(data, data_format, settings)
    if tokenizer is None:
        raise UsageError("this data set is words: the model needs a language branch (text_dim = 0)")
    if data_format == "shards":
        return Shards(data, tokenizer, seed=settings.seed)
    return compose(data, settings, tokenizer, cache)


def _features(data: Path, data_format: str, settings: Config) -> Features:
    padded, seed = not settings.model.masked, settings.seed
    if data_format == "mmsa":
        bert = settings.model.text_dim == 0
        return Mmsa(feature_file(data), bert=bert, padded=padded, seed=seed)
    if data_format == "mult":
        return mult(data, padded=padded, seed=seed)
    if padded:
        raise UsageError(
            f"--data-format {data_format}: its utterances have no common length, which this model "
            "needs (model.masked = false); take --config configs/features.toml"
        )
    read = dialogues if data_format == "dialogues" else ur_funny
    return read(data, seed=seed)


def recorded(data: Path, settings: Config, cache: Path) -> Recorded:
    """Features of the recordings of those corpora, from the cache or extracted now. Raises
    DmdLiveError."""
    names = settings.data.corpora.split()
    if unknown := set(names) - {*corpora.CORPORA, PROTOTYPES, COMMANDS}:
        known = ", ".join((*corpora.CORPORA, PROTOTYPES, COMMANDS))
        raise UsageError(f"data.corpora: no corpus {', '.join(unknown)}; known corpora: {known}")
    return prepare(data, cache, names, embeddings=settings.data.unheard_share < 1.0)


def compose(data: Path, settings: Config, tokenizer: Path, cache: Path) -> Composer:
    """The corpora that `settings.data.corpora` names, composed. Raises DmdLiveError."""
    features, names = recorded(data, settings, cache), settings.data.corpora.split()
    if PROTOTYPES in names:  # they are tested on only where there are no photographs
        made_up = [(r, row) for r, row in prototypes() if r.split == "train" or not features.faces]
        features = replace(features, faces=[*features.faces, *made_up])
    sentences = corpora.texts(data, names)
    if COMMANDS in names:
        sentences += commands()
    return Composer(
        sentences,
        features,
        tokenizer,
        settings.data,
        settings.seed,
        settings.optim.batch_size,
    )


def fit(settings: Config, corpus: Corpus) -> Config:
    """`settings` with the widths, the scale and, for an unmasked model, the lengths of a feature
    file."""
    if not isinstance(corpus, Features):
        return settings
    model = replace(
        settings.model,
        text_dim=corpus.dims.get("text", 0),
        audio_dim=corpus.dims["audio"],
        vision_dim=corpus.dims["vision"],
    )
    if not model.masked:
        steps = corpus.lengths
        model = replace(
            model,
            n_steps_text=steps["text"],
            n_steps_audio=steps["audio"],
            n_steps_vision=steps["vision"],
        )
    data = replace(settings.data, sentiment_scale=corpus.scale)
    return replace(settings, model=model, data=data)


def classes(corpus: Corpus) -> tuple[str, ...]:
    """The names of the data set's classes, in the order of their indices."""
    return corpus.classes if isinstance(corpus, Features) else corpora.EMOTIONS
