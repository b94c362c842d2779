"""Finding speech (voice activity) and turning it into words."""

import logging
from pathlib import Path

from ..errors import DmdLiveError, UsageError
from ..store import models
from .base import SpeechToText

__all__ = ["PARTS", "open_recogniser"]

PARTS = {"vosk": "vosk-small-en-us", "moonshine": "moonshine-tiny-en"}
"""Each recogniser's part in the model store."""

_logger = logging.getLogger("dmd_live")


def open_recogniser(stt: str, model: Path | None = None) -> SpeechToText | None:
    """The recogniser that `stt` names: auto, vosk, moonshine or none.

    auto takes Vosk when its model is here, else Moonshine, else None; one that cannot be loaded
    gives way to the other, with a warning. `model`: a Vosk model of the
    user's own instead of the store's. Raises ModelError when a part is missing or damaged,
    SpeechError when the engine cannot start, UsageError when the choices contradict each other.
    """
    if stt not in ("auto", "vosk", "moonshine", "none"):
        raise UsageError(f"stt is auto, vosk, moonshine or none, not {stt!r}")
    if model is not None and stt not in ("auto", "vosk"):
        raise UsageError(f"a model folder is for vosk; leave it out with {stt}")
    if stt == "auto":
        return _first_that_loads(model)
    if stt == "vosk":
        from .vosk import Vosk

        return Vosk(models.resolve(PARTS["vosk"]) if model is None else model)
    if stt == "moonshine":
        from .moonshine import Moonshine

        return Moonshine(models.resolve(PARTS["moonshine"]))
    return None


def _first_that_loads(model: Path | None) -> SpeechToText | None:
    names = [
        name
        for name, part in PARTS.items()
        if (name == "vosk" and model is not None) or models.is_here(part)
    ]
    for name in names:
        try:
            return open_recogniser(name, model if name == "vosk" else None)
        except DmdLiveError as error:
            if name == names[-1]:
                raise
            _logger.warning("%s; %s takes its place", error, names[-1])
    return None
