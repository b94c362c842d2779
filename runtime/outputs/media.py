"""Raw sound on disk, only when it is asked for."""

import io
import logging
import wave
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..features.spec import SPEC
from ..system.files import write_file
from ..utterances.segmenter import Segment

__all__ = ["SoundFolder", "wav_bytes"]

_logger = logging.getLogger("dmd_live")


class SoundFolder:
    """A folder with a WAV file (16 kHz, mono, 16 bit) per final event, named by utterance and time.

    A full disk ends the saving with a line in the log, not the stream.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._error, self._n_files = folder, "", 0

    @property
    def stats(self) -> dict[str, Any]:
        """The folder, how many files it was given, and why that stopped ("" if it did not)."""
        return {"folder": str(self._folder), "files": self._n_files, "error": self._error}

    def open(self) -> None:
        """Make the folder; raises UsageError when it holds something or cannot be made."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if any(self._folder.iterdir()):
                raise UsageError(f"{self._folder}: not empty; save media to a new or empty folder")
        except OSError as error:
            raise UsageError(f"{self._folder}: cannot save media ({error.strerror})") from error
        _logger.warning("the sound of every utterance is being stored in %s", self._folder)

    def add(self, number: int, segment: Segment, samples: NDArray[np.float32]) -> None:
        """Store the (n,) samples in [-1, 1] of an utterance."""
        if self._error:
            return
        try:
            write_file(
                self._folder / f"{number:05d}_{segment.start_s:.2f}s.wav", wav_bytes(samples)
            )
            self._n_files += 1
        except OSError as error:
            self._error = str(error.strerror)
            _logger.warning("%s: no more sound is saved (%s)", self._folder, error.strerror)


def wav_bytes(samples: NDArray[np.float32]) -> bytes:
    """A WAV file (16 kHz, mono, 16 bit) of (n,) samples in [-1, 1]."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as wav:
        wav.setparams((1, 2, SPEC.sample_rate_hz, 0, "NONE", ""))
        wav.writeframes((np.clip(samples, -1.0, 1.0) * 32_767).astype("<i2").tobytes())
    return buffer.getvalue()
