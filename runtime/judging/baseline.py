"""How a speaker usually reads to the model, learned from finals, so that habit is not emotion."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..system.files import write_file

__all__ = ["Baseline"]

Float = NDArray[np.float64]

_STEP = 0.05  # an utterance's share in the running mean: about the last 20 count
_CLIP = 3.0  # one strong utterance must not count like many
# At rest neutral shall be twice as likely as any other emotion; who reads so is not corrected.
_REST = -float(np.log(2.0))
_MOST = 2.0  # the largest correction, in log-odds: what is said and seen stays stronger than habit
_MOST_SENTIMENT = 1.0
_FORMAT = 1


class Baseline:
    """The running mean of one speaker's log-odds against neutral, and of the sentiment.

    A prior correction: an emotion that the speaker's utterances usually favour over neutral is
    lowered by as much as it is favoured, so that a face at rest reads neutral, and what differs
    from the habit stands out. An emotion that they do not favour is left as it is, and so is
    everything before the first final. `emotions` must have "neutral" among them, else UsageError.

    It comes last: voices were heard against the session's speech before (`SpeechStatistics`), so
    what is left to it is how a face rests, how somebody words things, and how the model reads them.

    One speaker is assumed: reset it when another takes over.
    """

    def __init__(self, emotions: tuple[str, ...]) -> None:
        if "neutral" not in emotions:
            raise UsageError("a baseline needs a bundle that knows neutral; leave --baseline out")
        self._emotions, self._neutral = emotions, emotions.index("neutral")
        self.reset()

    def reset(self) -> None:
        """Forget the speaker."""
        self._odds = np.full(len(self._emotions), _REST)  # (n_emotions,)
        self._odds[self._neutral] = 0.0
        self._sentiment = 0.0
        self.n_learned = 0

    def correct(self, probabilities: Float, sentiment: float) -> tuple[Float, float]:
        """(n_emotions,) probabilities that sum to 1, and sentiment in [-3, 3], without habit."""
        shift = np.clip(self._odds - _REST, 0.0, _MOST)
        shift[self._neutral] = 0.0
        if shift.any():  # else not even rounding may change them
            probabilities = probabilities * np.exp(-shift)
            probabilities = probabilities / probabilities.sum()
        habit = float(np.clip(self._sentiment, -_MOST_SENTIMENT, _MOST_SENTIMENT))
        return probabilities, float(np.clip(sentiment - habit, -3.0, 3.0))

    def learn(self, probabilities: Float, sentiment: float) -> None:
        """Take the model's own, uncorrected estimate of an utterance of the speaker."""
        logs = np.log(np.maximum(probabilities, 1e-6))
        odds = np.clip(logs - logs[self._neutral], -_CLIP, _CLIP)
        self._odds = self._odds + _STEP * (odds - self._odds)
        self._sentiment += _STEP * (sentiment - self._sentiment)
        self.n_learned += 1

    def state(self) -> dict[str, Any]:
        """What was learned, for JSON; numbers are exact."""
        return {
            "odds": dict(zip(self._emotions, self._odds.tolist(), strict=True)),
            "sentiment": self._sentiment,
            "n_learned": self.n_learned,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state`; raises ValueError, KeyError or TypeError for anything else."""
        odds = np.array([float(state["odds"][name]) for name in self._emotions])
        sentiment, n_learned = float(state["sentiment"]), int(state["n_learned"])
        if not np.isfinite([*odds, sentiment]).all():
            raise ValueError("not finite")
        self._odds, self._sentiment, self.n_learned = odds, sentiment, n_learned

    def load(self, path: Path, bundle_sha256: str) -> bool:
        """Go on from a file that `save` wrote; False when there is none, or of another bundle.

        What one model favours says nothing about another. Raises UsageError for any other file.
        """
        try:
            found = json.loads(path.read_bytes())
            if found["baseline"] != _FORMAT:
                raise ValueError(f"format {found['baseline']}")
            if found["bundle_sha256"] != bundle_sha256:
                return False
            self.restore(found)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{path}: not a baseline ({error}); remove it to start anew"
            ) from error
        return True

    def save(self, path: Path, bundle_sha256: str) -> None:
        """Write what was learned; raises OSError when that fails."""
        state = {"baseline": _FORMAT, "bundle_sha256": bundle_sha256, **self.state()}
        write_file(path, json.dumps(state).encode() + b"\n")
