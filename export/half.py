"""fp32 graph -> fp16 graph for TensorRT, by onnxruntime's converter."""

import warnings
from collections.abc import Sequence
from typing import Any

__all__ = ["FP32_OPS", "to_fp16"]

# Sums over many terms, quotients by small numbers and exponentials: where half precision would
# overflow or lose what matters.
FP32_OPS = ("Div", "LayerNormalization", "ReduceMean", "ReduceSum", "Softmax", "Sub", "Tanh")
_INT8_OPS = ("QuantizeLinear", "DequantizeLinear")  # before opset 19 their scales are fp32


def to_fp16(model: bytes, left_out: Sequence[str] = ()) -> bytes:
    """The graph with fp16 weights and arithmetic, except `FP32_OPS`, quantization and the nodes
    named in `left_out`; inputs and outputs stay."""
    import onnx
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    fp32 = onnx.load_from_string(model)
    floats = {i.name for i in fp32.graph.input if i.type.tensor_type.elem_type == 1}  # FLOAT
    with warnings.catch_warnings():
        # It warns that -1e9, which masks scores, becomes the largest fp16 number: that masks too.
        warnings.simplefilter("ignore")
        fp16 = convert_float_to_float16(
            fp32,
            keep_io_types=True,
            op_block_list=[*DEFAULT_OP_BLOCK_LIST, *FP32_OPS, *_INT8_OPS],
            node_block_list=list(left_out),
        )
    graph = OnnxModel(fp16)
    # The converter rounds each input before everything, fp32 operators too; raw features lose
    # digits that normalisation needs.
    made_by = graph.output_name_to_node()
    for node in graph.get_nodes_by_op_type("Cast"):
        before = made_by.get(node.input[0])
        if _casts_to(node, 1) and before and _casts_to(before, 10) and before.input[0] in floats:
            graph.replace_input_of_all_nodes(node.output[0], before.input[0])
    graph.prune_graph()
    graph.topological_sort()
    onnx.checker.check_model(graph.model)
    return bytes(graph.model.SerializeToString())


def _casts_to(node: Any, elem_type: int) -> bool:
    return bool(node.op_type == "Cast" and node.attribute[0].i == elem_type)
