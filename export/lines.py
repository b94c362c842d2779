"""What is measured of each corpus: its held-out utterances, and one number of the answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics as sk

from runtime.features.normal import SpeechStatistics
from runtime.features.spec import SPEC
from runtime.features.text import TextFeatures
from train.data import corpora
from train.data.compose.emotions import weak_arousal
from train.data.utterance import Utterance
from train.loop import Predictions
from train.prepare import Features, prepare

__all__ = ["Line", "lines"]

_SHOWN_S = 2.0  # a picture is looked at for this long
_NAMES = {
    "emodb": "EmoDB, speakers 15, 16",
    "ravdess": "RAVDESS, actors 11, 12",
    "nemo": "nEMO, speakers IC0, TP0",
    "digits": "digits, one ordinary man",
    "plain": "synthetic voices",
    "ckplus48": "CK+, unseen people",
    "ferplus": "FER+, half of the validation pictures",
}
_MOST = 600  # items of a line: each is judged alone by every model, as on the device
_NEUTRAL_ONLY = ("digits", "plain")


@dataclass(frozen=True)
class Line:
    """Utterances of one corpus, and what is measured on their predictions."""

    name: str
    metric: str
    utterances: Sequence[Utterance]
    score: Callable[[Predictions], float]


def lines(data: Path, cache: Path, tokenizer_json: Path, *, embeddings: bool) -> list[Line]:
    """The lines that the corpora below `data` allow; `embeddings`: of voices, for a model that
    reads them. Raises DataError."""
    have = [name for name, folder in corpora.CORPORA.items() if (data / folder).is_dir()]
    sentences = _told(corpora.texts(data, have), TextFeatures(tokenizer_json))
    features = prepare(data, cache, have, embeddings=embeddings)
    out = [*_of_sentences(sentences), *_of_voices(features), *_of_faces(features)]
    return [replace(line, utterances=_some(line.utterances)) for line in out if line.utterances]


def _told(
    sentences: Sequence[corpora.Text], text: TextFeatures
) -> dict[tuple[str, str], list[Utterance]]:
    """Sentences as utterances, by corpus and split. Those too long for an utterance, which the
    device cuts in two, are left out, and so are those without a word, which count as no text."""
    n_special = len(text.ids(""))
    found: dict[tuple[str, str], list[Utterance]] = {}
    for t in sentences:
        ids = text.ids(t.text)
        if n_special < len(ids) <= SPEC.max_pieces:
            said = _utterance(
                text=ids,
                words=t.text,
                emotion=t.emotion,
                sentiment=_sentiment(t),
                arousal=float("nan") if t.arousal is None else t.arousal,
            )
            found.setdefault((t.corpus, t.split), []).append(said)
    return found


def _of_sentences(told: dict[tuple[str, str], list[Utterance]]) -> list[Line]:
    wanted: list[tuple[str, str, tuple[str, str], Callable[[Predictions], float]]] = [
        ("GoEmotions, Ekman level", "macro-F1", ("goemotions", "test"), _macro_f1),
        ("MELD, no context", "weighted F1", ("meld", "test"), _weighted_f1),
        (
            "movie reviews (VADER ratings)",
            "correlation",
            ("vader/movieReviewSnippets", "test"),
            _correlation,
        ),
    ]
    for name, corpus in (("MOSI, validation", "mosi"), ("MOSEI, validation", "mosei")):
        wanted.append((name, "correlation", (corpus, "valid"), _correlation))
        wanted.append((name, "Acc-2, non-zero", (corpus, "valid"), _acc2_nonzero))
    valued = ("emobank", "valid")
    wanted.append(("EmoBank, validation", "correlation of valence", valued, _correlation))
    wanted.append(("EmoBank, validation", "correlation of arousal", valued, _arousal))
    return [Line(name, metric, told.get(key, []), score) for name, metric, key, score in wanted]


def _of_voices(features: Features) -> list[Line]:
    heard: dict[str, list[Utterance]] = {}
    for r, versions in features.voices:
        if r.split == "test":
            rows, embedding = versions[0]
            voice = _utterance(
                audio=SpeechStatistics().normalise(rows),
                audio_embedding=embedding,
                emotion=r.emotion,
                arousal=weak_arousal(r.emotion, r.intensity),
            )
            heard.setdefault(r.corpus, []).append(voice)
    out = []
    for corpus, voices in heard.items():
        score, metric = (_accuracy, "accuracy") if corpus in _NEUTRAL_ONLY else (_uar, "UAR")
        out.append(Line(f"{_NAMES[corpus]}, voice alone", metric, voices, score))
        if len({(u.emotion, u.arousal) for u in voices}) > len({u.emotion for u in voices}):
            out.append(Line(out[-1].name, "AUC of arousal, strong emotion", voices, _stronger))
    return out


def _of_faces(features: Features) -> list[Line]:
    n_rows = round(_SHOWN_S * SPEC.vision_rate_hz)
    seen: dict[str, list[Utterance]] = {}
    for r, row in features.faces:
        if r.split == "test":
            shown = _utterance(vision=np.tile(row, (n_rows, 1)), emotion=r.emotion)
            seen.setdefault(r.corpus, []).append(shown)
    out = []
    for corpus, faces in seen.items():
        name = f"{_NAMES[corpus]}, shown for {_SHOWN_S:.0f} s"
        out += [Line(name, "accuracy", faces, _accuracy), Line(name, "UAR", faces, _uar)]
    return out


def _some(utterances: Sequence[Utterance]) -> Sequence[Utterance]:
    """At most `_MOST` of them, spread evenly; the same ones for lists of equal length."""
    if len(utterances) <= _MOST:
        return utterances
    return [utterances[int(k)] for k in np.linspace(0, len(utterances) - 1, _MOST)]


def _utterance(**given: Any) -> Utterance:
    nothing = Utterance(
        text=np.zeros(0, np.int64),
        audio=np.zeros((0, SPEC.audio_dim), np.float32),
        vision=np.zeros((0, SPEC.vision_dim), np.float32),
        emotion=-1,
        sentiment=float("nan"),
    )
    return replace(nothing, **given)


def _sentiment(text: corpora.Text) -> float:
    told = text.rating if text.rating is not None else text.polarity
    return float("nan") if told is None else told


def _top(found: Predictions) -> NDArray[Any]:
    return np.asarray(found["emotion"].argmax(axis=1))


def _macro_f1(found: Predictions) -> float:
    return float(sk.f1_score(found["emotion_label"], _top(found), average="macro"))


def _weighted_f1(found: Predictions) -> float:
    return float(sk.f1_score(found["emotion_label"], _top(found), average="weighted"))


def _accuracy(found: Predictions) -> float:
    return float(sk.accuracy_score(found["emotion_label"], _top(found)))


def _uar(found: Predictions) -> float:
    labels = found["emotion_label"]  # recall over the classes that occur
    return float(sk.recall_score(labels, _top(found), labels=np.unique(labels), average="macro"))


def _correlation(found: Predictions) -> float:
    return float(np.corrcoef(found["sentiment"], found["sentiment_label"])[0, 1])


def _acc2_nonzero(found: Predictions) -> float:
    told = found["sentiment_label"]
    signed = told != 0
    return float(np.mean((found["sentiment"] > 0)[signed] == (told > 0)[signed]))


def _arousal(found: Predictions) -> float:
    return float(np.corrcoef(found["arousal"], found["arousal_label"])[0, 1])


def _stronger(found: Predictions) -> float:
    """How often arousal is higher of the stronger one of two voices with the same emotion; of
    emotions that excite, for strong sadness may be still or sobbing."""
    label, calm = found["arousal_label"], weak_arousal(corpora.NEUTRAL)
    rates = []
    for emotion in np.unique(found["emotion_label"]):
        same = found["emotion_label"] == emotion
        weakest = label[same].min()
        if weakest > calm and label[same].max() > weakest:
            rates.append(sk.roc_auc_score(label[same] > weakest, found["arousal"][same]))
    return float(np.mean(rates))
