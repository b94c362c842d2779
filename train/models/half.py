"""The weights of an ONNX graph, stored in half precision."""

from typing import Any

import numpy as np

__all__ = ["store_in_half"]

_LARGEST = np.finfo(np.float16).max


def store_in_half(model: Any, *, above: int) -> None:
    """Halve the size: fp32 constants of more than `above` numbers are rounded to 16 bits, and
    widened again when the model is loaded. Arithmetic stays in fp32, and so do constants that 16
    bits cannot hold, such as the -1e9 of a mask."""
    from onnx import TensorProto, helper, numpy_helper

    graph, casts = model.graph, []
    for weight in list(graph.initializer):
        values = numpy_helper.to_array(weight)
        fits = values.dtype == np.float32 and np.abs(values).max(initial=0.0) < _LARGEST
        if fits and values.size > above:
            half = numpy_helper.from_array(values.astype(np.float16), f"{weight.name}.half")
            graph.initializer.remove(weight)
            graph.initializer.append(half)
            casts.append(helper.make_node("Cast", [half.name], [weight.name], to=TensorProto.FLOAT))
    for k, node in enumerate(casts):
        graph.node.insert(k, node)
