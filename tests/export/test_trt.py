"""TensorRT engines, built for real: TensorRT for RTX needs no GPU for that."""

import ctypes
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from export import bundle, trt
from export.half import to_fp16
from runtime.engines import gpu
from runtime.features.pack import INPUTS, OUTPUTS
from runtime.features.spec import SPEC

rtx = pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx-cu13, which builds on a CPU")

TYPES = {"int64": TensorProto.INT64, "bool": TensorProto.BOOL, "float32": TensorProto.FLOAT}


def tiny_graph() -> onnx.ModelProto:
    """A graph with the contract's inputs and outputs: masked sums, two matrices, two softmaxes."""
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
        node("Concat", ["text_sum", "audio_sum", "vision_sum"], ["sums"], axis=1),
        node("MatMul", ["sums", "to_modalities"], ["scores"]),
        node("Tanh", ["scores"], ["modality_sentiment"]),
        node("Softmax", ["scores"], ["modality_weight"], axis=-1),
        node("Mul", ["modality_sentiment", "modality_weight"], ["weighted"]),
        node("ReduceSum", ["weighted", "first"], ["sentiment"], keepdims=0),
        node("MatMul", ["modality_sentiment", "to_emotions"], ["logits"]),
        node("Softmax", ["logits"], ["emotion"], axis=-1),
    ]
    rng = np.random.default_rng(0)
    width = 1 + SPEC.audio_dim + SPEC.vision_dim
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


def write_bundle(folder: Path, model: onnx.ModelProto) -> Path:
    folder.mkdir()
    onnx.save(model, folder / "model.fp32.onnx")
    (folder / "tokenizer.json").write_text("{}")
    emotions = ["anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"]
    described = {"feature_spec_sha256": SPEC.sha256(), "emotions": emotions}
    bundle.update(folder, {**described, "models": {"fp32": "model.fp32.onnx"}})
    return folder


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle", tiny_graph())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with one fp32 engine for two targets, given in no order."""
    folder = write_bundle(tmp_path_factory.mktemp("built") / "bundle", tiny_graph())
    assert trt.main(["--bundle", str(folder), "--backend", "rtx", "--targets", "sm89,SM86"]) == 0
    return folder


@pytest.fixture
def fake_build(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Replaces TensorRT's part; the list collects the calls."""
    calls: list[tuple[Any, ...]] = []

    def build(*arguments: Any) -> tuple[bytes, dict[str, Any]]:
        calls.append(arguments)
        return b"engine", {"inputs": {}, "tf32": True}

    monkeypatch.setattr(trt, "_build", build)
    return calls


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "engines").glob("*"))


def test_engine_and_its_description(built: Path) -> None:
    (about,) = (built / "engines").glob("*.json")
    facts = json.loads(about.read_text(encoding="utf-8"))
    engine = (built / "engines" / facts["engine"]).read_bytes()
    assert files(built) == [f"{about.stem}{suffix}" for suffix in (".engine", ".json", ".log")]
    assert facts["engine_sha256"] == hashlib.sha256(engine).hexdigest()
    assert facts["engine_bytes"] == len(engine) > 10_000
    model = (built / "model.fp32.onnx").read_bytes()
    assert facts["onnx_sha256"] == hashlib.sha256(model).hexdigest()
    assert (facts["backend"], facts["version"]) == ("rtx", rtx.__version__)
    assert (facts["precision"], facts["targets"]) == ("fp32", ["sm86", "sm89"])
    assert facts["inputs"]["input_ids"] == "int64"
    assert facts["inputs"]["text_mask"] == "bool"
    assert facts["inputs"]["audio"] == "float"
    assert facts["build_s"] > 0
    assert facts["commit"]
    assert "INFO: " in about.with_suffix(".log").read_text(encoding="utf-8")


def test_profiles_span_the_contract() -> None:
    assert list(trt.PROFILES) == ["live", "batch"]
    live, batch = trt.PROFILES.values()
    assert live["input_ids"] == {"min": [1, 1], "opt": [1, 24], "max": [1, 64]}
    assert live["audio"] == {"min": [1, 1, 43], "opt": [1, 100, 43], "max": [1, 375, 43]}
    assert batch["vision"] == {"min": [1, 1, 59], "opt": [8, 60, 59], "max": [32, 225, 59]}
    assert batch["vision_mask"] == {"min": [1, 1], "opt": [8, 60], "max": [32, 225]}


def test_half_precision_engine_whose_graph_agrees(tiny: Path) -> None:
    assert trt.main(["--bundle", str(tiny), "--backend", "rtx", "--precision", "fp16"]) == 0
    (about,) = (tiny / "engines").glob("rtx-fp16-*.json")
    assert json.loads(about.read_text(encoding="utf-8"))["targets"] == list(trt._RTX_TARGETS)
    model = (tiny / "model.fp32.onnx").read_bytes()
    half = to_fp16(model)
    rng = np.random.default_rng(1)
    sizes = {"B": 2, "Tt": 5, "Ta": 9, "Tv": 7}
    shapes = {n: [sizes.get(str(a), a) for a in axes] for n, (_, axes) in INPUTS.items()}
    rows = {n: rng.standard_normal(shapes[n]).astype(INPUTS[n][0]) for n in shapes}
    expected, found = (ort.InferenceSession(m).run(None, rows) for m in (model, half))
    for one, other in zip(expected, found, strict=True):
        assert one.dtype == other.dtype == np.float32
        np.testing.assert_allclose(one, other, atol=5e-3)


def test_the_same_engine_is_not_built_twice(
    built: Path, fake_build: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(built)
    assert trt.main(["--bundle", str(built), "--backend", "rtx", "--targets", "sm86,sm89"]) == 0
    assert "is there; --force" in capsys.readouterr().out
    assert not fake_build
    assert files(built) == before


def test_force_another_target_or_a_damaged_engine_builds(tiny: Path, fake_build: list[Any]) -> None:
    command = ["--bundle", str(tiny), "--backend", "rtx"]
    for options, n_builds in (
        ([], 1),
        ([], 1),
        (["--force"], 2),
        (["--targets", "sm86"], 3),
        (["--precision", "fp16"], 4),
    ):
        assert trt.main([*command, *options]) == 0
        assert len(fake_build) == n_builds
    for engine in (tiny / "engines").glob("*.engine"):
        engine.write_bytes(b"damaged")
    assert trt.main(command) == 0
    assert len(fake_build) == 5
    assert not list((tiny / "engines").glob("*.partial"))


def test_a_failure_while_writing_leaves_neither_engine_nor_description(
    tiny: Path,
    fake_build: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(bundle, "write_file", full)
    assert trt.main(["--bundle", str(tiny), "--backend", "rtx"]) == 2
    assert "No space left" in capsys.readouterr().err
    assert len(fake_build) == 1
    assert not files(tiny)


def refuses(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    """The one line that the command prints on stderr while it fails with code 2."""
    assert trt.main(arguments) == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("export.trt: ")
    return lines[0]


def test_missing_bundle_or_model(
    tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert "not a bundle" in refuses(["--bundle", str(tmp_path / "none")], capfd)
    (tiny / "model.fp32.onnx").unlink()
    assert "model.fp32.onnx" in refuses(["--bundle", str(tiny)], capfd)


def test_unknown_target(tiny: Path, capfd: pytest.CaptureFixture[str]) -> None:
    line = refuses(["--bundle", str(tiny), "--backend", "rtx", "--targets", "sm87"], capfd)
    assert "'sm87'" in line
    assert "sm86" in line
    assert not (tiny / "engines").exists()


def test_backend_that_is_not_installed(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for module in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, module, None)
    assert "pip install" in refuses(["--bundle", str(tiny)], capfd)
    assert "tensorrt" in refuses(["--bundle", str(tiny), "--backend", "tensorrt"], capfd)


def test_tensorrt_is_the_default_and_builds_for_its_own_gpu_only(
    tiny: Path,
    fake_build: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", rtx)  # stands in for the one that needs a GPU
    monkeypatch.setattr(gpu, "capability", lambda: "sm87")
    monkeypatch.setattr(gpu, "driver_version", lambda: 12060)
    line = refuses(["--bundle", str(tiny), "--targets", "sm86"], capfd)
    assert "sm87" in line
    assert trt.main(["--bundle", str(tiny)]) == 0
    (about,) = (tiny / "engines").glob("tensorrt-fp32-*.json")
    assert json.loads(about.read_text(encoding="utf-8"))["targets"] == ["sm87"]
    assert fake_build[0][2] == []  # no compute capability to set


def test_tensorrt_without_a_gpu(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def no_driver(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setitem(sys.modules, "tensorrt", rtx)
    monkeypatch.setattr(ctypes, "CDLL", no_driver)
    assert "--backend rtx" in refuses(["--bundle", str(tiny), "--backend", "tensorrt"], capfd)


def test_graph_that_tensorrt_refuses(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    unknown = tiny_graph()
    unknown.graph.node[-1].op_type = "NoSuchOperator"
    folder = write_bundle(tmp_path / "unknown", unknown)
    line = refuses(["--bundle", str(folder), "--backend", "rtx"], capfd)
    assert "does not parse" in line
    assert "NoSuchOperator" in line

    other = tiny_graph()
    other.graph.input[0].name = "tokens"
    other.graph.node[0].input[0] = "tokens"
    folder = write_bundle(tmp_path / "other", other)
    assert "'tokens'" in refuses(["--bundle", str(folder), "--backend", "rtx"], capfd)
    assert not list(folder.glob("engines/*.engine"))


def test_build_failure_names_the_reason_and_the_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fixed = tiny_graph()
    fixed.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 16  # a profile cannot span it
    folder = write_bundle(tmp_path / "fixed", fixed)
    line = refuses(["--bundle", str(folder), "--backend", "rtx"], capfd)
    assert "input_ids" in line
    assert ".log" in line
    assert not list(folder.glob("engines/*.engine"))
