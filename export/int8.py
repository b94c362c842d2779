"""Rewritings of an ONNX graph to int8: stored weights, integer products, smoothed inputs."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

__all__ = [
    "dequantize_weights",
    "multiply_in_int8",
    "quantize_embeddings",
    "smooth",
    "store_weights",
]


def store_weights(model: Any, names: Collection[str]) -> None:
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


def multiply_in_int8(model: Any, names: Collection[str]) -> None:
    """Quantize what these products read as it comes, and multiply integers.

    In the language encoder every row (word piece) has a scale of its own: with a single one,
    sentences differ by half as much again. Elsewhere one scale for the whole input, batch included,
    is as accurate, and onnxruntime fuses all of it into one node.
    """
    from onnx import helper, numpy_helper

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
        x, by_row = node.input[0], node.name.startswith("language.")
        key = f"{x}/{'row' if by_row else 'whole'}"
        if key not in read:
            nodes += _input_by_row(x, key) if by_row else _whole_input(x, key)
            read.add(key)
        nodes += _product_by_row(node, key) if by_row else _product(node, key)
    del graph.node[:]
    graph.node.extend(nodes)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def _input_by_row(x: str, key: str) -> list[Any]:
    return [
        _node("Abs", [x], f"{key}/abs"),
        _node("ReduceMax", [f"{key}/abs", "int8/last"], f"{key}/largest", keepdims=1),
        _node("Max", [f"{key}/largest", "int8/least"], f"{key}/scale"),
        _node("Div", [x, f"{key}/scale"], f"{key}/share"),
        _node("QuantizeLinear", [f"{key}/share", "int8/step", "int8/zero"], f"{key}/int8"),
    ]


def _whole_input(x: str, key: str) -> list[Any]:
    outputs = [f"{key}/{part}" for part in ("int8", "scale", "zero")]
    return [_node("DynamicQuantizeLinear", [x], *outputs)]


def _product_by_row(node: Any, key: str) -> list[Any]:
    weight, product = node.input[1], f"{node.name}/product"
    factors = [f"{key}/int8", f"{weight}/int8"]
    inputs = [*factors, "int8/step", f"{weight}/scale", "int8/zero"]
    return [
        _node("MatMulIntegerToFloat", inputs, product, domain="com.microsoft"),
        _node("Mul", [product, f"{key}/scale"], node.output[0], name=node.name),
    ]


def _product(node: Any, key: str) -> list[Any]:
    from onnx import TensorProto

    weight, product = node.input[1], f"{node.name}/product"
    factors = [f"{key}/int8", f"{weight}/int8", f"{key}/zero"]
    return [
        _node("MatMulInteger", factors, f"{product}/int32"),
        _node("Cast", [f"{product}/int32"], product, to=TensorProto.FLOAT),
        _node("Mul", [f"{key}/scale", f"{weight}/scale"], f"{product}/scale"),
        _node("Mul", [product, f"{product}/scale"], node.output[0], name=node.name),
    ]


def dequantize_weights(model: Any, names: Collection[str]) -> None:
    """Multiply in fp32, with the weights that `store_weights` left."""
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


def quantize_embeddings(model: Any) -> None:
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


def smooth(model: Any, examples: Sequence[dict[str, Any]], alpha: float) -> None:
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
