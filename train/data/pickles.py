"""Pickles of arrays, read safely.

A pickle can run code when it is read. These are read by an unpickler that knows numpy's arrays and
plain containers, and refuses everything else by name.
"""

import pickle
import re
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from .labels import DataError

__all__ = ["read_pickle"]


def read_pickle(path: Path) -> Any:
    """The content of a pickle of arrays and plain containers. Raises DataError for any other."""
    try:
        with path.open("rb") as file:
            # Python 2 wrote bytes as text; latin1 gives them back unchanged.
            return _plain(_Unpickler(file, encoding="latin1").load())
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; pass a feature file") from error
    except _RefusedError as error:
        raise DataError(
            f"{path}: asks for {error}, which no feature file needs; refused"
        ) from error
    except Exception as error:  # a damaged pickle can fail in any way
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{path}: not a complete pickle ({reason}); copy it again") from error


class _RefusedError(Exception):
    pass


class _Unpickler(pickle.Unpickler):
    """Rebuilds arrays by functions of our own: given a forged buffer or dtype, numpy's would take
    its bytes for the addresses of objects."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN_NAMES:
            raise _RefusedError(f"{module}.{name}")
        return _KNOWN_NAMES[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise _RefusedError("a persistent object")


class _Dtype:
    """What a pickle says of a dtype: plain numbers, text or objects, and a byte order."""

    def __init__(self, code: str, *_: Any) -> None:
        if not re.fullmatch("[<>|=]?([biuf][1-8]|f16|[SU][0-9]{1,9}|O8?)", str(code)):
            raise _RefusedError(f"an array of {code!r}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if any(part is not None for part in state[2:5]):
            raise _RefusedError("an array of structures")
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """An array that a pickle fills; `_plain` puts what it holds in its place."""

    value: NDArray[Any]

    def __init__(self, kind: Any, *_: Any) -> None:
        if kind is not _ndarray:
            raise _RefusedError("an array of another class")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, by_columns, data = state
        order: Literal["F", "C"] = "F" if by_columns else "C"
        if kind.dtype == object:
            self.value = np.empty(len(data), object)
            self.value[:] = [_plain(item) for item in data]
            self.value = self.value.reshape(shape, order=order)
        else:
            self.value = _from_buffer(data, kind, shape, order)


def _from_buffer(
    data: bytes | bytearray | str, kind: _Dtype, shape: tuple[int, ...], order: str
) -> NDArray[Any]:
    if isinstance(data, str):
        data = data.encode("latin1")
    if kind.dtype == object or not isinstance(data, bytes | bytearray):
        raise _RefusedError("objects made of bytes")
    array: Any = np.empty(0, kind.dtype)
    # As numpy does it, so that the bytes are not copied: the array may be written to.
    array.__setstate__((1, shape, kind.dtype, order == "F", bytes(data)))
    return cast(NDArray[Any], array)


def _scalar(kind: _Dtype, data: bytes | str) -> Any:
    return _from_buffer(data, kind, (), "C")[()]


def _ndarray(*_: Any) -> None:
    """Only named in a pickle, as the class of arrays."""
    raise _RefusedError("an array by its class")


def _encode(text: str, encoding: str) -> bytes:
    """How protocol 2 writes bytes."""
    return text.encode("latin1")


def _defaultdict(*_: Any) -> dict[Any, Any]:
    """A plain one, which its items follow: what it makes of a missing key is no data."""
    return {}


# What a pickled array asks for: how numpy 1 and 2 rebuild arrays, scalars and types; and how plain
# containers are pickled.
_KNOWN_NAMES: dict[tuple[str, str], Any] = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
    ("numpy", "ndarray"): _ndarray,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
    **{(builtins, "set"): set for builtins in ("builtins", "__builtin__")},
    **{(builtins, "list"): list for builtins in ("builtins", "__builtin__")},
    ("collections", "defaultdict"): _defaultdict,
    ("collections", "OrderedDict"): dict,
}


def _plain(value: Any) -> Any:
    """Containers with arrays in the place of what stood for them."""
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return type(value)(_plain(item) for item in value)
    return value
