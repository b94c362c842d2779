"""Sentences for utterances: which there are, what each says, how often each comes."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from runtime.features.spec import SPEC
from runtime.features.text import TextFeatures
from train.config import DataConfig

from ..corpora import EMOTIONS, SPLITS, DataError, Text

__all__ = ["Sentence", "Sentences", "portioned", "sort_texts"]

Float = NDArray[np.float32]

_PLEASANTNESS = {"anger": -1, "disgust": -1, "fear": -1, "happiness": 1, "neutral": 0,
                 "sadness": -1, "surprise": 0}  # fmt: skip


@dataclass(frozen=True)
class Sentence:
    """One sentence as the trainer sees it: its pieces and what is known of it."""

    words: str
    ids: NDArray[np.int64]
    emotion: int
    sentiment: float
    corpus: str
    arousal: float = float("nan")
    meant: str = ""  # the words, where `words` is what a recogniser might make of them


@dataclass
class Sentences:
    """All sentences: `rated` by split, `told` by split and emotion. `sentiment_of` (7,): the weak
    sentiment of each emotion, in [-3, 3]. Left out are those that are too long, those without
    words, and those of validation and test that an earlier split has too ("Okay.")."""

    sentiment_of: Float
    rated: dict[str, list[Sentence]] = field(default_factory=lambda: defaultdict(list))
    told: dict[tuple[str, int], list[Sentence]] = field(default_factory=lambda: defaultdict(list))
    n_too_long: int = 0
    n_wordless: int = 0
    n_repeated: int = 0


def sort_texts(texts: Sequence[Text], tokenizer: TextFeatures) -> Sentences:
    """Tokenise the texts and sort them by what they are labelled with."""
    sentiment_of, scale = weak_sentiment(texts)
    out = Sentences(sentiment_of)
    n_special = len(tokenizer.ids(""))
    split_of: dict[bytes, str] = {}
    for text in sorted(texts, key=lambda text: SPLITS.index(text.split)):
        ids = tokenizer.ids(text.text)
        if len(ids) > SPEC.max_pieces:
            out.n_too_long += 1  # left out: features are never truncated
        elif len(ids) == n_special:
            out.n_wordless += 1  # "?!": on the device, text is absent then
        elif split_of.setdefault(ids.tobytes(), text.split) != text.split:
            out.n_repeated += 1
        elif text.rating is not None:
            arousal = float("nan") if text.arousal is None else text.arousal
            sentence = Sentence(text.text, ids, text.emotion, text.rating, text.corpus, arousal)
            out.rated[text.split].append(sentence)
        else:
            polarity = None if text.polarity is None else scale * text.polarity
            weak = sentiment_of[text.emotion] if polarity is None else polarity
            sentence = Sentence(text.text, ids, text.emotion, float(weak), text.corpus)
            out.told[text.split, text.emotion].append(sentence)
    return out


def weak_sentiment(texts: Sequence[Text]) -> tuple[Float, float]:
    """(7,) sentiment of each emotion, in [-3, 3]; and the mean absolute rating of a sentence, which
    polarity 1 stands for."""
    ratings = [abs(t.rating) for t in texts if t.rating is not None and t.split == "train"]
    scale = float(np.mean(ratings)) if ratings else 1.0
    out = np.zeros(len(EMOTIONS), np.float32)
    for emotion in range(len(EMOTIONS)):
        polarity = [
            t.polarity
            for t in texts
            if t.polarity is not None and t.split == "train" and t.emotion == emotion
        ]
        out[emotion] = scale * float(np.mean(polarity or _PLEASANTNESS[EMOTIONS[emotion]]))
    return out, scale


def portioned(sentences: Sequence[Sentence], config: DataConfig, seed: int) -> list[Sentence]:
    """The sentences of one pass: limited to some of a corpus, repeated for another."""
    limits, repeats = _by_corpus(config.text_limits), _by_corpus(config.text_repeats)
    by_corpus: dict[str, list[Sentence]] = defaultdict(list)
    for sentence in sentences:
        by_corpus[sentence.corpus].append(sentence)
    out = []
    for corpus, found in by_corpus.items():
        chosen = found
        if corpus in limits:
            order = np.random.default_rng((seed, 3)).permutation(len(found))
            chosen = [found[k] for k in sorted(order[: limits[corpus]])]
        out += chosen * repeats.get(corpus, 1)
    return out


def _by_corpus(option: str) -> dict[str, int]:
    """{"mosi": 4} from "mosi:4"; raises DataError for anything else."""
    try:
        return {name: int(n) for name, n in (pair.split(":") for pair in option.split())}
    except ValueError as error:
        raise DataError(
            f"data.text_limits or text_repeats: write corpus:number, not {option!r}"
        ) from error
