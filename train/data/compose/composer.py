"""Draws utterances: each modality from somebody who shows the emotion that is wanted of it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.features.embedding import no_embedding
from runtime.features.spec import MODALITIES, SPEC
from runtime.features.text import TextFeatures
from train.config import DataConfig
from train.prepare import Features

from ..labels import EMOTIONS, NEUTRAL, UNKNOWN, DataError, Text
from ..utterance import Utterance, labelled_part
from .emotions import class_weights, emotions_shown, lacking, log_prior, weak_arousal
from .faces import Faces
from .schedule import Schedule
from .sentences import Sentence, portioned, sort_texts
from .spoken import Spoken
from .strange import strange_embedding, strange_rows
from .voices import Voices

__all__ = ["Composer"]

Float = NDArray[np.float32]
Rng = np.random.Generator


class Composer:
    """Draws utterances. `sentiment_of` (7,): the weak sentiment label of each emotion, in [-3, 3].

    That label is measured where it can be: the mean polarity of MELD's training sentences of the
    emotion, times the mean absolute rating of VADER's training sentences. Without such sentences
    it is the pleasantness of the circumplex (Russell 1980), -1, 0 or 1, times the same.

    Every `batch_size` training utterances are of one kind, a batch: whole utterances, or one
    modality alone (`DataConfig.text_share` and so on), which costs a fraction of the time.
    Sentences alone come in their natural frequency, with the rated ones; voices and faces alone
    show every emotion equally often, except neutral, which is commoner (`neutral_weight`).
    """

    def __init__(
        self,
        texts: Sequence[Text],
        features: Features,
        tokenizer_json: Path,
        config: DataConfig,
        seed: int,
        batch_size: int = 1,
    ) -> None:
        self._config, self._seed, self._batch_size = config, seed, batch_size
        odd = np.array([config.conflict_text, config.conflict_audio, config.conflict_vision])
        self._oddness = odd / odd.sum()
        self.n_training = config.utterances_per_epoch
        self._tokenizer = tokenizer = TextFeatures(tokenizer_json)
        sentences = sort_texts(texts, tokenizer)
        self.sentiment_of = sentences.sentiment_of
        self._rated, self._told = sentences.rated, sentences.told
        self._n_left_out = sentences.n_too_long, sentences.n_wordless, sentences.n_repeated
        self._spoken = Spoken(
            (t.text for t in texts if t.split == "train"), config.word_drop, config.word_confusion
        )
        self._voices = Voices(features.voices, config.unheard_share)
        self._faces = Faces(features.faces)
        told = [s for e in range(len(EMOTIONS)) for s in self._told["train", e]]
        self._sentences = portioned([*told, *self._rated["train"]], config, seed)
        self._schedule = Schedule(config, self._sentences, seed, batch_size)
        n_told = [len(self._told["train", e]) for e in range(len(EMOTIONS))]
        self._weights = {
            kind: class_weights(kind, config, self._sentences, n_told, self._voices, self._faces)
            for kind in (*MODALITIES, "whole")
        }
        self._priors = {kind: log_prior(weights) for kind, weights in self._weights.items()}
        recordings = [recording for recording, _ in (*features.voices, *features.faces)]
        self._corpora = sorted({t.corpus for t in texts} | {r.corpus for r in recordings})
        self._n_faceless = features.n_faceless
        self._check()

    def about(self) -> dict[str, object]:
        """What the utterances are made of, for the checkpoint's JSON."""
        return {
            "corpora": self._corpora,
            "weak_sentiment": self.sentiment_of.tolist(),
            "n_texts_too_long": self._n_left_out[0],
            "n_texts_without_words": self._n_left_out[1],
            "n_texts_of_an_earlier_split": self._n_left_out[2],
            "n_pictures_without_face": self._n_faceless,
            "without_voice": [EMOTIONS[e] for e in lacking(self._voices)],
            "without_face": [EMOTIONS[e] for e in lacking(self._faces)],
        }

    def training(self, epoch: int, index: int) -> Utterance:
        """Utterance `index` of an epoch, augmented."""
        rng = np.random.default_rng((self._seed, epoch, index))
        batch, place = divmod(index, self._batch_size)
        kind, n_before = self._schedule.kind(epoch, batch)
        if kind in ("audio", "vision"):
            return replace(self._alone(rng, kind), log_prior=self._priors[kind])
        if kind == "text":
            sentence = self._heard(rng, self._schedule.sentence(n_before, place))
            return replace(self._text_only(sentence), log_prior=self._priors["text"])
        return replace(self._whole(rng), log_prior=self._priors["whole"])

    def _whole(self, rng: Rng) -> Utterance:
        """A training utterance of all modalities, or now and then a rated sentence."""
        config = self._config
        if self._rated["train"] and rng.random() < config.rated_share:
            return self._text_only(self._heard(rng, _pick(rng, self._rated["train"])))
        emotion = int(rng.choice(len(EMOTIONS), p=self._weights["whole"]))
        shown = emotions_shown(rng, emotion, self._config, self._oddness)
        some = bool(config.unlabelled_share)
        labelled = rng.random() >= config.unlabelled_share if some else None
        told = self._told["train", shown["text"]]
        part = labelled_part(len(told), labelled, config.labelled_parts)
        sentence = self._heard(rng, told[_pick(rng, part)])
        whole = self._compose(
            rng, "train", sentence, shown, emotion, augment=True, labelled=labelled
        )
        if rng.random() < config.strange_share:
            whole = self._strange(rng, whole)
        if labelled is False:
            unknown = float("nan")
            return replace(whole, emotion=UNKNOWN, sentiment=unknown, arousal=unknown, shown=None)
        return whole

    def held_out(self, split: str) -> list[Utterance]:
        """The fixed, class-balanced composition of a split: all modalities present that there are,
        no text twice, nothing augmented; of `train`, as many as of `test`."""
        n = self._config.n_valid if split == "valid" else self._config.n_test
        out: list[Utterance] = []
        used: set[bytes] = set()
        for emotion in range(len(EMOTIONS)):
            rng = np.random.default_rng((0, emotion))
            sentences = self._told[split, emotion]
            order = rng.permutation(len(sentences))
            unused = {sentences[k].ids.tobytes(): sentences[k] for k in order}
            unused = {ids: sentence for ids, sentence in unused.items() if ids not in used}
            chosen = list(unused.values())[: n // len(EMOTIONS)]
            used |= {sentence.ids.tobytes() for sentence in chosen}
            for sentence in chosen:
                shown = dict.fromkeys(MODALITIES, emotion)
                utterance = self._compose(rng, split, sentence, shown, emotion, augment=False)
                out.append(replace(utterance, id=f"{split}-{len(out):05d}"))
        return out

    def rated(self, split: str, most: int = 0) -> list[Utterance]:
        """Text-only utterances with human sentiment ratings; at most as many as `held_out`, or as
        `most` says."""
        n = most or (self._config.n_valid if split == "valid" else self._config.n_test)
        order = np.random.default_rng(0).permutation(len(self._rated[split]))[:n]
        return [self._text_only(self._rated[split][k]) for k in order]

    def told(self, split: str) -> list[Utterance]:
        """All text-only utterances with an emotion, in their natural frequency; short ones first,
        for padding is computed too."""
        sentences = [s for e in range(len(EMOTIONS)) for s in self._told[split, e]]
        if self._config.n_told:
            order = np.random.default_rng(0).permutation(len(sentences))
            sentences = [sentences[k] for k in order[: self._config.n_told]]
        return [self._text_only(s) for s in sorted(sentences, key=lambda s: len(s.ids))]

    def sentences(self) -> list[Utterance]:
        """What training batches of sentences alone are made of; short ones first, as in `told`."""
        return [self._text_only(s) for s in sorted(self._sentences, key=lambda s: len(s.ids))]

    def _compose(
        self,
        rng: Rng,
        split: str,
        sentence: Sentence,
        shown: dict[str, int],
        emotion: int,
        *,
        augment: bool,
        labelled: bool | None = None,
    ) -> Utterance:
        how: dict[str, Any] = {"augment": augment, "labelled": labelled}
        how["labelled_parts"] = self._config.labelled_parts
        audio, embedding, loud = self._voices.draw(rng, split, shown["audio"], **how)
        n_rows = max(round(len(audio) / SPEC.audio_rate_hz * SPEC.vision_rate_hz) or 40, 4)
        vision, wide = self._faces.draw(rng, split, shown["vision"], n_rows, **how)
        strengths = [
            strength
            for rows, m, strength in ((audio, "audio", loud), (vision, "vision", wide))
            if len(rows) and shown[m] == emotion
        ]
        return Utterance(
            text=sentence.ids,
            words=sentence.words,
            audio=audio,
            audio_embedding=embedding,
            vision=vision,
            emotion=emotion,
            sentiment=float(self.sentiment_of[emotion]),
            arousal=weak_arousal(emotion, float(np.mean(strengths or [1.0]))),
            shown=(shown["text"], shown["audio"], shown["vision"]),
        )

    def _strange(self, rng: Rng, whole: Utterance) -> Utterance:
        """The utterance with a modality that is like nothing in training, or with a voice that is
        flat by nature; the others label it."""
        odd = str(rng.choice(MODALITIES, p=self._oddness))
        assert whole.shown is not None
        shown = {**dict(zip(MODALITIES, whole.shown, strict=True)), odd: UNKNOWN}
        told = {e for e in shown.values() if e not in (UNKNOWN, NEUTRAL)}
        emotion = whole.emotion if len(told) > 1 else next(iter(told), NEUTRAL)
        changed: dict[str, Any] = {}
        flat = self._config.flat_share if self._voices.some_flat else 0.0
        if odd == "audio" and flat and rng.random() < flat:
            rows, embedding, _ = self._voices.draw(rng, "train", NEUTRAL, augment=True, flat=True)
            changed = {"audio": rows, "audio_embedding": embedding}
        elif odd == "text":
            words = [
                str(rng.choice(_pick(rng, self._sentences).words.split() or ["hm"]))
                for _ in range(int(rng.integers(2, 14)))
            ]
            changed = {"words": " ".join(words), "text": self._tokenizer.ids(" ".join(words))}
            if len(changed["text"]) > SPEC.max_pieces:
                return whole
        elif len(rows := getattr(whole, odd)):
            changed = {odd: strange_rows(rng, rows, SPEC.n_mels if odd == "audio" else -1)}
            if odd == "audio" and whole.audio_embedding.any():
                changed["audio_embedding"] = strange_embedding(rng, whole.audio_embedding)
        return replace(
            whole,
            **changed,
            emotion=emotion,
            sentiment=float(self.sentiment_of[emotion]),
            arousal=whole.arousal if emotion == whole.emotion else weak_arousal(emotion),
            shown=(shown["text"], shown["audio"], shown["vision"]),
        )

    def _alone(self, rng: Rng, modality: str) -> Utterance:
        """A training voice or face."""
        emotion = int(rng.choice(len(EMOTIONS), p=self._weights[modality]))
        n_rows = int(rng.integers(15, 90))
        audio, vision = _nothing()
        embedding = no_embedding()
        if modality == "audio":
            audio, embedding, strength = self._voices.draw(rng, "train", emotion, augment=True)
        else:
            vision, strength = self._faces.draw(rng, "train", emotion, n_rows, augment=True)
        return Utterance(
            text=np.zeros(0, np.int64),
            audio=audio,
            audio_embedding=embedding,
            vision=vision,
            emotion=emotion,
            sentiment=float(self.sentiment_of[emotion]),
            arousal=weak_arousal(emotion, strength),
        )

    def _heard(self, rng: Rng, sentence: Sentence) -> Sentence:
        """The sentence as a recogniser might have understood it."""
        if self._config.word_drop == self._config.word_confusion == 0.0:
            return sentence
        words = self._spoken(sentence.words, rng)
        ids = self._tokenizer.ids(words)
        if len(ids) > SPEC.max_pieces:
            return sentence
        return replace(sentence, words=words, ids=ids, meant=sentence.words)

    def _text_only(self, sentence: Sentence) -> Utterance:
        audio, vision = _nothing()
        return Utterance(
            id=sentence.meant or sentence.words,
            text=sentence.ids,
            words=sentence.words,
            audio=audio,
            vision=vision,
            emotion=sentence.emotion,
            sentiment=sentence.sentiment,
            arousal=sentence.arousal,
        )

    def _check(self) -> None:
        """What corpora lack, utterances lack: only words are needed of every emotion."""
        for split in ("train", "valid", "test"):
            for emotion, name in enumerate(EMOTIONS):
                if not self._told[split, emotion]:
                    raise DataError(f"the {split} split has no sentence of {name}")


def _nothing() -> tuple[Float, Float]:
    return np.zeros((0, SPEC.audio_dim), np.float32), np.zeros((0, SPEC.vision_dim), np.float32)


def _pick(rng: Rng, items: Any) -> Any:
    return items[int(rng.integers(len(items)))]
