"""fp32 graph -> the graph of a recipe, with parts left in higher precision where that is asked.

Recipes: `int8-dynamic` (CPU: weights in int8, a scale per column; activations quantized as they
come, the language encoder's with a scale per word piece), `int8-qdq` (explicit, symmetric Q/DQ
pairs with scales calibrated on real features, as TensorRT wants it), `fp16`, and `mixed` (int8-qdq
with the rest in fp16). In int8, outliers of the language encoder's activations first move into its
weights (SmoothQuant, Xiao et al., ICML 2023).
"""

import io
import math
from collections.abc import Collection, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from train.data.utterance import Utterance, collate

from .half import to_fp16
from .parity import onnx_inputs

__all__ = ["CALIBRATION", "PRECISIONS", "Maker"]

# Recipe -> name of the model in the bundle.
PRECISIONS = {"int8-dynamic": "int8", "int8-qdq": "int8-qdq", "fp16": "fp16", "mixed": "mixed"}
# Option -> name in onnxruntime.quantization.CalibrationMethod.
CALIBRATION = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}
# SmoothQuant's alpha: how much of an outlier moves into the weights. Where every row has a scale of
# its own, less need move.
_SMOOTHING = {"int8-dynamic": 0.5, "int8-qdq": 0.75, "mixed": 0.75}
# Weights of a product that int8-dynamic leaves in fp32: 64 x 128 and less take as long in int8, and
# the first of them, which all modalities share, made half of the difference to voices.
_SMALL = 8192


class Maker:
    """Makes the recipe's model; `left_out`: parts that stay in higher precision."""

    def __init__(
        self,
        fp32: bytes,
        recipe: str,
        calibration: str,
        examples: Sequence[Utterance],
        temporary: Path,
    ) -> None:
        import onnx
        from onnxruntime.quantization import quant_pre_process

        self._recipe, self._calibration, self._fp32 = recipe, calibration, fp32
        self._examples = [onnx_inputs(collate([u])) for u in examples]
        self._ready, self._made = temporary / "ready.onnx", temporary / "made.onnx"
        source = temporary / "fp32.onnx"
        source.write_bytes(fp32)
        # Shapes are inferred and constants folded; the runtime's own fusions come at load time.
        quant_pre_process(source, self._ready, skip_symbolic_shape=True, skip_optimization=True)
        model = onnx.load(self._ready)
        if recipe == "int8-dynamic":
            _quantize_embeddings(model)
        if recipe in _SMOOTHING:
            _smooth(model, self._examples, _SMOOTHING[recipe])
        onnx.save(model, self._ready)
        sizes = {i.name: math.prod(i.dims) for i in model.graph.initializer}
        least = _SMALL if recipe == "int8-dynamic" else 0
        # Gemm: products of one row for each utterance. Int8 would save no time there, and made a
        # third of int8-qdq's difference.
        kinds = ("MatMul", "Gemm") if recipe in ("fp16", "mixed") else ("MatMul",)
        products = [n for n in model.graph.node if n.op_type in kinds]
        self._nodes = [n.name for n in products if sizes.get(n.input[1], 0) > least]
        self._activations_only = [n.name for n in products if n.input[1] not in sizes]

    @property
    def parts(self) -> list[str]:
        """Parts of the model, by module."""
        return sorted({_part(name) for name in self._nodes})

    def make(self, left_out: Sequence[str]) -> bytes:
        """The model with everything but `left_out` quantized."""
        excluded = [name for name in self._nodes if _part(name) in left_out]
        if self._recipe == "fp16":
            return to_fp16(self._fp32, excluded)
        if self._recipe == "int8-dynamic":
            return self._dynamic(excluded)
        made = self._static(excluded)
        return to_fp16(made, excluded) if self._recipe == "mixed" else made

    def _dynamic(self, excluded: list[str]) -> bytes:
        """Of `excluded`, the weights become int8 all the same: the size is that of all int8."""
        import onnx

        model = onnx.load(self._ready)
        _store_weights(model, self._nodes)
        _multiply_in_int8(model, [name for name in self._nodes if name not in excluded])
        _dequantize_weights(model, excluded)
        del model.graph.value_info[:]  # shapes that only quantization wanted
        return bytes(model.SerializeToString())

    def _static(self, excluded: list[str]) -> bytes:
        from onnxruntime.quantization import (
            CalibrationMethod,
            QuantFormat,
            QuantType,
            quantize_static,
        )

        with redirect_stdout(io.StringIO()):  # calibrators tell of every example
            quantize_static(
                self._ready,
                self._made,
                _Reader(self._examples),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["MatMul"],
                # Attention's products of two activations stay: shares of hundreds of rows are below
                # the step of a common scale. (MatMulConstBOnly is heeded for dynamic int8 alone.)
                nodes_to_exclude=[*excluded, *self._activations_only],
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=getattr(CalibrationMethod, CALIBRATION[self._calibration]),
                extra_options={
                    "ActivationSymmetric": True,
                    "WeightSymmetric": True,
                    "QuantizeBias": False,
                    "OpTypesToExcludeOutputQuantization": ["MatMul"],
                    "CalibStridedMinMax": 1,  # one by one: they differ in length
                },
            )
        return self._made.read_bytes()


class _Reader:
    """Calibration examples for onnxruntime's quantizer, which asks for a range at a time."""

    def __init__(self, examples: Sequence[dict[str, Any]]) -> None:
        self._examples = examples
        self.set_range(0, len(examples))

    def __len__(self) -> int:
        return len(self._examples)

    def set_range(self, start_index: int, end_index: int) -> None:
        """The examples that come next."""
        self._next = iter(self._examples[start_index:end_index])

    def get_next(self) -> dict[str, Any] | None:
        """The next inputs, None after the last."""
        return next(self._next, None)


def _part(name: str) -> str:
    """Part that a node belongs to: a layer's half of the language encoder, or a module of DMD."""
    steps = name.split("/")[0].split(".")
    if "layer" in steps:
        k = steps.index("layer")
        return ".".join(["language", *steps[k : k + 3]])
    return ".".join(steps[:2])


def _store_weights(model: Any, names: Collection[str]) -> None:
    """The weights of these products in int8, a scale per column.

    Processors without VNNI add two neighbours' products in 16 bits: 255 * (w1 + w2) must not exceed
    them, so neither may a column's scale let a pair's sum exceed 128.
    """
    from onnx import numpy_helper

    graph = model.graph
    stored = {i.name: i for i in graph.initializer}
    # By weight: some products share one.
    for weight in dict.fromkeys(n.input[1] for n in graph.node if n.name in names):
        values = numpy_helper.to_array(stored[weight])
        pairs = np.pad(values, ((0, len(values) % 2), (0, 0)))
        largest = np.maximum(
            np.abs(values).max(axis=0), np.abs(pairs[::2] + pairs[1::2]).max(axis=0)
        )
        _store(graph, stored[weight], largest)


def _store(graph: Any, constant: Any, largest: Any) -> None:
    """`NAME/int8` and `NAME/scale`, which reaches `largest`, in place of the constant NAME."""
    from onnx import numpy_helper

    values = numpy_helper.to_array(constant)
    scale = np.maximum(largest / 127.0, 1e-12).astype(np.float32)
    steps = np.round(values / scale).astype(np.int8)
    graph.initializer.append(numpy_helper.from_array(steps, f"{constant.name}/int8"))
    graph.initializer.append(numpy_helper.from_array(scale, f"{constant.name}/scale"))
    graph.initializer.remove(constant)


def _multiply_in_int8(model: Any, names: Collection[str]) -> None:
    """Quantize what these products read as it comes, and multiply integers.

    In the language encoder every row (word piece) has a scale of its own: one for all of them made
    half as much difference again to sentences. Elsewhere one for the whole input, batch included,
    is as accurate, and onnxruntime fuses all that into one node.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    constants = {"last": np.array([-1]), "zero": np.array(128, np.uint8)}
    constants |= {"step": np.array(1.0 / 127.0, "f4"), "least": np.array(1e-12, "f4")}
    for name, value in constants.items():
        graph.initializer.append(numpy_helper.from_array(value, f"int8/{name}"))
    nodes: list[Any] = []
    read: set[str] = set()
    for node in graph.node:
        if node.name not in names:
            nodes.append(node)
            continue
        (x, weight), by_row = node.input, node.name.startswith("language.")
        key, product = f"{x}/{'row' if by_row else 'whole'}", f"{node.name}/product"
        if key not in read and by_row:
            nodes += [
                _node("Abs", [x], f"{key}/abs"),
                _node("ReduceMax", [f"{key}/abs", "int8/last"], f"{key}/largest", keepdims=1),
                _node("Max", [f"{key}/largest", "int8/least"], f"{key}/scale"),
                _node("Div", [x, f"{key}/scale"], f"{key}/share"),
                _node("QuantizeLinear", [f"{key}/share", "int8/step", "int8/zero"], f"{key}/int8"),
            ]
        elif key not in read:
            outputs = [f"{key}/{part}" for part in ("int8", "scale", "zero")]
            nodes.append(_node("DynamicQuantizeLinear", [x], *outputs))
        read.add(key)
        factors = [f"{key}/int8", f"{weight}/int8"]
        if by_row:
            inputs = [*factors, "int8/step", f"{weight}/scale", "int8/zero"]
            nodes += [
                _node("MatMulIntegerToFloat", inputs, product, domain="com.microsoft"),
                _node("Mul", [product, f"{key}/scale"], node.output[0], name=node.name),
            ]
        else:
            nodes += [
                _node("MatMulInteger", [*factors, f"{key}/zero"], f"{product}/int32"),
                _node("Cast", [f"{product}/int32"], product, to=TensorProto.FLOAT),
                _node("Mul", [f"{key}/scale", f"{weight}/scale"], f"{product}/scale"),
                _node("Mul", [product, f"{product}/scale"], node.output[0], name=node.name),
            ]
    del graph.node[:]
    graph.node.extend(nodes)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def _dequantize_weights(model: Any, names: Collection[str]) -> None:
    """Multiply in fp32, with the weights that `_store_weights` left."""
    graph = model.graph
    for weight in dict.fromkeys(n.input[1] for n in graph.node if n.name in names):
        stored = [f"{weight}/int8", f"{weight}/scale"]
        graph.node.insert(0, _node("DequantizeLinear", stored, weight, axis=1))


def _node(
    kind: str, inputs: Sequence[str], *outputs: str, name: str = "", **attributes: Any
) -> Any:
    """A node, named as its first output unless it has a name."""
    from onnx import helper

    return helper.make_node(kind, inputs, outputs, name or outputs[0], **attributes)


def _quantize_embeddings(model: Any) -> None:
    """Store tables of embeddings in int8, a scale per row: onnxruntime's own quantizer takes one
    scale for all words, which is an eighth of the difference that int8 makes to sentences."""
    from onnx import TensorProto, numpy_helper

    graph = model.graph
    tables = {i.name: i for i in graph.initializer if len(i.dims) == 2}
    for node in [n for n in graph.node if n.op_type == "Gather" and n.input[0] in tables]:
        table, ids = node.input
        values = numpy_helper.to_array(tables[table])
        _store(graph, tables.pop(table), np.abs(values).max(axis=1, keepdims=True))
        int8, scale, cast = (f"{node.name}/{part}" for part in ("int8", "scale", "cast"))
        replacement = (
            _node("Gather", [f"{table}/int8", ids], int8),
            _node("Gather", [f"{table}/scale", ids], scale),
            _node("Cast", [int8], cast, to=TensorProto.FLOAT),
            _node("Mul", [cast, scale], node.output[0], name=node.name),
        )
        at = list(graph.node).index(node)
        graph.node.remove(node)
        for k, new in enumerate(replacement):
            graph.node.insert(at + k, new)


def _smooth(model: Any, examples: Sequence[dict[str, Any]], alpha: float) -> None:
    """Divide each input channel of the language encoder's products by a factor, and multiply the
    weights by it: s = max|x| ** alpha / max|w| ** (1 - alpha). The product stays.

    Measured on validation texts, outliers there cause nearly all of the difference int8 makes.
    """
    import onnxruntime as ort
    from onnx import helper, numpy_helper

    graph = model.graph
    weights = {i.name: i for i in graph.initializer}
    readers: dict[str, list[Any]] = {}  # by what they read: query, key and value share it
    for node in graph.node:
        if (
            node.op_type == "MatMul"
            and node.input[1] in weights
            and node.name.startswith("language.")
        ):
            readers.setdefault(node.input[0], []).append(node)
    watched = sorted(readers)
    n_outputs = len(graph.output)
    graph.output.extend(helper.make_empty_tensor_value_info(name) for name in watched)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    del graph.output[n_outputs:]
    largest: dict[str, Any] = {}
    for example in examples:
        for name, values in zip(watched, session.run(watched, example), strict=True):
            found = np.abs(values).reshape(-1, values.shape[-1]).max(axis=0)
            largest[name] = np.maximum(largest.get(name, 0.0), found)
    for name, nodes in readers.items():
        stored = {n.name: numpy_helper.to_array(weights[n.input[1]]) for n in nodes}
        widest = np.max([np.abs(w).max(axis=1) for w in stored.values()], axis=0)
        s = np.maximum(largest[name], 1e-5) ** alpha
        s /= np.maximum(widest, 1e-5) ** (1.0 - alpha)
        factor = numpy_helper.from_array((1.0 / s).astype(np.float32), f"{name}/smooth")
        graph.initializer.append(factor)
        smoothed = _node(
            "Mul", [name, factor.name], f"{name}/smoothed", name=f"{nodes[0].name}/smooth"
        )
        graph.node.insert(list(graph.node).index(nodes[0]), smoothed)
        for node in nodes:
            graph.initializer.remove(weights[node.input[1]])
            weight = (stored[node.name] * s[:, None]).astype(np.float32)
            graph.initializer.append(numpy_helper.from_array(weight, f"{node.name}/weight"))
            node.input[:] = [smoothed.output[0], f"{node.name}/weight"]
