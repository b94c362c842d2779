"""What every inference backend offers."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import FeatureError

__all__ = ["Arrays", "Engine", "require_finite"]

Arrays = Mapping[str, NDArray[Any]]


class Engine(Protocol):
    """A loaded graph. `name`: of `choose.ENGINES`; `precision`: fp32, fp16, int8 or another that
    the bundle names."""

    name: str
    precision: str

    def infer(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Graph inputs by name -> graph outputs by name (shapes: see `features/pack.py`).

        Raises FeatureError when an input is missing, has another shape or type, or when a value,
        in or out, is not finite.
        """
        ...


def require_finite(arrays: Arrays, kind: str) -> None:
    """Raises FeatureError for NaN and infinite values; `kind`: input or output."""
    for name, values in arrays.items():
        if not np.isfinite(values).all():
            raise FeatureError(f"{kind} {name!r} holds NaN or infinite values")
