"""Checkpoint -> bundle -> int8, on a small untrained model: the very code that ships real ones."""

import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from export import bundle as writer
from export import certificate, graph, quantize
from export.recipes import Maker
from runtime.engines.golden import check
from runtime.engines.ort import OrtEngine
from runtime.errors import BundleError, EngineError, UsageError
from runtime.features.embedding import EMBEDDING_DIM
from runtime.features.pack import INPUTS, OUTPUTS
from runtime.features.spec import SPEC
from runtime.store.bundle import Bundle
from train import checkpoint
from train.data.corpora import EMOTIONS
from train.data.utterance import Utterance


@pytest.fixture(scope="module")
def exported(traced: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model's bundle, with fp32 and int8."""
    folder = Path(shutil.copytree(traced, tmp_path_factory.mktemp("export") / "bundle"))
    judge = quantize.Judge(Bundle.load(folder, "fp32").model, utterances(8))
    with pytest.MonkeyPatch.context() as patch:  # this model has small products only
        patch.setattr("export.recipes._SMALL", 0)
        quantize.quantize(folder, "int8-dynamic", utterances(6), judge, budget=1e6)
    return folder


def utterances(n: int) -> list[Utterance]:
    """Random ones of differing lengths."""
    rng = np.random.default_rng(n)
    return [
        Utterance(
            text=rng.integers(0, 20_000, int(rng.integers(3, 20))),
            audio=rng.normal(-6, 2, (int(rng.integers(9, 60)), SPEC.audio_dim)).astype(np.float32),
            vision=rng.random((int(rng.integers(9, 40)), SPEC.vision_dim), np.float32),
            emotion=k % len(EMOTIONS),
            sentiment=float(rng.uniform(-3, 3)),
        )
        for k in range(n)
    ]


def inputs(batch: int, tt: int, ta: int, tv: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Random utterances of differing lengths; the last lacks a modality."""
    rng = np.random.default_rng(seed)
    out: dict[str, np.ndarray] = {
        "input_ids": rng.integers(0, 20_000, (batch, tt)),
        "audio": rng.normal(-6, 2, (batch, ta, SPEC.audio_dim)).astype(np.float32),
        "vision": rng.random((batch, tv, SPEC.vision_dim), np.float32),
        "audio_embedding": rng.normal(0, 1, (batch, EMBEDDING_DIM)).astype(np.float32),
    }
    out["audio_embedding"][0] = 0.0  # not known
    for m, n in (("text", tt), ("audio", ta), ("vision", tv)):
        lengths = rng.integers(1, n + 1, batch)
        lengths[-1] *= m != "audio"
        out[f"{m}_mask"] = np.arange(n) < lengths[:, None]
    return out


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 9, 40, 31), (1, 64, 375, 225), (4, 2, 1, 17)])
def test_fp32_graph_equals_torch(saved: Path, exported: Path, shape: tuple[int, ...]) -> None:
    model = checkpoint.load(saved).model
    batch = inputs(*shape)
    with torch.no_grad():
        expected = model.predict({n: torch.from_numpy(a) for n, a in batch.items()})
    found = OrtEngine(Bundle.load(exported, "fp32").model).infer(batch)
    for name, value in zip(OUTPUTS, expected, strict=True):
        np.testing.assert_allclose(found[name], value.numpy(), atol=1e-4, err_msg=name)


def test_an_embedding_belongs_to_a_voice_and_may_be_missing(exported: Path) -> None:
    engine, batch = OrtEngine(Bundle.load(exported, "fp32").model), inputs(3, 9, 40, 31)
    known = engine.infer(batch)["emotion"]
    unknown = engine.infer({**batch, "audio_embedding": 0.0 * batch["audio_embedding"]})["emotion"]
    np.testing.assert_array_equal(known[0], unknown[0])  # nothing was known of it
    assert np.abs(known[1] - unknown[1]).max() > 1e-4
    np.testing.assert_allclose(known[2], unknown[2], atol=1e-6)  # it has no voice


def test_graph_has_the_contract_and_nothing_of_training(exported: Path) -> None:
    loaded = onnx.load(exported / "model.fp32.onnx")
    assert [i.name for i in loaded.graph.input] == list(INPUTS)
    assert [o.name for o in loaded.graph.output] == list(OUTPUTS)
    assert {o.version for o in loaded.opset_import if o.domain == ""} == {graph.OPSET}
    weights = " ".join(i.name for i in loaded.graph.initializer)
    for part in ("decode", "common_head", "hetero_heads", "homo_gd", "hetero_gd"):
        assert part not in weights
    axes = {d.dim_param for i in loaded.graph.input for d in i.type.tensor_type.shape.dim}
    assert len(axes - {""}) == 4  # B and three times


def test_int8_is_smaller_and_close(exported: Path) -> None:
    sizes = {p: (exported / f"model.{p}.onnx").stat().st_size for p in ("fp32", "int8")}
    # A scale per word is a sixth of a table as narrow as this one.
    assert sizes["int8"] < 0.43 * sizes["fp32"]
    constants = onnx.load(exported / "model.int8.onnx").graph.initializer
    wide = [i for i in constants if math.prod(i.dims) > 8192]
    kinds = {onnx.TensorProto.DataType.Name(i.data_type) for i in wide}
    assert kinds == {"INT8", "FLOAT16"}  # what is not int8 is stored in half
    batch = inputs(1, 9, 40, 31)
    fp32, int8 = (OrtEngine(Bundle.load(exported, p).model).infer(batch) for p in sizes)
    assert np.abs(fp32["emotion"] - int8["emotion"]).max() < 0.1


def test_every_word_keeps_a_scale_of_its_own(traced: Path, tmp_path: Path) -> None:
    model = onnx.load(traced / "model.fp32.onnx")
    (words,) = (i for i in model.graph.initializer if i.dims == [22_000, 24])
    values = onnx.numpy_helper.to_array(words).copy()
    values[7] *= 1_000.0  # one word is a thousand times as loud as all others
    words.CopyFrom(onnx.numpy_helper.from_array(values, words.name))
    fp32 = model.SerializeToString()
    maker = Maker(fp32, "int8-dynamic", "minmax", utterances(4), tmp_path)
    engines = [OrtEngine(model, precision="int8") for model in (fp32, maker.make(maker.parts))]
    stored = {i.name: i for i in onnx.load_from_string(maker.make([])).graph.initializer}
    table = next(i for name, i in stored.items() if i.dims == [22_000, 24])
    assert table.data_type == onnx.TensorProto.INT8
    batch = inputs(1, 12, 1, 1)
    batch["input_ids"] = np.arange(100, 112)[None]
    found = [engine.infer(batch)["sentiment"] for engine in engines]
    assert np.abs(found[0] - found[1]).max() < 0.01


def test_int8_sums_of_two_products_fit_16_bits(exported: Path) -> None:
    """Else processors that add them so (AVX2) would saturate, where the newer ones do not."""
    made = onnx.load(exported / "model.int8.onnx").graph
    kinds = ("MatMulInteger", "MatMulIntegerToFloat")
    names = {n.input[1] for n in made.node if n.op_type in kinds}
    stored = [onnx.numpy_helper.to_array(i) for i in made.initializer if i.name in names]
    weights = [weight.astype(int) for weight in stored]
    assert len(weights) > 10
    for weight in weights:
        assert np.abs(weight).max() <= 127
        assert np.abs(weight[::2][: len(weight) // 2] + weight[1::2]).max() <= 128


@pytest.mark.parametrize(
    ("recipe", "precision", "most"),
    [("fp16", "fp16", 0.005), ("int8-qdq", "int8-qdq", 0.1), ("mixed", "mixed", 0.1)],
)
def test_other_recipes_are_close_too(
    exported: Path, tmp_path: Path, recipe: str, precision: str, most: float
) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "bundle"))
    judge = quantize.Judge(Bundle.load(folder, "fp32").model, utterances(8))
    quantize.quantize(folder, recipe, utterances(6), judge, budget=1e6)
    made = Bundle.load(folder, precision)
    assert 0.0 < judge.distance(made.model) < most
    assert made.info["quantization"][precision]["recipe"] == recipe
    ops = {node.op_type for node in onnx.load_from_string(made.model).graph.node}
    assert ("DequantizeLinear" in ops) == (recipe != "fp16")


@pytest.mark.parametrize("calibration", ["minmax", "percentile", "entropy"])
def test_qdq_pairs_are_of_weights_and_what_they_multiply_alone(
    exported: Path, tmp_path: Path, calibration: str
) -> None:
    fp32 = Bundle.load(exported, "fp32").model
    examples = utterances(6)
    assert len({len(u.audio) for u in examples}) > 1
    maker = Maker(fp32, "int8-qdq", calibration, examples, tmp_path)
    made = onnx.load_from_string(maker.make([])).graph
    constant = {i.name for i in made.initializer}
    scaled = {n.output[0]: n.input[0] in constant for n in made.node
              if n.op_type == "DequantizeLinear"}  # fmt: skip
    read = [[scaled.get(name) for name in n.input] for n in made.node if n.op_type == "MatMul"]
    assert [False, True] in read
    assert [None, None] in read  # attention's
    assert [False, False] not in read
    # What is left out is left out whole.
    none = onnx.load_from_string(maker.make(maker.parts)).graph
    assert not any("QuantizeLinear" in n.op_type for n in none.node)


def test_a_model_over_the_budget_is_refused_and_not_written(
    traced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = Maker(
        (traced / "model.fp32.onnx").read_bytes(), "fp16", "minmax", utterances(1), tmp_path
    ).parts
    monkeypatch.setattr(Maker, "parts", parts[::5])  # each of them is tried by itself
    folder = Path(shutil.copytree(traced, tmp_path / "bundle"))
    judge = quantize.Judge(Bundle.load(folder, "fp32").model, utterances(8))
    with pytest.raises(UsageError, match="points"):
        quantize.quantize(folder, "fp16", utterances(6), judge, budget=-1.0)
    assert set(Bundle.load(folder).info["models"]) == {"fp32"}
    assert not list(folder.glob("*fp16*"))


def test_what_no_device_can_feed_is_not_exported(saved: Path, tmp_path: Path) -> None:
    source = checkpoint.load(saved)
    of_file = replace(source.model.config, audio_dim=74)
    source.model.config, own = of_file, source.model.config
    with pytest.raises(BundleError, match="reads a feature file's numbers"):
        graph.write_bundle(source, tmp_path / "bundle")
    source.model.config = own
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="is no bundle, and is not replaced"):
        graph.write_bundle(source, tmp_path / "notes")
    assert [file.name for file in (tmp_path / "notes").iterdir()] == ["mine.txt"]


def test_publishing_keeps_one_precision(exported: Path, tmp_path: Path) -> None:
    card = tmp_path / "card.md"
    card.write_text("# Card\n")
    (exported / "coverage.png").write_bytes(b"a picture")
    writer.update(exported, {"documents": ["coverage.png", "golden.json"]})
    writer.publish(exported, "int8", card, tmp_path / "out", unsigned=True)
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == [
        "MODEL_CARD.md", "bundle.json", "coverage.png", "golden.json", "model.int8.onnx",
        "tokenizer.json",
    ]  # fmt: skip
    published = Bundle.load(tmp_path / "out")
    assert published.precision == "int8"
    assert published.calibration.uncertain_below == {"text+audio+vision": 0.5}
    assert published.calibration.temperature["text"] == 0.5
    writer.publish(exported, "fp32", None, tmp_path / "out", unsigned=True)  # replaces a bundle
    assert Bundle.load(tmp_path / "out").precision == "fp32"


def test_an_engine_that_computes_wrong_is_found_out(
    root: Path, exported: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "bundle"))
    for precision in ("fp32", "int8"):
        bundle = Bundle.load(folder, precision)
        check(OrtEngine(bundle.model, precision=precision), bundle)
    model = onnx.load(folder / "model.fp32.onnx")
    for weight in model.graph.initializer:
        if weight.data_type == onnx.TensorProto.FLOAT and len(weight.dims) > 1:
            values = 1.5 * onnx.numpy_helper.to_array(weight)
            weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    wrong = OrtEngine(model.SerializeToString())
    with pytest.raises(EngineError, match=r"computes fp32 wrong here: .* off by"):
        check(wrong, Bundle.load(folder, "fp32"))
    onnx.save(model, folder / "model.fp32.onnx")
    writer.update(folder, {"models": {"int8": "model.fp32.onnx"}})
    command = [sys.executable, "-m", "runtime.cli", "--demo", "--bundle", folder]
    out = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert (out.returncode, out.stdout) == (2, "")
    assert "computes int8 wrong here" in out.stderr
    assert len(out.stderr.splitlines()) == 1
    (folder / "golden.json").write_text("[]")
    with pytest.raises(BundleError, match=r"golden\.json is altered"):
        Bundle.load(folder)


def test_a_model_without_certificate_is_published_only_as_such(
    exported: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    with pytest.raises(BundleError, match=r"no certificate for model\.int8\.onnx; run python -m"):
        writer.publish(exported, "int8", None, out)
    assert not out.exists()
    assert "certificate" not in caplog.text
    writer.publish(exported, "int8", None, out, unsigned=True)
    assert Bundle.load(out).info["unsigned"] is True
    assert f"{out}: this bundle has no certificate" in caplog.text


def test_engines_of_a_gpu_are_certified_beside_the_models() -> None:
    def row(model: str, accuracy: float) -> certificate.Row:
        found = {"accuracy": accuracy}
        return certificate.Row(
            subset="text", model=model, metrics=found, change={}, max_difference=0.0,
            mean_difference=0.0, same_emotion=1.0,
        )  # fmt: skip

    rows = [row("torch", 0.8), row("fp32", 0.8), row("rtx fp16", 0.802), row("tensorrt int8", 0.7)]
    made = certificate.certify(rows, {"fp32": "abc"}, budget=0.5)
    assert made["models"] == {"fp32": {"sha256": "abc", "passed": True, "against": "torch",
                                       "largest_change_points": 0.0, "metric": "accuracy",
                                       "subset": "text"}}  # fmt: skip
    verdicts = {name: (v["passed"], v["against"]) for name, v in made["engines"].items()}
    assert verdicts == {"rtx fp16": (True, "fp32"), "tensorrt int8": (False, "fp32")}


def test_publishing_over_something_else_is_refused(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError):
        writer.publish(exported, "int8", None, tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("name", ["checkpoint.json", "model.safetensors"])
def test_a_damaged_checkpoint_is_one_line(saved: Path, tmp_path: Path, name: str) -> None:
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(BundleError) as caught:
        checkpoint.load(tmp_path)
    assert "\n" not in str(caught.value)
    (tmp_path / name).unlink()
    with pytest.raises(BundleError, match=r"train\.run"):
        checkpoint.load(tmp_path)


def test_a_checkpoint_of_another_feature_spec_is_refused(saved: Path, tmp_path: Path) -> None:
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    info = json.loads((tmp_path / "checkpoint.json").read_text())
    info["feature_spec_sha256"] = "0" * 64
    (tmp_path / "checkpoint.json").write_text(json.dumps(info))
    with pytest.raises(BundleError, match="feature spec"):
        checkpoint.load(tmp_path)
