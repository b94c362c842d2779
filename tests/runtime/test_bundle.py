"""A bundle loads only when every byte of it is what was written."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from runtime.engines.ort import OrtEngine
from runtime.errors import BundleError, FeatureError
from runtime.features.pack import INPUTS
from runtime.features.spec import SPEC
from runtime.store.bundle import DEFAULT, Bundle, own_hash


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the default bundle to damage."""
    return Path(shutil.copytree(DEFAULT, tmp_path / "bundle"))


def flip(path: Path, at: int) -> None:
    """Change one bit of one byte."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_default_bundle_loads_and_is_small() -> None:
    bundle = Bundle.load()
    assert bundle.precision == "int8"
    assert bundle.emotions == (
        "anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"
    )  # fmt: skip
    assert sum(f.stat().st_size for f in DEFAULT.iterdir()) < 25e6


@pytest.mark.parametrize("where", [0.0, 0.3, 0.6, 0.999])
def test_one_changed_byte_is_refused_wherever_it_is(copy: Path, where: float) -> None:
    for file in sorted(copy.iterdir()):
        at = int(where * (file.stat().st_size - 1))
        flip(file, at)
        with pytest.raises(BundleError) as caught:
            Bundle.load(copy)
        assert "\n" not in str(caught.value)
        flip(file, at)
    Bundle.load(copy)


def test_missing_and_truncated_files_are_named(copy: Path) -> None:
    model = copy / "model.int8.onnx"
    model.write_bytes(model.read_bytes()[:1000])
    with pytest.raises(BundleError, match=r"model\.int8\.onnx"):
        Bundle.load(copy)
    model.unlink()
    with pytest.raises(BundleError, match=r"model\.int8\.onnx"):
        Bundle.load(copy)
    with pytest.raises(BundleError, match="not a bundle"):
        Bundle.load(copy / "nowhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"feature_spec_sha256": "0" * 64}, "feature spec"),
        ({"format": 99}, "format 99"),
        ({"models": {}}, "no usable model"),
        ({"models": {"int8": "other.onnx"}}, "malformed"),
        ({"models": ["model.int8.onnx"]}, "malformed"),
        ({"files": None}, "malformed"),
        ({"emotions": 7}, "malformed"),
        ({"fastest": ["int8"]}, "malformed"),
    ],
)
def test_foreign_bundles_are_refused(copy: Path, change: dict[str, object], message: str) -> None:
    _seal(copy, json.loads((copy / "bundle.json").read_text()) | change)
    with pytest.raises(BundleError, match=message):
        Bundle.load(copy)


def test_a_bundle_cannot_name_files_outside_itself(copy: Path) -> None:
    info = json.loads((copy / "bundle.json").read_text())
    info["files"]["../secret"] = "0" * 64
    _seal(copy, info)
    with pytest.raises(BundleError, match="outside"):
        Bundle.load(copy)


def _seal(folder: Path, info: dict[str, object]) -> None:
    """Write `bundle.json` with a right hash of its own, whatever it says."""
    info["bundle_sha256"] = "0" * 64
    content = json.dumps(info)
    sha256 = own_hash(content.encode())[1]
    head, tail = content.rsplit('"bundle_sha256": "' + "0" * 64, 1)
    (folder / "bundle.json").write_text(head + f'"bundle_sha256": "{sha256}' + tail)


def inputs(batch: int = 2, t: int = 5) -> dict[str, np.ndarray]:
    """Well-formed graph inputs."""
    sizes = {"B": batch, "Tt": t, "Ta": 2 * t, "Tv": t + 1}
    return {
        name: np.ones([sizes[a] if isinstance(a, str) else a for a in shape], kind)
        for name, (kind, shape) in INPUTS.items()
    }


@pytest.fixture(scope="module")
def engine() -> OrtEngine:
    return OrtEngine(Bundle.load().model)


@pytest.mark.parametrize(("batch", "t"), [(1, 1), (3, 7), (1, 64)])
def test_engine_takes_any_batch_and_length(engine: OrtEngine, batch: int, t: int) -> None:
    out = engine.infer(inputs(batch, t))
    assert np.isfinite(out["emotion"]).all()
    assert (np.abs(out["arousal"]) <= 1.0).all()
    np.testing.assert_allclose(out["modality_weight"].sum(axis=1), 1.0, atol=1e-5)
    assert np.all(np.abs(out["sentiment"]) <= 3.0)
    assert out["modality_sentiment"].shape == (batch, 3)


def test_absent_modalities_get_no_weight_and_do_not_matter(engine: OrtEngine) -> None:
    batch = inputs()
    batch["vision_mask"][:] = False
    out = engine.infer(batch)
    batch["vision"] = 100.0 * batch["vision"]
    again = engine.infer(batch)
    assert np.all(out["modality_weight"][:, 2] == 0.0)
    assert np.all(out["modality_sentiment"][:, 2] == 0.0)
    np.testing.assert_allclose(out["emotion"], again["emotion"], atol=1e-6)


def test_engine_names_what_is_wrong(engine: OrtEngine) -> None:
    wrong = inputs()
    wrong["audio"] = wrong["audio"][:, :, :5]
    with pytest.raises(FeatureError, match="audio"):
        engine.infer(wrong)
    wrong = inputs()
    del wrong["vision"]
    with pytest.raises(FeatureError, match="vision"):
        engine.infer(wrong)
    nan = inputs()
    nan["audio"][0, 0, 0] = np.nan
    with pytest.raises(FeatureError, match="NaN"):
        engine.infer(nan)


def test_a_graph_that_is_none_is_refused() -> None:
    with pytest.raises(BundleError):
        OrtEngine(b"not a graph")


def test_spec_hash_covers_every_field() -> None:
    from dataclasses import fields, replace

    for field in fields(SPEC):
        value = getattr(SPEC, field.name)
        other = {int: 7, float: 0.123, str: "x", bool: not value, tuple: ("x",)}[type(value)]
        assert replace(SPEC, **{field.name: other}).sha256() != SPEC.sha256(), field.name
