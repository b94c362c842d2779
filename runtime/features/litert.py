"""One TFLite network on LiteRT."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Network"]

Float = NDArray[np.float32]


class Network:
    """A TFLite network with a single float32 input."""

    def __init__(self, content: bytes) -> None:
        from ai_edge_litert.interpreter import Interpreter

        with _native_log_off():
            self._interpreter: Any = Interpreter(model_content=content, num_threads=1)
            self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._outputs = [detail["index"] for detail in self._interpreter.get_output_details()]

    def __call__(self, array: Float) -> list[Float]:
        """All outputs for one input."""
        self._interpreter.set_tensor(self._input, array)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]


_stderr_lock = threading.Lock()  # streams that open at once would save each other's sink


@contextmanager
def _native_log_off() -> Iterator[None]:
    """LiteRT announces its delegate on file descriptor 2 and has no setting against it."""
    with _stderr_lock:
        sys.stderr.flush()
        saved, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(sink, 2)
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            os.close(sink)
