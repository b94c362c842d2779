"""TensorRT engines, built for real: TensorRT for RTX needs no GPU for that."""

import ctypes
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from export import network, trt
from export.half import to_fp16
from runtime.engines import gpu, stored
from runtime.engines.profiles import PROFILES
from runtime.features.pack import INPUTS
from runtime.features.spec import SPEC
from runtime.store.bundle import Bundle
from tests.export.tiny_bundle import add_int8, tiny_graph, write_bundle

rtx = pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx-cu13, which builds on a CPU")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test touches the cache of whoever runs it."""
    monkeypatch.setenv("DMD_LIVE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


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
        return b"engine", {"precisions": {"FLOAT": 1}}

    monkeypatch.setattr(network, "build", build)
    return calls


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "engines").glob("*"))


def described(folder: Path) -> list[Path]:
    """The JSON beside each engine, without the reports."""
    return [path for path in (folder / "engines").glob("*.json") if "layers" not in path.name]


def report(about: Path) -> dict[str, Any]:
    """The layers of the engine that `about` describes."""
    return json.loads(about.with_suffix(".layers.json").read_text(encoding="utf-8"))


def test_engine_and_its_description(built: Path) -> None:
    (about,) = described(built)
    facts = json.loads(about.read_text(encoding="utf-8"))
    engine = (built / "engines" / facts["engine"]).read_bytes()
    assert files(built) == [
        f"{about.stem}{suffix}" for suffix in (".engine", ".json", ".layers.json", ".log")
    ]
    assert facts["engine_sha256"] == hashlib.sha256(engine).hexdigest()
    assert facts["engine_bytes"] == len(engine) > 10_000
    model = (built / "model.fp32.onnx").read_bytes()
    assert facts["onnx_sha256"] == hashlib.sha256(model).hexdigest()
    assert (facts["backend"], facts["version"]) == ("rtx", rtx.__version__)
    assert (facts["precision"], facts["targets"]) == ("fp32", ["sm86", "sm89"])
    assert (facts["model"], facts["tf32"]) == ("fp32", False)
    assert facts["build_s"] > 0
    assert facts["commit"]
    assert "INFO: " in about.with_suffix(".log").read_text(encoding="utf-8")


def test_report_names_the_precision_of_every_layer(built: Path) -> None:
    (about,) = described(built)
    found = report(about)
    assert found["inputs"] == {n: kind.replace("32", "") for n, (kind, _) in INPUTS.items()}
    products = [layer for layer in found["layers"] if layer["type"] == "MATRIX_MULTIPLY"]
    assert [(p["precision"], p["outputs"]) for p in products] == [("FLOAT", ["FLOAT"])] * 2
    assert found["precisions"] == json.loads(about.read_text())["layers"]
    assert sum(found["precisions"].values()) == len(found["layers"])
    assert found["fused"] is None  # an engine opens where there is a GPU


def test_profiles_span_the_contract() -> None:
    assert list(PROFILES) == ["live", "batch"]
    live, batch = PROFILES.values()
    assert live["input_ids"] == {"min": [1, 1], "opt": [1, 24], "max": [1, 64]}
    assert live["audio"] == {"min": [1, 1, 43], "opt": [1, 100, 43], "max": [1, 375, 43]}
    assert batch["vision"] == {
        "min": [1, 1, SPEC.vision_dim],
        "opt": [8, 60, SPEC.vision_dim],
        "max": [32, 225, SPEC.vision_dim],
    }
    assert batch["vision_mask"] == {"min": [1, 1], "opt": [8, 60], "max": [32, 225]}


def test_half_precision_engine_whose_graph_agrees(tiny: Path) -> None:
    assert trt.main(["--bundle", str(tiny), "--backend", "rtx", "--precision", "fp16"]) == 0
    (about,) = described(tiny)
    assert {x["precision"] for x in report(about)["layers"] if "MATRIX" in x["type"]} == {"HALF"}
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
    write_bytes = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if path.name.count(".json"):  # the engine did fit
            raise OSError(28, "No space left on device", str(path))
        return write_bytes(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    assert trt.main(["--bundle", str(tiny), "--backend", "rtx"]) == 2
    assert "No space left" in capsys.readouterr().err
    assert len(fake_build) == 1
    assert [name.rpartition(".")[2] for name in files(tiny)] == ["log"]


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


@pytest.mark.parametrize(
    ("target", "way_out"),
    [("sm99", "rtx has sm75, sm80, sm86"), ("sm87", "Orin); build on the board with JetPack's")],
)
def test_unknown_target(
    tiny: Path, target: str, way_out: str, capfd: pytest.CaptureFixture[str]
) -> None:
    line = refuses(["--bundle", str(tiny), "--backend", "rtx", "--targets", target], capfd)
    assert f"{target!r}" in line
    assert way_out in line
    assert not (tiny / "engines").exists()


def test_a_graph_that_the_bundle_does_not_have(
    tiny: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for precision, recipe in (("int8", "int8-qdq"), ("mixed", "mixed")):
        line = refuses(["--bundle", str(tiny), "--precision", precision], capfd)
        assert f"export.quantize --recipe {recipe}" in line


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
    cache: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", rtx)  # stands in for the one that needs a GPU
    monkeypatch.setattr(gpu, "capability", lambda: "sm87")
    monkeypatch.setattr(gpu, "driver_version", lambda: 12060)
    line = refuses(["--bundle", str(tiny), "--targets", "sm86"], capfd)
    assert "sm87" in line
    assert trt.main(["--bundle", str(tiny)]) == 0
    (about,) = described(tiny)
    facts = json.loads(about.read_text(encoding="utf-8"))
    assert (facts["targets"], facts["driver"]) == (["sm87"], 12060)
    *_, targets, _, timings = fake_build[0]
    assert targets == []  # no compute capability to set
    assert timings == cache / f"timings-{rtx.__version__}-sm87.cache"
    monkeypatch.setattr(gpu, "driver_version", lambda: 12080)  # makes another engine
    assert trt.main(["--bundle", str(tiny)]) == 0
    assert len(described(tiny)) == len(fake_build) == 2


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


def test_int8_engine_from_the_graph_with_qdq_pairs(tiny: Path) -> None:
    add_int8(tiny)
    command = ["--bundle", str(tiny), "--backend", "rtx", "--precision", "int8"]
    assert trt.main([*command, "--targets", "sm86"]) == 0
    (about,) = described(tiny)
    facts = json.loads(about.read_text(encoding="utf-8"))
    graph = (tiny / "model.int8-qdq.onnx").read_bytes()
    assert (facts["model"], facts["precision"]) == ("int8-qdq", "int8")
    assert facts["onnx_sha256"] == hashlib.sha256(graph).hexdigest()
    products = {x["precision"] for x in report(about)["layers"] if "MATRIX" in x["type"]}
    assert products == {"INT8"}
    found = find(tiny)
    assert found == (about.with_suffix(".engine").read_bytes(), "int8")


def find(folder: Path, **other: Any) -> tuple[bytes, str]:
    """As the runtime does on a machine with that GPU."""
    here = {"version": rtx.__version__, "capability": "sm86", "driver": 13000}
    return stored.find(Bundle.load(folder, "fp32"), "rtx", **{**here, **other})


def test_two_processes_at_once(tiny: Path, root: Path) -> None:
    command = [sys.executable, "-m", "export.trt", "--bundle", tiny, "--backend", "rtx"]
    both = [
        subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=120)[0].decode() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sum("building" in text for text in said) == 1, said
    assert sum("is there" in text for text in said) == 1, said
    (about,) = described(tiny)
    assert find(tiny)[0] == about.with_suffix(".engine").read_bytes()
    assert not list((tiny / "engines").glob("*.partial"))


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A bundle that this process cannot write, with a cache that it can."""
    with tempfile.TemporaryDirectory() as temporary:  # pytest's own folders are closed to others
        folder = write_bundle(Path(temporary) / "bundle", tiny_graph())
        cached = Path(temporary) / "cache"
        cached.mkdir()
        monkeypatch.setenv("DMD_LIVE_CACHE", str(cached))
        for path, mode in ((Path(temporary), 0o755), (folder, 0o555), (cached, 0o777)):
            path.chmod(mode)
        root = os.geteuid() == 0  # who may write everywhere
        if root:
            os.seteuid(65_534)
        yield folder
        if root:
            os.seteuid(0)
        folder.chmod(0o755)


def test_a_read_only_bundle_has_its_engines_in_the_cache(
    read_only: Path, fake_build: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--bundle", str(read_only), "--backend", "rtx"]
    assert trt.main(command) == 0
    assert "read-only: the engine goes to" in capsys.readouterr().out
    assert not (read_only / "engines").exists()
    assert find(read_only) == (b"engine", "fp32")
    assert trt.main(command) == 0
    assert len(fake_build) == 1  # it is found there
    folder = stored.folders(Bundle.load(read_only))[1]
    folder.chmod(0o555)
    assert trt.main([*command, "--precision", "fp16"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "Permission denied" in error
    folder.chmod(0o755)


def test_timing_cache_is_kept_and_one_that_does_not_fit_replaced(tmp_path: Path) -> None:
    """With RTX's objects, which have TensorRT's interface and measure nothing."""
    path = tmp_path / "cache" / "timings.cache"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        config = rtx.Builder(rtx.Logger(rtx.Logger.INTERNAL_ERROR)).create_builder_config()
        network._keep(network._timing_cache(config, path), path)
        first = path.read_bytes()
        assert first
        path.write_bytes(first[:50])
        network._keep(network._timing_cache(config, path), path)
    assert len(path.read_bytes()) == len(first)


def test_tensorrt_builds_and_describes_itself(tiny: Path, cache: Path) -> None:
    """All of it, with the timing cache and the inspector."""
    pytest.importorskip("tensorrt", reason="needs TensorRT, which builds on a GPU only")
    try:
        here = gpu.capability()
    except gpu.EngineError as error:
        pytest.skip(str(error))
    assert trt.main(["--bundle", str(tiny), "--backend", "tensorrt", "--precision", "fp16"]) == 0
    (about,) = described(tiny)
    assert json.loads(about.read_text(encoding="utf-8"))["targets"] == [here]
    assert report(about)["fused"]
    assert [path.stat().st_size > 0 for path in cache.glob("timings-*.cache")] == [True]
