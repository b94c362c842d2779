"""Predictions of a torch model, their metrics, and how sure it may be."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from tqdm import tqdm

from runtime.features.embedding import no_embedding
from runtime.features.spec import MODALITIES
from runtime.judging.calibration import CONVERSATION, UNHEARD, Calibration
from runtime.judging.reading import pooled

from . import parallel
from .data.compose import Composer
from .data.features import SCALE
from .data.utterance import Corpus, Utterance, collate
from .loop import (
    SUBSETS,
    Predictions,
    batched,
    evaluate,
    keep,
    predict,
)
from .metrics import fit_temperature, risk_threshold
from .models.inputs import Inputs

__all__ = ["Judge", "calibrate", "fit_subset", "not_below_one_sense", "selecting", "validate"]

_N_RATED = 2_000  # validation sentences that a model of words alone is chosen by, at most
_ACCEPTED_ERROR = 0.2  # share of wrong predictions among those that are not called uncertain
_WORDS_SHARE = 0.5  # docs/measured.md, "Words that are read twice"


@dataclass(frozen=True)
class Judge:
    """Predictions and metrics of a model."""

    dmd: Inputs
    precision: str
    calibration: Calibration | None = None
    scale: float = SCALE  # `DataConfig.sentiment_scale`

    def predict(
        self, utterances: Iterable[Utterance], subset: tuple[str, ...] = MODALITIES
    ) -> Predictions:
        """What the model says with these modalities only; sentiments are not clipped."""
        cut = self.dmd.config.masked
        batches = (keep(collate(part), subset, cut=cut) for part in batched(utterances, 64))
        return predict(
            self.dmd,
            batches,
            clipped=False,
            precision=self.precision,
            calibration=self.calibration,
        )

    def score(
        self, utterances: Iterable[Utterance], subset: tuple[str, ...] = MODALITIES
    ) -> dict[str, float]:
        """Metrics, by name."""
        return self._metrics(self.predict(utterances, subset))

    def _metrics(self, found: Predictions) -> dict[str, float]:
        return evaluate(found, found["emotion_label"], found["sentiment_label"], self.scale)

    def _own(self, found: Predictions) -> dict[str, dict[str, float]]:
        """By name such as "text by itself"; none where heads are not trained or say nothing."""
        out: dict[str, dict[str, float]] = {}
        if not self.dmd.config.common_branch:
            return out
        for k, m in enumerate(MODALITIES):
            said, label = found["modality_sentiment"][:, k], found["own_label"][:, k]
            rated = found["present"][:, k] & ~np.isnan(label)
            if said.any() and rated.sum() > 1:
                alone = {"sentiment": said[rated], "emotion": np.zeros((rated.sum(), 0))}
                unknown = np.full(rated.sum(), -1)
                out[f"{m} by itself"] = evaluate(alone, unknown, label[rated], self.scale)
        return out

    def table(self, utterances: Iterable[Utterance]) -> dict[str, dict[str, float]]:
        """Metrics of all seven subsets of modalities, by name such as text+vision; and of what each
        modality's own head says against its own label, where there are such labels."""
        rows = tqdm(SUBSETS, desc="subsets", leave=False, disable=not parallel.is_first())
        found = {"+".join(s): self.predict(utterances, s) for s in rows}
        table = {name: self._metrics(said) for name, said in found.items()}
        return table | self._own(found["+".join(MODALITIES)])


def selecting(
    corpus: Corpus, valid: Iterable[Utterance], *, words_alone: bool
) -> Iterable[Utterance]:
    """What the best epoch is chosen by: `valid`; a model of words alone, by rated sentences."""
    rated = corpus.rated("valid", _N_RATED) if words_alone and isinstance(corpus, Composer) else []
    return rated or valid


def validate(judge: Judge, utterances: Iterable[Utterance]) -> tuple[float, dict[str, float]]:
    """A score to maximise, and what it is the mean of: macro-F1 (or, without emotions, minus the
    MAE) of the full input and, for models that take any subset, of each modality alone."""
    words_alone = all(not len(u.audio) and not len(u.vision) for u in utterances)
    each = judge.dmd.config.masked and not words_alone
    scores = {}
    for subset in [MODALITIES, *((m,) for m in MODALITIES)] if each else [MODALITIES]:
        metrics = judge.score(utterances, subset)
        name = "macro_f1" if "macro_f1" in metrics else "mae"
        scores[f"{name} {'+'.join(subset)}"] = metrics[name]
    signed = [-value if name.startswith("mae") else value for name, value in scores.items()]
    return float(np.mean(signed)), scores


def calibrate(
    judge: Judge,
    utterances: Iterable[Utterance],
    emotions: Sequence[str],
    told: Sequence[Utterance] = (),
) -> Calibration:
    """A temperature for each of the seven subsets of modalities, for they differ in how sure they
    are; and the confidence that predictions of a subset need to be wrong as rarely as
    `_ACCEPTED_ERROR`, where emotions are as common as in conversation. Where the model reads a
    recogniser's encoder, both also for voices without it.

    `told`: sentences in their natural frequency, which text alone is calibrated on; otherwise on
    `utterances` too.
    """
    temperature, uncertain_below = {}, {}
    utterances, unheard = list(utterances), list[Utterance]()
    fitted = Calibration(emotions=tuple(emotions), words_share=_WORDS_SHARE)
    alone = judge.predict(utterances, ("text",))["logits"]
    share = fitted.share_of_words(alone, CONVERSATION)
    ways = [(subset, "") for subset in SUBSETS]
    if judge.dmd.config.embedding_audio:
        unheard = [replace(u, audio_embedding=no_embedding()) for u in utterances]
        ways += [(subset, UNHEARD) for subset in SUBSETS if "audio" in subset]
    for subset, way in ways:
        shown: Iterable[Utterance] = unheard if way else utterances
        if subset == ("text",) and told:
            shown = told
        found = judge.predict(shown, subset)
        complete = found["present"].sum(axis=1) == len(subset)
        if "text" in subset and len(subset) > 1:
            found["logits"] = pooled(found["logits"], alone, share)
        known = (found["emotion_label"] >= 0) & complete
        if not known.any():
            continue
        name = "+".join(subset) + way
        chosen = {key: values[known] for key, values in found.items()}
        temperature[name], uncertain_below[name] = fit_subset(name, chosen, emotions)
    return replace(
        fitted,
        temperature=temperature,
        uncertain_below=not_below_one_sense(uncertain_below),
    )


def fit_subset(name: str, found: Predictions, emotions: Sequence[str]) -> tuple[float, float]:
    """The temperature of a subset of modalities, and the confidence that it needs.

    The temperature is never below 1: the modalities of composed utterances agree more than those of
    people, and would make the model surer than it learned to be.
    """
    logits, labels = found["logits"], found["emotion_label"]
    # Labels count as often as they come in conversation.
    prior = Calibration(emotions=tuple(emotions)).prior(CONVERSATION)
    share = np.bincount(labels, minlength=len(prior)) / len(labels)
    weight = prior[labels] / share[labels]
    temperature = max(1.0, round(fit_temperature(logits, labels, weight), 3))
    fitted = Calibration(
        emotions=tuple(emotions), temperature={name.removesuffix(UNHEARD): temperature}
    )
    probabilities = fitted.probabilities(logits, found["present"], CONVERSATION)
    # One half at least: an answer that is less likely than that is wrong more often than right.
    needed = max(0.5, risk_threshold(probabilities, labels, _ACCEPTED_ERROR, weight))
    return temperature, round(needed, 3)


def not_below_one_sense(uncertain_below: Mapping[str, float]) -> dict[str, float]:
    """Thresholds of subsets; for the same reason, none below all those of its modalities alone."""
    out = {}
    for subset, needed in uncertain_below.items():
        alone, unheard, _ = subset.partition(UNHEARD)
        senses = [m + (unheard if m == "audio" else "") for m in alone.split("+")]
        out[subset] = max(needed, min(uncertain_below.get(m, 0.0) for m in senses))
    return out
