"""A bundle with a tiny graph of the contract, which TensorRT builds in a second."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export import bundle
from runtime.features.embedding import EMBEDDING_DIM
from runtime.features.pack import INPUTS, OUTPUTS
from runtime.features.spec import SPEC

TYPES = {"int64": TensorProto.INT64, "bool": TensorProto.BOOL, "float32": TensorProto.FLOAT}


def tiny_graph() -> onnx.ModelProto:
    """A graph with the contract's inputs and outputs: masked sums, two matrices, a softmax."""
    node, value = helper.make_node, helper.make_tensor_value_info
    nodes = [
        node("Cast", ["input_ids"], ["ids"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["ids", "last"], ["text"]),
    ]
    for name in ("text", "audio", "vision"):
        nodes += [
            node("Cast", [f"{name}_mask"], [f"{name}_kept"], to=TensorProto.FLOAT),
            node("Unsqueeze", [f"{name}_kept", "last"], [f"{name}_rows"]),
            node("Mul", [name, f"{name}_rows"], [f"{name}_masked"]),
            node("ReduceSum", [f"{name}_masked", "first"], [f"{name}_sum"], keepdims=0),
        ]
    nodes += [
        node(
            "Concat", ["text_sum", "audio_sum", "vision_sum", "audio_embedding"], ["sums"], axis=1
        ),
        node("MatMul", ["sums", "to_modalities"], ["scores"]),
        node("Tanh", ["scores"], ["modality_sentiment"]),
        node("Softmax", ["scores"], ["modality_weight"], axis=-1),
        node("Mul", ["modality_sentiment", "modality_weight"], ["weighted"]),
        node("ReduceSum", ["weighted", "first"], ["sentiment"], keepdims=0),
        node("MatMul", ["modality_sentiment", "to_emotions"], ["emotion"]),
        node("Tanh", ["sentiment"], ["arousal"]),
    ]
    rng = np.random.default_rng(0)
    width = 1 + SPEC.audio_dim + SPEC.vision_dim + EMBEDDING_DIM
    constants = {
        "last": np.array([-1]),
        "first": np.array([1]),
        "to_modalities": 0.01 * rng.standard_normal((width, 3), np.float32),
        "to_emotions": rng.standard_normal((3, 7), np.float32),
    }
    shapes = {n: [7 if axis == "n_emotions" else axis for axis in a] for n, a in OUTPUTS.items()}
    graph = helper.make_graph(
        nodes,
        "tiny",
        [value(name, TYPES[kind], list(axes)) for name, (kind, axes) in INPUTS.items()],
        [value(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def write_bundle(folder: Path, model: onnx.ModelProto, tokenizer_json: Path | None = None) -> Path:
    """A bundle with this fp32 graph; without a tokenizer nothing but an engine can use it."""
    folder.mkdir()
    onnx.save(model, folder / "model.fp32.onnx")
    (folder / "tokenizer.json").write_bytes(
        tokenizer_json.read_bytes() if tokenizer_json else b"{}"
    )
    emotions = ["anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"]
    described = {"feature_spec_sha256": SPEC.sha256(), "emotions": emotions}
    bundle.update(folder, {**described, "models": {"fp32": "model.fp32.onnx"}})
    return folder


def add_int8(folder: Path) -> Path:
    """Adds the graph with explicit Q/DQ pairs, as export.quantize makes it, with scales of ours."""
    model = onnx.load(folder / "model.fp32.onnx")
    weights = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    for node in [n for n in model.graph.node if n.op_type == "MatMul"]:
        values = weights[node.input[1]]
        scales = (np.abs(values).max(axis=0) / 127).astype(np.float32)
        for name, scale, axis in (
            (node.input[0], np.float32(0.1), None),
            (node.input[1], scales, 1),
        ):
            zero = np.zeros(np.shape(scale), np.int8)
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(scale), f"{name}_s"))
            model.graph.initializer.append(numpy_helper.from_array(zero, f"{name}_z"))
            settings = {} if axis is None else {"axis": axis}
            quantize = helper.make_node(
                "QuantizeLinear", [name, f"{name}_s", f"{name}_z"], [f"{name}_q"], **settings
            )
            back = helper.make_node(
                "DequantizeLinear",
                [f"{name}_q", f"{name}_s", f"{name}_z"],
                [f"{name}_d"],
                **settings,
            )
            at = list(model.graph.node).index(node)
            model.graph.node.insert(at, quantize)
            model.graph.node.insert(at + 1, back)
        node.input[:] = [f"{name}_d" for name in node.input]
    onnx.checker.check_model(model)
    onnx.save(model, folder / "model.int8-qdq.onnx")
    bundle.update(folder, {"models": {"int8-qdq": "model.int8-qdq.onnx"}})
    return folder
