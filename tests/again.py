"""Networks that give for an input what they gave for it before, and are loaded once.

Most tests show the same clip to the same networks: two thirds of a worker's time went into numbers
that it already had, and a fourth of the rest into loading. The first time, every network runs.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from runtime.features import vision
from runtime.features.litert import Network
from runtime.speech.moonshine import Moonshine
from runtime.speech.vad import VoiceActivity
from runtime.utterances import recognizer

__all__ = ["remember"]

_MOST = 10_000  # answers that are kept, of about 6 kB each

Float = NDArray[np.float32]


_known: dict[Any, Any] = {}


def _answer(key: Any, make: Callable[[], Any]) -> Any:
    """What `make` gives, or gave before for this key."""
    if (answer := _known.get(key)) is None:
        if len(_known) >= _MOST:
            _known.clear()
        answer = _known[key] = make()
    return answer


class Voice(VoiceActivity):
    """What follows the same sound is as likely speech as it was before."""

    def __init__(self) -> None:
        super().__init__()
        self._heard = 0  # a hash of all since the last reset
        self._skipped: list[Float] = []  # which the network has yet to hear

    def probability(self, samples: Float) -> float:
        self._heard = hash((self._heard, samples.tobytes()))
        self._skipped.append(samples.copy())
        return float(_answer(("voice", self._heard), self._listen))

    def _listen(self) -> float:
        found = [super(Voice, self).probability(samples) for samples in self._skipped]
        self._skipped.clear()
        return found[-1]

    def reset(self) -> None:
        super().reset()
        self._heard = 0
        self._skipped.clear()


def remember(patch: pytest.MonkeyPatch) -> None:
    """Let the voice detector, the face networks and Moonshine answer from memory; ONNX graphs are
    loaded once for the same options."""

    class Remembering(Network):
        def __init__(self, content: bytes) -> None:
            super().__init__(content)
            self._hash = hash(content)

        def __call__(self, array: Float) -> list[Float]:
            ask = super().__call__
            found = _answer((self._hash, hash(array.tobytes())), lambda: ask(array))
            return [output.copy() for output in found]

    decode = Moonshine._decode

    def remembering(self: Moonshine, samples: Float, draft: list[int]) -> tuple[list[int], float]:
        def make() -> tuple[tuple[list[int], float], Float]:
            found = decode(self, samples, draft)
            return found, self.embedding

        key = hash(samples.tobytes()), tuple(draft)
        (tokens, score), self.embedding = _answer(key, make)
        return list(tokens), score

    load = onnxruntime.InferenceSession

    def loaded(model: Path | bytes, options: Any, providers: list[Any], **more: Any) -> Any:
        content = model if isinstance(model, bytes) else model.read_bytes()
        key = hash(content), options.intra_op_num_threads, str(providers), str(more)
        return _answer(key, lambda: load(model, options, providers=providers, **more))

    patch.setattr(onnxruntime, "InferenceSession", loaded)
    patch.setattr(recognizer, "VoiceActivity", Voice)
    patch.setattr(vision, "Network", Remembering)
    patch.setattr(Moonshine, "_decode", remembering)
