"""Rewritings of the graph change its nodes and nothing that it computes."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from export import fusions, graph

_DIM = 6


def _normalised_lines(*widths: int) -> onnx.ModelProto:
    """Linear layers of one input, each after a normalisation of its own; the last is read twice."""
    rng = np.random.default_rng(0)
    nodes, constants = [], []
    for k, width in enumerate(widths):
        values = {
            "gain": rng.normal(1, 0.5, _DIM),
            "shift": rng.normal(0, 0.5, _DIM),
            "weight": rng.normal(0, 1, (_DIM, width)),
            "bias": rng.normal(0, 1, width),
        }
        constants += [
            numpy_helper.from_array(v.astype(np.float32), f"{n}{k}") for n, v in values.items()
        ]
        nodes += [
            helper.make_node(kind, inputs, [output], f"block.line{k}/{kind}", **attributes)
            for kind, inputs, output, attributes in (
                ("LayerNormalization", ["x", f"gain{k}", f"shift{k}"], f"n{k}", {"axis": -1}),
                ("MatMul", [f"n{k}", f"weight{k}"], f"p{k}", {}),
                ("Add", [f"p{k}", f"bias{k}"], f"y{k}", {}),
            )
        ]
    last = len(widths) - 1
    outputs = [*(f"y{k}" for k in range(len(widths))), f"n{last}"]
    made = helper.make_graph(
        nodes,
        "lines",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["B", "T", _DIM])],
        [
            helper.make_tensor_value_info(o, onnx.TensorProto.FLOAT, ["B", "T", None])
            for o in outputs
        ],
        constants,
    )
    opset = helper.make_opsetid("", graph.OPSET)
    return helper.make_model(made, opset_imports=[opset], ir_version=10)


def _run(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [np.asarray(y) for y in session.run(None, {"x": x})]


def test_linear_layers_behind_normalisations_of_one_input_become_one() -> None:
    model = _normalised_lines(3, 5, 4)
    x = np.random.default_rng(1).normal(2, 3, (2, 7, _DIM)).astype(np.float32)
    expected = _run(model, x)
    fusions.share_norms(model.graph)
    onnx.checker.check_model(model, full_check=True)
    kinds = [n.op_type for n in model.graph.node]
    # Two of three: what the third normalises is an output too.
    assert kinds.count("LayerNormalization") == kinds.count("MatMul") == 2
    assert "block.merged/MatMul" in {n.name for n in model.graph.node}
    for found, value in zip(_run(model, x), expected, strict=True):
        np.testing.assert_allclose(found, value, atol=1e-5)


def test_a_normalisation_that_stands_alone_is_left_alone() -> None:
    model = _normalised_lines(3, 4)
    before = model.SerializeToString()
    fusions.share_norms(model.graph)
    assert model.SerializeToString() == before


def test_the_model_s_graph_normalises_an_input_once(traced: Path, tmp_path: Path) -> None:
    fp32 = traced / "model.fp32.onnx"
    nodes = onnx.load(fp32).graph.node
    norms = [n.input[0] for n in nodes if n.op_type == "LayerNormalization"]
    assert len(norms) == len(set(norms))
    merged = {n.name.split(".merged")[0] for n in nodes if n.name.endswith("/MatMul")}
    assert {"crossmodal", "self_common.text.layers.0", "memory.audio.layers.0"} <= merged
    # GELU comes in the order that onnxruntime fuses.
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(str(fp32), options, providers=["CPUExecutionProvider"])
    kinds = {n.op_type for n in onnx.load(tmp_path / "fused.onnx").graph.node}
    assert "Erf" not in kinds
    assert kinds & {"Gelu", "BiasGelu"}
