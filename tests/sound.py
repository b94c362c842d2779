"""Sound files that tests make."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.io import wavfile

from runtime.features.spec import SPEC

__all__ = ["write_wav"]


def write_wav(path: Path, samples: NDArray[np.floating]) -> Path:
    """Write samples in [-1, 1], (n,) or (n, channels) at 16 kHz, as 16 bits; returns the path."""
    wavfile.write(path, SPEC.sample_rate_hz, (32_767 * samples).astype(np.int16))
    return path
