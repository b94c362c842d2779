"""From the graph's balanced logits to probabilities: how sure, by what is there, and how common
each emotion is where the answer is used.

The graph is trained for a world in which all emotions are equally common. Among people they are
not: p(e | x) is proportional to (softmax(logits)(e) times prior(e)) to the power of 1 / T (Saerens
et al. 2002, eq. 4; Guo et al. 2017, section 4.2). So T says how sure an answer is, never which it
is. It differs by what is present, for faces are read more surely than voices.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BundleError, UsageError
from ..features.spec import MODALITIES

__all__ = ["BALANCED", "CONVERSATION", "PRIORS", "SUBSETS", "UNHEARD", "UNHEARD_SUBSETS",
           "Calibration", "subset_name"]  # fmt: skip

BALANCED, CONVERSATION = "balanced", "conversation"
PRIORS = (CONVERSATION, BALANCED)
SUBSETS = tuple(
    "+".join(subset)
    for n in range(len(MODALITIES), 0, -1)
    for subset in combinations(MODALITIES, n)
)
UNHEARD = ", rows alone"
"""After the name of a subset: no recogniser's encoder has heard its voice."""
UNHEARD_SUBSETS = tuple(f"{subset}{UNHEARD}" for subset in SUBSETS if "audio" in subset)
# Conversation, where a bundle says nothing: utterances of each emotion in MELD's training split
# (Poria et al. 2019, table 4), dialogue in which people are neutral half the time.
_IN_DIALOGUE = {"anger": 1_109, "disgust": 271, "fear": 268, "happiness": 1_743, "neutral": 4_710,
                "sadness": 683, "surprise": 1_205}  # fmt: skip


def subset_name(present: Sequence[bool]) -> str:
    """The name of a subset of modalities, such as "text+audio"; "" for none."""
    return "+".join(m for m, here in zip(MODALITIES, present, strict=True) if here)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """`emotions`: names, in the order of the logits. By name of a subset: `temperature`, above 0,
    and `uncertain_below`, the confidence that an answer needs; 1 and 0 where there is none.
    Voices that no encoder has heard have entries of their own, or else those of the others.
    `priors`: by name of a prior, how often each emotion occurs, in any unit. `words_share`: what
    the reading of the words alone counts, in [0, 1), where they show an emotion and another sense
    is there (`reading.py`). `fitted_on`: corpora that no training has seen, on which
    `train.calibrate` fitted; none for the validation split."""

    emotions: tuple[str, ...]
    temperature: Mapping[str, float] = field(default_factory=dict)
    uncertain_below: Mapping[str, float] = field(default_factory=dict)
    priors: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    words_share: float = 0.0
    fitted_on: tuple[str, ...] = ()

    def prior(self, name: str) -> NDArray[np.float64]:
        """(n_emotions,) how common each emotion is, summing to 1. Raises UsageError for a name that
        is not in PRIORS."""
        if name not in PRIORS:
            raise UsageError(f"no prior {name!r}; there are: {', '.join(PRIORS)}")
        often = self._often(name)
        counts = np.array([float(often[emotion]) for emotion in self.emotions])
        return np.asarray(counts / counts.sum())

    def _often(self, name: str) -> Mapping[str, float]:
        often = self.priors.get(name, _IN_DIALOGUE if name == CONVERSATION else {})
        known = set(self.emotions) <= often.keys()
        return {emotion: often[emotion] if known else 1 for emotion in self.emotions}

    def needed(self, present: Sequence[bool], *, heard: bool = True) -> float:
        """The confidence that an answer needs; `heard`: by a recogniser's encoder."""
        return _entry(self.uncertain_below, present, heard, 0.0)

    def share_of_words(self, alone: NDArray[Any], prior: str) -> NDArray[np.float64]:
        """(n,) what the words' own reading counts in each answer, from its (n, n_emotions) logits:
        `words_share` where they show an emotion, 0 where neutral is likeliest."""
        shows = np.array([emotion != "neutral" for emotion in self.emotions])
        best = (np.asarray(alone, np.float64) + np.log(self.prior(prior))).argmax(axis=1)
        return np.asarray(self.words_share * shows[best])

    def probabilities(
        self,
        logits: NDArray[Any],
        present: NDArray[Any],
        prior: str = CONVERSATION,
        *,
        heard: bool = True,
    ) -> NDArray[np.float64]:
        """(n, n_emotions) probabilities from logits (n, n_emotions) of utterances in which the
        modalities of `present` (n, 3) bool are there; `heard`: by a recogniser's encoder."""
        temperature = np.array(
            [_entry(self.temperature, row, heard, 1.0) for row in np.asarray(present, bool)]
        )
        shifted = np.asarray(logits, np.float64) + np.log(self.prior(prior))
        scores = shifted / temperature[:, None]
        scores -= scores.max(axis=1, keepdims=True)
        found = np.exp(scores)
        return np.asarray(found / found.sum(axis=1, keepdims=True))

    def to_dict(self) -> dict[str, Any]:
        """For `bundle.json`."""
        return {
            "temperature": dict(self.temperature),
            "uncertain_below": dict(self.uncertain_below),
            "priors": {name: dict(self._often(name)) for name in PRIORS},
            "words_share": self.words_share,
            "fitted_on": list(self.fitted_on),
        }

    @classmethod
    def from_dict(cls, emotions: Sequence[str], found: Mapping[str, Any]) -> "Calibration":
        """What `to_dict` gave. Raises BundleError for numbers that mean nothing."""
        parts: dict[str, dict[str, float]] = {"temperature": {}, "uncertain_below": {}}
        for name, values in parts.items():
            given = found.get(name, {})
            if not isinstance(given, dict):
                raise BundleError(f"calibration: {name} is not a table of subsets")
            for subset, value in given.items():
                if (
                    subset not in (*SUBSETS, *UNHEARD_SUBSETS)
                    or isinstance(value, bool)
                    or not isinstance(value, (int, float))
                    or not 0.0 <= value < 1e3
                    or (name == "temperature" and value == 0.0)
                ):
                    raise BundleError(f"calibration: {name} of {subset!r} is {value!r}")
                values[subset] = float(value)
        words_share = found.get("words_share", 0.0)
        number = isinstance(words_share, (int, float)) and not isinstance(words_share, bool)
        if not number or not 0.0 <= words_share < 1.0:
            raise BundleError(f"calibration: words_share is {words_share!r}, not in [0, 1)")
        fitted_on = found.get("fitted_on", [])
        if not isinstance(fitted_on, list) or not all(isinstance(name, str) for name in fitted_on):
            raise BundleError(f"calibration: fitted_on is {fitted_on!r}, not names of corpora")
        return cls(
            emotions=tuple(emotions),
            **parts,
            priors=_priors(emotions, found),
            words_share=float(words_share),
            fitted_on=tuple(fitted_on),
        )


def _priors(emotions: Sequence[str], found: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Those that a bundle carries. Raises BundleError unless they say how often emotions occur."""
    given = found.get("priors", {})
    if not isinstance(given, dict) or not given.keys() <= {*PRIORS}:
        raise BundleError(f"calibration: priors are {given!r}; known are {', '.join(PRIORS)}")
    for name, often in given.items():
        if not isinstance(often, dict) or often.keys() != {*emotions}:
            raise BundleError(f"calibration: the prior {name!r} is not of the bundle's emotions")
        if not all(isinstance(v, (int, float)) and 0.0 < v < 1e9 for v in often.values()):
            raise BundleError(f"calibration: the prior {name!r} has numbers that are not positive")
    return given


def _entry(
    table: Mapping[str, float], present: Sequence[bool], heard: bool, default: float
) -> float:
    name = subset_name(present)
    value = table.get(name, default)
    return value if heard else table.get(f"{name}{UNHEARD}", value)
