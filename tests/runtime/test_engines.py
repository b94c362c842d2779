"""Engines: which is taken, what is refused and why, and what a GPU would be told to do."""

import ctypes
import gc
import importlib.util
import json
import logging
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from export import bundle as writer
from export import trt as builder
from runtime.engines import choose, golden, gpu, ort, stored
from runtime.engines.base import Arrays, Engine
from runtime.engines.choose import ENGINES, fastest, open_engine
from runtime.engines.ort import PROVIDERS, OrtEngine
from runtime.engines.trt import TrtEngine
from runtime.errors import BundleError, EngineError, FeatureError, UsageError
from runtime.features.pack import INPUTS, OUTPUTS, Rows, pack
from runtime.features.spec import SPEC
from runtime.live import EmotionStream
from runtime.store.bundle import Bundle
from tests.export.tiny_bundle import add_int8, tiny_graph, write_bundle
from tests.runtime import gpu_on_host

HERE: dict[str, Any] = {"capability": "sm86", "driver": 13000}


def no_gpu() -> str:
    try:
        gpu.capability()
    except EngineError as error:
        return str(error)
    return ""


NO_GPU = no_gpu()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DMD_LIVE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def rtx() -> ModuleType:
    return pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx-cu13 to build engines")


@pytest.fixture(scope="module")
def made(rtx: ModuleType, tokenizer_json: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a tiny model with golden outputs and fp32 and int8 engines for sm86."""
    folder = write_bundle(
        tmp_path_factory.mktemp("engines") / "bundle", tiny_graph(), tokenizer_json
    )
    add_int8(folder)
    known = [utterance(5, 9, 7), utterance(1, 0, 0)]
    engine = OrtEngine((folder / "model.fp32.onnx").read_bytes())
    (folder / golden.GOLDEN).write_bytes(golden.record(engine, known))
    writer.update(folder, {"documents": [golden.GOLDEN]})
    for precision in ("fp32", "int8"):
        options = ["--precision", precision, "--targets", "sm86"]
        assert builder.main(["--bundle", str(folder), "--backend", "rtx", *options]) == 0
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of it, to be spoiled."""
    return Path(shutil.copytree(made, tmp_path / "bundle"))


@pytest.fixture
def sm86(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine says that it has a GPU of that generation."""
    monkeypatch.setattr(gpu, "capability", lambda: HERE["capability"])
    monkeypatch.setattr(gpu, "driver_version", lambda: HERE["driver"])


@pytest.fixture
def cuda(
    made: Path, rtx: ModuleType, sm86: None, monkeypatch: pytest.MonkeyPatch
) -> gpu_on_host.Cuda:
    """The GPU of `gpu_on_host`."""
    cuda = gpu_on_host.Cuda()
    model = (made / "model.fp32.onnx").read_bytes()
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", gpu_on_host.tensorrt(rtx, cuda, model))
    return cuda


def utterance(tt: int, ta: int, tv: int) -> Rows:
    rng = np.random.default_rng(tt)
    return Rows(
        text=rng.integers(0, 9, tt),
        audio=rng.standard_normal((ta, SPEC.audio_dim), np.float32),
        vision=rng.random((tv, SPEC.vision_dim), np.float32),
    )


def batch(n: int, tt: int = 3, ta: int = 8, tv: int = 5) -> dict[str, np.ndarray]:
    parts = [pack(utterance(tt, ta, tv)) for _ in range(n)]
    return {name: np.concatenate([part[name] for part in parts]) for name in INPUTS}


def about(folder: Path, precision: str = "fp32") -> Path:
    (path,) = (p for p in folder.glob(f"engines/rtx-{precision}-*.json") if "layers" not in p.name)
    return path


def change(path: Path, **facts: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))


# Files


def find(folder: Path, rtx: ModuleType, **other: Any) -> tuple[bytes, str]:
    here = {"version": rtx.__version__, **HERE, **other}
    return stored.find(Bundle.load(folder, "fp32"), "rtx", **here)


def test_each_engine_is_found_for_its_own_graph(made: Path, rtx: ModuleType) -> None:
    assert stored.built(Bundle.load(made), "rtx") == ["int8", "fp32"]
    assert find(made, rtx)[1] == "int8"
    for precision in ("fp32", "int8"):
        content, found = find(made, rtx, precision=precision)
        assert found == precision
        assert content == about(made, precision).with_suffix(".engine").read_bytes()
    assert stored.built(Bundle.load(made), "tensorrt") == []


def truncate(path: Path) -> None:
    engine = path.with_suffix(".engine")
    engine.write_bytes(engine.read_bytes()[:-1])


SPOILED: dict[str, tuple[Callable[[Path], Any], dict[str, Any], str]] = {
    "another version": (lambda path: None, {"version": "10.3.0"}, "10.3.0 is here"),
    "another GPU": (lambda path: None, {"capability": "sm87"}, "for sm86, this GPU is sm87"),
    "another driver": (lambda path: change(path, driver=12060), {}, "driver 12060, 13000 is here"),
    "another graph": (lambda path: change(path, onnx_sha256="0" * 64), {}, "another graph"),
    "precision of another": (lambda path: change(path, precision="mixed"), {}, "another graph"),
    "graph of another": (lambda path: change(path, model="int8-qdq"), {}, "another graph"),
    "truncated": (truncate, {}, "is truncated or altered"),
    "gone": (lambda path: path.with_suffix(".engine").unlink(), {}, "No such file"),
    "no JSON": (lambda path: path.write_text("{"), {}, "damaged description"),
    "a list": (lambda path: path.write_text("[1]"), {}, "damaged description"),
    "nothing said": (lambda path: path.write_text("{}"), {}, "damaged description"),
}


@pytest.mark.parametrize("how", SPOILED)
def test_what_does_not_fit_is_refused_with_its_reason(
    folder: Path, rtx: ModuleType, how: str
) -> None:
    spoil, here, reason = SPOILED[how]
    about(folder, "int8").unlink()
    spoil(about(folder))
    with pytest.raises(EngineError) as caught:
        find(folder, rtx, **here)
    assert reason in str(caught.value)
    assert f"python -m export.trt --bundle {folder} --backend rtx" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_engine_gives_way_to_a_sound_one(folder: Path, rtx: ModuleType) -> None:
    truncate(about(folder, "int8"))
    assert find(folder, rtx)[1] == "fp32"


def test_engines_of_another_bundle_in_the_cache_are_no_concern(
    folder: Path, rtx: ModuleType, cache: Path
) -> None:
    shutil.move(folder / "engines", cache / "engines")
    assert find(folder, rtx)[1] == "int8"
    for precision in ("fp32", "int8"):
        path = cache / "engines" / about(cache, precision).name
        change(path, onnx_sha256="0" * 64)
    assert stored.built(Bundle.load(folder), "rtx") == []
    with pytest.raises(EngineError, match=r"^no engine for it in .*bundle/engines; build one"):
        find(folder, rtx)


def test_a_bundle_whose_hash_is_wrong_opens_no_engine(folder: Path) -> None:
    (folder / "model.fp32.onnx").write_bytes(b"another graph")
    with pytest.raises(BundleError, match="altered or damaged"):
        Bundle.load(folder, "int8-qdq")


# What a GPU is told to do


def test_stand_ins_have_nothing_that_tensorrt_has_not(rtx: ModuleType) -> None:
    for stand_in, name in gpu_on_host.ORIGINALS.items():
        members = {m for m in dir(stand_in) if not m.startswith("_")}
        assert members <= set(dir(getattr(rtx, name)))
    real = pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-bindings")
    assert {m for m in dir(gpu_on_host.Cuda) if not m.startswith("_")} <= set(dir(real))


def test_outputs_are_those_of_the_graph_in_both_profiles(
    made: Path, cuda: gpu_on_host.Cuda
) -> None:
    engine = TrtEngine(Bundle.load(made), "rtx", "fp32")
    assert (engine.name, engine.precision) == ("rtx", "fp32")
    wanted = OrtEngine((made / "model.fp32.onnx").read_bytes())
    for inputs in (batch(1), batch(5), batch(32, 64, 375, 225), batch(1, 64, 375, 225), batch(1)):
        found = engine.infer(inputs)
        for name, values in wanted.infer(inputs).items():
            np.testing.assert_array_equal(found[name], values, err_msg=name)
    assert len(cuda.memory) == 12  # allocated once
    del engine
    gc.collect()
    assert not cuda.memory
    assert not cuda.streams


def test_two_threads_share_an_engine(made: Path, cuda: gpu_on_host.Cuda) -> None:
    engine = TrtEngine(Bundle.load(made), "rtx", "fp32")
    wanted = OrtEngine((made / "model.fp32.onnx").read_bytes())
    wrong = []

    def work(inputs: Arrays) -> None:
        expected = wanted.infer(inputs)["emotion"]
        for _ in range(50):
            if not np.array_equal(engine.infer(inputs)["emotion"], expected):
                wrong.append(len(expected))

    threads = [threading.Thread(target=work, args=(batch(n, tt=n + 1),)) for n in (1, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda x: x.pop("audio"), "'audio' is missing"),
        (lambda x: x.update(audio=x["audio"].astype(np.float64)), "'audio' is float64"),
        (lambda x: x.update(text_mask=x["text_mask"][:, :2]), r"'text_mask' is bool .*\(1, 2\)"),
        (lambda x: x.update(vision=x["vision"][..., 1:]), "'vision' is float32"),
        (lambda x: x["vision"].fill(np.nan), "NaN"),
        (
            lambda x: x.update({n: np.tile(x[n], 22) for n in ("input_ids", "text_mask")}),
            "too large",
        ),
        (lambda x: x.update(batch(33)), "too large"),
    ],
)
def test_wrong_inputs_never_reach_the_gpu(
    made: Path, cuda: gpu_on_host.Cuda, spoil: Callable[[dict[str, Any]], Any], reason: str
) -> None:
    engine = TrtEngine(Bundle.load(made), "rtx", "fp32")
    inputs = batch(1)
    spoil(inputs)
    with pytest.raises(FeatureError, match=reason):
        engine.infer(inputs)
    assert np.isfinite(engine.infer(batch(1))["emotion"]).all()  # and it goes on


def breaks(outputs: list[str], inputs: Any) -> list[np.ndarray]:
    raise RuntimeError("CUDA failure 2: out of memory\n  in cudaMalloc")


def gives_nan(outputs: list[str], inputs: Any) -> list[np.ndarray]:
    return [np.full(1, np.nan, np.float32)] * len(outputs)


@pytest.fixture
def onnxruntime_gpu(made: Path, monkeypatch: pytest.MonkeyPatch) -> OrtEngine:
    """An engine of onnxruntime that takes its session for one on a GPU."""
    monkeypatch.setattr(ort, "_on_gpu", lambda model, options, *_: ort._session(
        model, options, "cpu", "fp32"))  # fmt: skip
    return OrtEngine((made / "model.fp32.onnx").read_bytes(), provider="cuda")


@pytest.mark.parametrize(
    ("run", "reason"), [(breaks, "^cuda does not run: .* out of memory$"), (gives_nan, "NaN")]
)
def test_a_gpu_that_fails_is_not_taken_for_wrong_inputs(
    onnxruntime_gpu: OrtEngine, monkeypatch: pytest.MonkeyPatch, run: Any, reason: str
) -> None:
    for wrong in ({}, batch(1) | {"audio": np.full((1, 8, SPEC.audio_dim), np.nan, np.float32)}):
        with pytest.raises(FeatureError):
            onnxruntime_gpu.infer(wrong)
    assert np.isfinite(onnxruntime_gpu.infer(batch(1))["emotion"]).all()
    monkeypatch.setattr(onnxruntime_gpu, "_session", SimpleNamespace(run=run))
    with pytest.raises(EngineError, match=reason):
        onnxruntime_gpu.infer(batch(1))


def test_nan_of_tensorrt_is_not_taken_for_wrong_inputs(
    made: Path, cuda: gpu_on_host.Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = TrtEngine(Bundle.load(made), "rtx", "fp32")
    monkeypatch.setattr(engine._context, "_session", SimpleNamespace(
        run=lambda names, _: [np.full(7, np.nan, np.float32)] * len(names)))  # fmt: skip
    with pytest.raises(EngineError, match="NaN"):
        engine.infer(batch(1))


def test_compiled_kernels_are_kept_for_the_next_start(
    made: Path, cuda: gpu_on_host.Cuda, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        assert open_engine(Bundle.load(made), "rtx").name == "rtx"
    (kept,) = cache.glob("kernels-*.rtx")
    assert kept.read_bytes() == b"kernels of this GPU"
    kept.write_bytes(b"those of another driver")
    assert open_engine(Bundle.load(made), "rtx").name == "rtx"
    assert kept.read_bytes() == b"kernels of this GPU"
    shutil.rmtree(cache)
    cache.write_text("a file where the folder should be")
    assert open_engine(Bundle.load(made), "rtx").name == "rtx"
    assert caplog.text.count("kernels are compiled again next time") == len(caplog.records) == 1


def test_an_engine_that_computes_wrong_gives_way(
    made: Path, rtx: ModuleType, cuda: gpu_on_host.Cuda, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    graph = tiny_graph()
    for weight in graph.graph.initializer:
        if weight.data_type == onnx.TensorProto.FLOAT:
            wrong = -3.0 * onnx.numpy_helper.to_array(weight)
            weight.CopyFrom(onnx.numpy_helper.from_array(wrong, weight.name))
    spoiled = gpu_on_host.tensorrt(rtx, cuda, graph.SerializeToString())
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", spoiled)
    assert open_engine(Bundle.load(made, "fp32"), "rtx").name == "cpu"
    assert [r.getMessage() for r in caplog.records if "computes int8 wrong" in r.getMessage()]
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("missing", "way_out"),
    [
        ("tensorrt_rtx", "pip install tensorrt-rtx-cu13"),
        ("cuda.bindings.runtime", "pip install 'cuda-python>=13,<14'"),
    ],
)
def test_a_missing_library_is_one_line_with_the_command(
    made: Path, cuda: gpu_on_host.Cuda, missing: str, way_out: str, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, missing, None)
    assert open_engine(Bundle.load(made), "rtx").name == "cpu"
    (record,) = caplog.records
    assert way_out in record.getMessage()
    assert "\n" not in record.getMessage()


# Which one


@pytest.mark.skipif(NO_GPU == "", reason="a GPU is here")
@pytest.mark.parametrize("name", ENGINES)
def test_without_a_gpu_the_cpu_runs_and_nothing_is_measured(
    made: Path, cache: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert open_engine(Bundle.load(made, "fp32"), name).name == "cpu"
    assert not cache.exists()
    assert len(caplog.records) == (name not in ("auto", "cpu"))
    assert all("no NVIDIA GPU" in record.getMessage() for record in caplog.records)


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(UsageError, match="no engine 'npu'; there are: auto, cpu, cuda"):
        open_engine(Bundle.load(), "npu")
    with pytest.raises(UsageError, match="no engine 'npu'"):
        EmotionStream(file="talk.mp4", engine="npu")


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(),
    reason="this onnxruntime has providers for GPUs",
)
def test_onnxruntime_without_providers_for_gpus(
    made: Path, sm86: None, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("cuda", "ort-tensorrt"):
        assert open_engine(Bundle.load(made), name).name == "cpu"
    assert [r.getMessage().count("pip install onnxruntime-gpu") for r in caplog.records] == [1, 1]


def test_a_gpu_runs_no_int8_of_the_cpu(sm86: None, caplog: pytest.LogCaptureFixture) -> None:
    assert open_engine(Bundle.load(), "cuda").name == "cpu"
    assert "no fp16 or fp32 model" in caplog.text


class Slow(OrtEngine):
    def infer(self, inputs: Arrays) -> dict[str, np.ndarray]:
        time.sleep(0.01)
        return super().infer(inputs)


def makers(made: Path, opened: list[str]) -> dict[str, Callable[[], Engine]]:
    model = (made / "model.fp32.onnx").read_bytes()

    def make(name: str, kind: type[OrtEngine]) -> Engine:
        opened.append(name)
        if name == "broken":
            raise EngineError("its library is missing")
        engine = kind(model)
        engine.name = name
        return engine

    kinds = {"slow": Slow, "broken": OrtEngine, "quick": OrtEngine}
    return {name: lambda name=name, kind=kind: make(name, kind) for name, kind in kinds.items()}


def test_the_fastest_is_measured_once_and_remembered(
    made: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened: list[str] = []
    assert fastest(makers(made, opened), "this machine", cache).name == "quick"
    assert opened == ["slow", "broken", "quick"]
    said = [record.getMessage() for record in caplog.records]
    assert said[1:] == ["engine broken: its library is missing"]
    caplog.clear()
    assert fastest(makers(made, opened), "this machine", cache).name == "quick"
    assert opened[3:] == ["quick"]
    assert not caplog.records
    fastest(makers(made, opened), "another machine", cache)
    assert len(opened) == 7
    assert json.loads((cache / "engines.json").read_text()) == {
        "this machine": "quick",
        "another machine": "quick",
    }


def test_one_that_ran_before_and_does_not_now_is_measured_again(made: Path, cache: Path) -> None:
    cache.mkdir()
    (cache / "engines.json").write_text('{"here": "broken"}')
    assert fastest(makers(made, []), "here", cache).name == "quick"
    for damaged in ("{", "[1]", '{"here": ["quick"]}'):
        (cache / "engines.json").write_text(damaged)
        assert fastest(makers(made, []), "here", cache).name == "quick"


def test_a_cache_that_cannot_be_written_is_told(
    made: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert fastest(makers(made, []), "here", tmp_path / "file" / "cache").name == "quick"
    assert "engines are measured again next time" in caplog.records[-1].getMessage()


def test_none_that_runs_raises_the_reason(made: Path, cache: Path) -> None:
    broken = {"broken": makers(made, [])["broken"]}
    with pytest.raises(EngineError, match="its library is missing"):
        fastest(broken, "here", cache)


def test_auto_measures_every_engine_of_the_bundle(
    made: Path, cuda: gpu_on_host.Cuda, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    engine = open_engine(Bundle.load(made, "fp32"))
    assert "measuring cpu" in caplog.records[0].getMessage()
    assert "rtx int8, rtx fp32" in caplog.records[0].getMessage()
    (best,) = json.loads((cache / "engines.json").read_text()).values()
    assert best.split()[0] == engine.name
    assert len(cuda.memory) in (0, 12)  # of those that lost nothing is left


# In the stream


@pytest.fixture
def talk(root: Path) -> dict[str, Any]:
    """A sentence without pictures and words: quick."""
    sentence = min((root / "tests" / "golden" / "emodb").glob("*.flac"))
    return {"file": sentence, "stt": "none"}


def test_a_stream_falls_back_with_one_line(
    made: Path, talk: dict[str, Any], sm86: None, caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A real engine that fits; then its library or the GPU is missing."""
    if NO_GPU == "" and importlib.util.find_spec("cuda"):
        pytest.skip("a GPU is here, and may run it")
    with EmotionStream(**talk, bundle=made, engine="rtx") as stream:
        assert len(list(stream)) == 1
        assert stream.stats["engine"] == {"engine": "cpu", "precision": "fp32"}
    (record,) = caplog.records
    assert record.getMessage().startswith("engine rtx: ")
    assert record.getMessage().endswith("; the CPU is used")
    assert "\n" not in record.getMessage()
    assert capfd.readouterr().err == ""


def test_a_stream_whose_gpu_gives_nan_goes_on_and_names_the_cpu(
    made: Path, talk: dict[str, Any], cuda: gpu_on_host.Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(context: gpu_on_host.Context, stream: int) -> bool:
        for name in OUTPUTS:
            ctypes.memset(context._addresses[name], 0xFF, 28)
        return True

    monkeypatch.setattr(choose, "check", lambda engine, bundle: None)
    monkeypatch.setattr(gpu_on_host.Context, "execute_async_v3", fill)
    with EmotionStream(**talk, bundle=made, engine="rtx") as stream:
        assert len(list(stream)) == 1
        assert stream.stats["inference_errors"] == 1
        assert stream.stats["engine"] == {"engine": "cpu", "precision": "fp32"}


@pytest.mark.skipif(NO_GPU == "", reason="a GPU is here")
def test_the_command_says_in_one_line_that_an_engine_does_not_run(
    talk: dict[str, Any], root: Path
) -> None:
    command = [sys.executable, "-m", "runtime.cli", "--file", talk["file"], "--stt", "none"]
    outs = [
        subprocess.run([*command, *options], cwd=root, capture_output=True, text=True, check=True)
        for options in ([], ["--engine", "tensorrt"])
    ]
    assert [out.stderr for out in outs] == [
        "",
        f"dmd-live: engine tensorrt: {NO_GPU}; the CPU is used\n",
    ]
    assert outs[0].stdout == outs[1].stdout != ""


def test_a_recording_names_its_engine_and_is_judged_by_it(
    made: Path, talk: dict[str, Any], cuda: gpu_on_host.Cuda, tmp_path: Path,
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    path = tmp_path / "talk.jsonl"
    with EmotionStream(**talk, bundle=made, engine="rtx", record=path) as stream:
        list(stream)
    header = json.loads(path.read_text().splitlines()[0])
    assert (header["engine"], header["precision"]) == ("rtx", "int8")
    monkeypatch.setattr(choose, "fastest", None)  # a replay measures nothing
    with EmotionStream(replay=path, bundle=made) as stream:
        list(stream)
        assert stream.stats["engine"]["engine"] == "rtx"
        assert stream.stats["replay"] == {"events": 1, "changed": 0}
    assert not caplog.records
    with EmotionStream(replay=path, bundle=made, engine="cpu") as stream:
        list(stream)
    assert "(rtx, int8), judged with" in caplog.text
    assert caplog.text.count("events may differ") == 1


# With a GPU


@pytest.mark.skipif(NO_GPU != "", reason=NO_GPU)
@pytest.mark.parametrize("name", [n for n in ENGINES if n not in ("auto", "cpu")])
def test_every_engine_of_this_machine_agrees_with_the_cpu(
    name: str, tokenizer_json: Path, tmp_path: Path
) -> None:
    """Built here where it must be, opened without falling back, in both profiles."""
    folder = add_int8(write_bundle(tmp_path / "bundle", tiny_graph(), tokenizer_json))
    if name in PROVIDERS:
        if PROVIDERS[name] not in onnxruntime.get_available_providers():
            pytest.skip(f"this onnxruntime has no {PROVIDERS[name]}")
        built = [None]
    else:
        pytest.importorskip(stored.BACKENDS[name])
        pytest.importorskip("cuda.bindings.runtime")
        built = ["fp32", "fp16", "int8"]
        for precision in built:
            options = ["--bundle", str(folder), "--backend", name, "--precision", str(precision)]
            if name == "rtx":
                options += ["--targets", gpu.capability()]
            assert builder.main(options) == 0
    wanted = OrtEngine((folder / "model.fp32.onnx").read_bytes())
    for precision in built:
        engine = choose._open(Bundle.load(folder), name, precision)
        assert engine.name == name
        for inputs in (batch(1), batch(4), batch(1, 64, 375, 225)):
            found = engine.infer(inputs)
            for output, values in wanted.infer(inputs).items():
                most = golden._TOLERANCE.get(engine.precision, golden._QUANTIZED)
                np.testing.assert_allclose(found[output], values, atol=most, err_msg=output)
