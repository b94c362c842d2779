"""fp32 graph -> the graph of a recipe, with the parts named left in higher precision.

Recipes: `int8-dynamic` (CPU: weights in int8, a scale per column, what is left of them stored in
fp16; activations quantized as they come, the language encoder's with a scale per word piece),
`int8-qdq` (explicit, symmetric Q/DQ pairs with scales calibrated on real features, as TensorRT
wants it), `fp16`, and `mixed` (int8-qdq with the rest in fp16). In int8, outliers of the language
encoder's activations first move into its weights (SmoothQuant, Xiao et al., ICML 2023).
"""

import io
import math
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from train.data.utterance import Utterance, collate
from train.models.half import store_in_half

from . import int8
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
_FEW = 8192  # numbers of a constant that int8-dynamic does not trouble to store in half precision


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
            int8.quantize_embeddings(model)
        if recipe in _SMOOTHING:
            int8.smooth(model, self._examples, _SMOOTHING[recipe])
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
        int8.store_weights(model, self._nodes)
        int8.multiply_in_int8(model, [name for name in self._nodes if name not in excluded])
        int8.dequantize_weights(model, excluded)
        store_in_half(model, above=_FEW)
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
