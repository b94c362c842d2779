"""fp32 graph -> int8 graph by dynamic quantization: weights in int8, activations on the fly.

The language encoder's feed-forward layers keep fp32 activations; only their weights are int8.
"""

import logging
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime.bundle import Bundle
from runtime.config import option, parse
from runtime.errors import DmdLiveError

from . import bundle

__all__ = ["Options", "quantize"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Add an int8 model to a bundle: matrix products and embeddings; the rest stays fp32."""

    bundle: str = option("bundle", metavar="FOLDER", help="a bundle with an fp32 model")


def main() -> int:
    """Run the command; returns the exit code."""
    options = parse(Options, None, prog="python -m export.quantize")
    try:
        quantize(Path(options.bundle))
    except DmdLiveError as error:
        print(f"export.quantize: {error}", file=sys.stderr)
        return 2
    return 0


def quantize(folder: Path) -> None:
    """Write `model.int8.onnx` next to the fp32 model. Raises BundleError for a damaged bundle."""
    import onnx
    from onnxruntime.quantization import QuantType, quant_pre_process, quantize_dynamic

    source = Bundle.load(folder, "fp32")
    logging.getLogger().setLevel(logging.ERROR)  # the quantizer advises on the root logger
    with tempfile.TemporaryDirectory(dir=folder, prefix=".int8-") as temporary:
        fp32, prepared, int8 = (Path(temporary) / f"{n}.onnx" for n in ("fp32", "ready", "int8"))
        fp32.write_bytes(source.model)
        quant_pre_process(fp32, prepared, skip_symbolic_shape=True)
        sensitive = _feed_forward(onnx.load(prepared))
        quantize_dynamic(
            prepared,
            int8,
            op_types_to_quantize=["MatMul", "Gather"],
            nodes_to_exclude=sensitive,
            per_channel=True,
            # Seven bits: eight would overflow the 16-bit sums of x86 processors without VNNI.
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )
        model = onnx.load(int8)
        _quantize_weights(model, sensitive)
        bundle.write_file(folder / "model.int8.onnx", model.SerializeToString())
    # What was measured for an earlier int8 model does not speak of this one.
    bundle.update(folder, {"models": {"int8": "model.int8.onnx"}, "parity": None})
    sizes = [(folder / f"model.{p}.onnx").stat().st_size / 1e6 for p in ("fp32", "int8")]
    print(f"export.quantize: {sizes[0]:.1f} MB fp32 -> {sizes[1]:.1f} MB int8")


def _feed_forward(model: Any) -> list[str]:
    """Names of the language encoder's feed-forward products: (width, 4 width) and back.

    Their activations have outliers that one scale a tensor cannot hold: measured on validation
    texts, they cause nearly all of the difference that int8 makes.
    """
    shapes = {i.name: tuple(i.dims) for i in model.graph.initializer}
    # The word embeddings are the largest table of the graph; their width is the encoder's.
    width = max((s for s in shapes.values() if len(s) == 2), key=lambda s: s[0] * s[1])[1]
    return [
        node.name
        for node in model.graph.node
        if node.op_type == "MatMul" and sorted(shapes.get(node.input[1], ())) == [width, 4 * width]
    ]


def _quantize_weights(model: Any, names: list[str]) -> None:
    """Store the weights of these products in int8, a scale per column; activations stay fp32."""
    from onnx import helper, numpy_helper

    graph = model.graph
    weights = {i.name: i for i in graph.initializer}
    for node in [n for n in graph.node if n.name in names]:
        name = node.input[1]
        values = numpy_helper.to_array(weights[name])
        scale = np.maximum(np.abs(values).max(axis=0) / 127.0, 1e-12).astype(np.float32)
        stored = np.round(values / scale).astype(np.int8)
        graph.initializer.remove(weights[name])
        graph.initializer.extend(
            [
                numpy_helper.from_array(stored, f"{name}_int8"),
                numpy_helper.from_array(scale, f"{name}_scale"),
            ]
        )
        graph.node.insert(
            0,
            helper.make_node(
                "DequantizeLinear",
                [f"{name}_int8", f"{name}_scale"],
                [name],
                name=f"{name}_dequantize",
                axis=1,
            ),
        )


if __name__ == "__main__":
    sys.exit(main())
