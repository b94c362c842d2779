"""What every inference backend offers."""

from collections.abc import Collection, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import DmdLiveError, FeatureError
from ..features.pack import INPUTS

__all__ = ["Arrays", "Engine", "checked", "require_finite"]

Arrays = Mapping[str, NDArray[Any]]


class Engine(Protocol):
    """A loaded graph. `name`: of `choose.ENGINES`; `precision`: fp32, fp16, int8 or another that
    the bundle names."""

    name: str
    precision: str

    def infer(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Graph inputs by name -> graph outputs by name (shapes: see `features/pack.py`).

        Raises FeatureError when an input is missing, has another shape or type, or is not finite.
        What goes wrong after that is an EngineError on a GPU, where the CPU may do better, and a
        FeatureError on the CPU.
        """
        ...


def checked(inputs: Arrays, taken: Collection[str]) -> dict[str, NDArray[Any]]:
    """The contract's inputs that the engine takes, contiguous. Raises FeatureError for anything
    else."""
    sizes: dict[str | int, int] = {}
    arrays = {}
    for name, (kind, axes) in INPUTS.items():
        if name not in taken:
            continue
        if name not in inputs:
            raise FeatureError(f"input {name!r} is missing")
        values = inputs[name]
        fits = values.dtype == kind and values.ndim == len(axes)
        if not fits or any(
            n != sizes.setdefault(axis, axis if isinstance(axis, int) else n)
            for axis, n in zip(axes, values.shape, strict=True)
        ):
            raise FeatureError(f"input {name!r} is {values.dtype} of shape {values.shape}")
        arrays[name] = np.ascontiguousarray(values)
    require_finite(arrays, "input")
    return arrays


def require_finite(arrays: Arrays, kind: str, wrong: type[DmdLiveError] = FeatureError) -> None:
    """Raises `wrong` for NaN and infinite values; `kind`: input or output."""
    for name, values in arrays.items():
        if not np.isfinite(values).all():
            raise wrong(f"{kind} {name!r} holds NaN or infinite values")
