"""Shapes that TensorRT prepares for: one profile for live use, one for batches."""

from ..features.pack import INPUTS
from ..features.spec import SPEC

__all__ = ["PROFILES", "Shapes"]

# Input -> "min", "opt" and "max" -> shape.
Shapes = dict[str, dict[str, list[int]]]

# Smallest, most likely and largest size of each dynamic axis: one piece or row up to the longest
# utterance of the contract, tuned for one of 4 s.
_LENGTHS = {
    "Tt": (1, 24, SPEC.max_pieces),
    "Ta": (1, round(4 * SPEC.audio_rate_hz), round(SPEC.max_utterance_s * SPEC.audio_rate_hz)),
    "Tv": (1, round(4 * SPEC.vision_rate_hz), round(SPEC.max_utterance_s * SPEC.vision_rate_hz)),
}
_BATCHES = {"live": (1, 1, 1), "batch": (1, 8, 32)}


def _shapes(batch: tuple[int, int, int]) -> Shapes:
    sizes = {"B": batch, **_LENGTHS}
    return {
        name: {
            bound: [sizes[axis][k] if isinstance(axis, str) else axis for axis in axes]
            for k, bound in enumerate(("min", "opt", "max"))
        }
        for name, (_, axes) in INPUTS.items()
    }


# In the order of TensorRT's profile numbers.
PROFILES: dict[str, Shapes] = {name: _shapes(batch) for name, batch in _BATCHES.items()}
