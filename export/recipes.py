"""fp32 graph -> the graph of a recipe, with parts left in higher precision where that is asked.

Recipes: `int8-dynamic` (CPU: weights in int8, a scale for every 32 of them, activations quantized
as they come), `int8-qdq` (explicit, symmetric Q/DQ pairs with scales calibrated on real features,
as TensorRT wants it), `fp16`, and `mixed` (int8-qdq with the rest in fp16). Before scales are
calibrated, outliers of the language encoder's activations move into its weights (SmoothQuant, Xiao
et al., ICML 2023).
"""

import io
import logging
from collections.abc import Sequence
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
_SMOOTHING = 0.75  # SmoothQuant's alpha: how much of an outlier moves into the weights
_BLOCK = 32  # weights that share a scale; one for a column cost sentences 0.95 points of Acc-7


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
        elif recipe != "fp16":
            _smooth(model, self._examples)
        onnx.save(model, self._ready)
        constant = {i.name for i in model.graph.initializer}
        # Gemm: products of one row for each utterance. Int8 would save no time there, and made a
        # third of int8-qdq's difference.
        kinds = ("MatMul", "Gemm") if recipe in ("fp16", "mixed") else ("MatMul",)
        products = [n for n in model.graph.node if n.op_type in kinds]
        self._nodes = [n.name for n in products if n.input[1] in constant]
        self._activations_only = [n.name for n in products if n.input[1] not in constant]

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

        logging.basicConfig()  # first: the module that comes next has all be told otherwise
        from onnxruntime.quantization.matmul_nbits_quantizer import (
            DefaultWeightOnlyQuantConfig,
            MatMulNBitsQuantizer,
        )

        in_int8 = 4  # the products: activations are quantized as they come, by block too
        config = DefaultWeightOnlyQuantConfig(
            block_size=_BLOCK, bits=8, is_symmetric=True, accuracy_level=in_int8
        )
        quantizer = MatMulNBitsQuantizer(
            onnx.load(self._ready), nodes_to_exclude=excluded, algo_config=config
        )
        quantizer.process()
        model = quantizer.model.model
        del model.graph.value_info[:]  # shapes that only the quantizer wanted
        _quantize_weights(model, excluded)
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


def _quantize_weights(model: Any, names: list[str]) -> None:
    """Store the weights of these products in int8, a scale per column; activations stay fp32."""
    from onnx import helper, numpy_helper

    graph = model.graph
    weights = {i.name: i for i in graph.initializer}
    # By weight: some products share one.
    nodes = {n.input[1]: n for n in graph.node if n.name in names}
    for name, node in nodes.items():
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
                name=f"{node.name}/DequantizeLinear",
                axis=1,
            ),
        )


def _quantize_embeddings(model: Any) -> None:
    """Store tables of embeddings in int8, a scale per row: onnxruntime's own quantizer takes one
    scale for all words, which is an eighth of the difference that int8 makes to sentences."""
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    tables = {i.name: i for i in graph.initializer if len(i.dims) == 2}
    for node in [n for n in graph.node if n.op_type == "Gather" and n.input[0] in tables]:
        table, ids = node.input
        values = numpy_helper.to_array(tables[table])
        scale = np.maximum(np.abs(values).max(axis=1, keepdims=True) / 127.0, 1e-12)
        for name, stored in (
            ("int8", np.round(values / scale).astype(np.int8)),
            ("scale", scale.astype(np.float32)),
        ):
            graph.initializer.append(numpy_helper.from_array(stored, f"{table}/{name}"))
        graph.initializer.remove(tables.pop(table))
        parts = {part: f"{node.name}/{part}" for part in ("int8", "scale", "cast")}
        replacement = (
            helper.make_node("Gather", [f"{table}/int8", ids], [parts["int8"]], parts["int8"]),
            helper.make_node("Gather", [f"{table}/scale", ids], [parts["scale"]], parts["scale"]),
            helper.make_node(
                "Cast", [parts["int8"]], [parts["cast"]], parts["cast"], to=TensorProto.FLOAT
            ),
            helper.make_node("Mul", [parts["cast"], parts["scale"]], node.output, node.name),
        )
        at = list(graph.node).index(node)
        graph.node.remove(node)
        for k, new in enumerate(replacement):
            graph.node.insert(at + k, new)


def _smooth(model: Any, examples: Sequence[dict[str, Any]]) -> None:
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
        s = np.maximum(largest[name], 1e-5) ** _SMOOTHING
        s /= np.maximum(widest, 1e-5) ** (1.0 - _SMOOTHING)
        factor = numpy_helper.from_array((1.0 / s).astype(np.float32), f"{name}/smooth")
        graph.initializer.append(factor)
        smoothed = helper.make_node(
            "Mul", [name, factor.name], [f"{name}/smoothed"], name=f"{nodes[0].name}/smooth"
        )
        graph.node.insert(list(graph.node).index(nodes[0]), smoothed)
        for node in nodes:
            graph.initializer.remove(weights[node.input[1]])
            weight = (stored[node.name] * s[:, None]).astype(np.float32)
            graph.initializer.append(numpy_helper.from_array(weight, f"{node.name}/weight"))
            node.input[:] = [smoothed.output[0], f"{node.name}/weight"]
