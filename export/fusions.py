"""Exact rewritings of the exported graph: equal work is done once, in products wide enough to be
fast. Fusions that onnxruntime makes at load time are left to it."""

import math
import posixpath
from collections import defaultdict
from typing import Any, NamedTuple

import numpy as np

__all__ = ["gelu", "share", "share_norms"]


class _Branch(NamedTuple):
    """A normalisation and one of the linear layers that read it."""

    norm: Any
    product: Any
    bias: Any


def gelu(x: Any, approximate: str = "none") -> Any:
    """x * (1 + erf(x / sqrt 2)) * 0.5, in the order that onnxruntime fuses into one node."""
    from onnxscript import opset18 as op

    assert approximate == "none"
    doubled = op.Mul(x, op.Add(op.Erf(op.Div(x, math.sqrt(2.0))), 1.0))
    return op.Mul(doubled, 0.5)


def share(model: Any) -> None:
    """Keep equal constants and equal nodes of an `onnx_ir.Model` once: the transformers' positions
    are all the same, and so is what two of them make of one modality."""
    from onnx_ir.passes.common import (
        CommonSubexpressionEliminationPass,
        DeduplicateInitializersPass,
    )

    DeduplicateInitializersPass(size_limit=1 << 30)(model)
    CommonSubexpressionEliminationPass()(model)


def share_norms(graph: Any) -> None:
    """Merge the linear layers that read one input through layer normalisations of their own.

    Those differ in gain g and shift b alone, which belong to the weights as well: with n the
    normalised input, (g * n + b) W + c = n (diag(g) W) + (b W + c). One normalisation and one
    product then stand for the queries, keys and values that six crossmodal layers take of a
    modality, or that a layer takes of itself.
    """
    stored = {i.name: i for i in graph.initializer}
    groups: dict[tuple[Any, ...], list[_Branch]] = defaultdict(list)
    for norm in graph.node:
        if norm.op_type == "LayerNormalization" and (branches := _branches(graph, norm, stored)):
            options = tuple(sorted((a.name, a.i or a.f) for a in norm.attribute))
            groups[norm.input[0], options] += branches
    names: set[str] = set()
    for (x, options), branches in groups.items():
        if len(branches) < 2:
            continue
        name = _common_name([b.product.name for b in branches], names)
        names.add(name)
        _add_merged_weights(graph, branches, stored, name)
        merged = _merged(x, dict(options), branches, name)
        old = {n.name for b in branches for n in b}
        at = next(k for k, n in enumerate(graph.node) if n.name in old)
        kept = [n for n in graph.node if n.name not in old]
        del graph.node[:]
        graph.node.extend([*kept[:at], *merged, *kept[at:]])
    _drop_unused(graph)


def _add_merged_weights(graph: Any, branches: list[_Branch], stored: Any, name: str) -> None:
    """Constants of the one normalisation and the one product, named after `name`."""
    from onnx import numpy_helper

    weights, biases = [], []
    for norm, product, bias in branches:
        g, b, w, c = (
            numpy_helper.to_array(stored[constant])
            for constant in (*norm.input[1:], product.input[1], bias.input[1])
        )
        weights.append(g[:, None] * w)
        biases.append(b @ w + c)
    constants = {
        "gain": np.ones(len(weights[0]), np.float32),
        "shift": np.zeros(len(weights[0]), np.float32),
        "weight": np.concatenate(weights, axis=1),
        "bias": np.concatenate(biases),
        "widths": np.array([w.shape[1] for w in weights]),
    }
    for key, value in constants.items():
        graph.initializer.append(numpy_helper.from_array(value, f"{name}/{key}"))


def _merged(x: str, options: dict[str, Any], branches: list[_Branch], name: str) -> list[Any]:
    """The nodes that stand for all branches, and give what each of them gave."""
    from onnx import helper

    steps: tuple[tuple[str, list[str], dict[str, Any]], ...] = (
        ("LayerNormalization", [x, f"{name}/gain", f"{name}/shift"], options),
        ("MatMul", [f"{name}/normalised", f"{name}/weight"], {}),
        ("Add", [f"{name}/product", f"{name}/bias"], {}),
        ("Split", [f"{name}/linear", f"{name}/widths"], {"axis": -1}),
    )
    outputs = [[f"{name}/{step}"] for step in ("normalised", "product", "linear")]
    outputs.append([b.bias.output[0] for b in branches])
    return [
        helper.make_node(kind, inputs, output, f"{name}/{kind}", **attributes)
        for (kind, inputs, attributes), output in zip(steps, outputs, strict=True)
    ]


def _branches(graph: Any, norm: Any, stored: Any) -> list[_Branch]:
    """The linear layers that read `norm`; none where something else reads it too."""
    outside = {o.name for o in graph.output}
    found = []
    for product in _readers(graph, norm):
        after = _readers(graph, product)
        if (product.op_type, *(n.op_type for n in after)) != ("MatMul", "Add"):
            return []
        if not {product.input[1], after[0].input[1]} <= stored.keys():
            return []
        if outside & {norm.output[0], product.output[0]}:
            return []
        found.append(_Branch(norm, product, after[0]))
    return found


def _readers(graph: Any, node: Any) -> list[Any]:
    return [n for n in graph.node if node.output[0] in n.input]


def _common_name(names: list[str], taken: set[str]) -> str:
    """The module that all are part of, and a number where that is not one of a kind."""
    modules = [name.split("/")[0].replace(".", "/") for name in names]
    name = posixpath.commonpath(modules).replace("/", ".") + ".merged"
    n_taken = sum(other.startswith(name) for other in taken)
    return f"{name}_{n_taken + 1}" if n_taken else name


def _drop_unused(graph: Any) -> None:
    used = {name for node in graph.node for name in node.input}
    for constant in [i for i in graph.initializer if i.name not in used]:
        graph.initializer.remove(constant)
