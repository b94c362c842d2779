"""What every inference backend offers."""

from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

__all__ = ["Arrays", "Engine"]

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
