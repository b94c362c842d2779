"""Fitting what reads sentiment and arousal out of a graph, and nothing else."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from export import bundle as writer
from export import measure, quantize, readout
from export.lines import lines
from runtime.engines.golden import GOLDEN, check, record
from runtime.engines.ort import OrtEngine
from runtime.errors import BundleError, UsageError
from runtime.features.pack import OUTPUTS, Rows
from runtime.features.spec import SPEC
from runtime.store.bundle import Bundle


def options(data: Path, folder: Path, out: Path) -> readout.Options:
    return readout.Options(
        bundle=str(folder), data=str(data), n=60, cache=str(data / "cache"), out=str(out)
    )


def rows() -> Rows:
    """A known utterance."""
    rng = np.random.default_rng(0)
    return Rows(
        text=np.array([101, 2023, 102]),
        audio=rng.normal(0, 1, (30, SPEC.audio_dim)).astype(np.float32),
        vision=rng.random((20, SPEC.vision_dim), np.float32),
    )


def test_a_head_is_fitted_by_squared_error() -> None:
    rng = np.random.default_rng(0)
    hidden = rng.normal(3, 2, (400, 5)).astype(np.float32)
    true = readout.Head(np.array([0.2, -0.1, 0.0, 0.3, 0.1], np.float32), -0.4)
    start = readout.Head(np.zeros(5, np.float32), 0.0)
    labels = true(hidden)
    labels[::7] = np.nan  # not known
    found = readout.fit(start, hidden, labels, penalty=0.0)
    np.testing.assert_allclose(found.weight, true.weight, atol=1e-3)
    assert found.bias == pytest.approx(true.bias, abs=1e-2)
    kept = readout.fit(start, hidden, labels, penalty=1e9)
    np.testing.assert_allclose(kept.weight, 0.0, atol=1e-6)
    assert kept.bias == pytest.approx(float(np.nanmean(labels)), abs=1e-3)
    squashed = readout.Head(true.weight / 4, 0.1, squashed=True)
    again = readout.fit(
        readout.Head(start.weight, 0.0, squashed=True), hidden, squashed(hidden), penalty=0.0
    )
    np.testing.assert_allclose(again(hidden), squashed(hidden), atol=1e-3)


def test_only_sentiment_and_arousal_change(
    data: Path, traced: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = Path(shutil.copytree(traced, tmp_path / "bundle")), tmp_path / "fitted"
    before = OrtEngine(Bundle.load(folder).model)
    (folder / GOLDEN).write_bytes(record(before, [rows()]))
    verdict = {"sha256": "of the old model", "passed": True}
    (folder / "certificate.json").write_text(json.dumps({"models": {"fp32": verdict}}))
    (folder / "CERTIFICATE.md").write_text("# Certificate\n")
    documents = [GOLDEN, "certificate.json", "CERTIFICATE.md"]
    writer.update(folder, {"documents": documents})
    original = {file.name: file.read_bytes() for file in folder.iterdir()}

    readout.run(options(data, folder, out))
    readout.run(options(data, out, out))  # once more: it says so once
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == original
    assert "arousal of composed utterances, validation: r " in capsys.readouterr().out
    fitted = Bundle.load(out)
    golden = json.loads((out / GOLDEN).read_text())[0]["outputs"]
    was = json.loads(original[GOLDEN])[0]["outputs"]
    for name in OUTPUTS:
        assert (golden[name] == was[name]) == (name not in ("sentiment", "arousal"))
    check(OrtEngine(fitted.model, precision="fp32"), fitted)
    told = json.loads((out / "certificate.json").read_text())["models"]["fp32"]
    assert told["certified_sha256"] == "of the old model"
    writer.publish(out, "fp32", None, tmp_path / "published")  # the certificate is of this model
    assert (out / "CERTIFICATE.md").read_text().count("Fitted since") == 1
    assert fitted.info["readout"]["fp32"]["n"] == 60


def test_what_cannot_be_fitted_is_one_line(data: Path, traced: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="exists and is not a bundle"):
        readout.run(options(data, traced, mine))
    assert [file.name for file in mine.iterdir()] == ["notes.txt"]
    with pytest.raises(UsageError, match="--n is at least 1"):
        readout.run(replace(options(data, traced, tmp_path / "out"), n=0))
    folder = Path(shutil.copytree(traced, tmp_path / "bundle"))
    info = json.loads((folder / "bundle.json").read_text())
    del info["provenance"]
    (folder / "bundle.json").write_text(json.dumps(info))
    writer.update(folder, {})
    with pytest.raises(BundleError, match="does not say how its model was trained"):
        readout.run(options(data, folder, tmp_path / "out"))
    where = {"bundle": str(folder), "data": str(data)}
    with pytest.raises(BundleError, match="does not say how its model was trained"):
        measure.run(measure.Options(**where))
    with pytest.raises(BundleError, match="does not say how its model was trained"):
        quantize.run(quantize.Options(**where))
    assert not (tmp_path / "out").exists()


def test_arousal_is_measured_by_how_strong_an_emotion_is(
    data: Path, tokenizer_json: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "ravdess"
    folder.mkdir()
    for voice in (data / "ravdess").glob("*-11.flac"):
        shutil.copyfile(voice, folder / voice.name)
        if "-05-01-" in voice.name:  # anger, a second time: strong
            shutil.copyfile(voice, folder / voice.name.replace("-05-01-", "-05-02-"))
    found = lines(tmp_path, tmp_path / "cache", tokenizer_json, embeddings=False)
    assert [line.metric for line in found] == ["UAR", "AUC of arousal, strong emotion"]
    voices = found[1].utterances
    said = {
        "emotion_label": np.array([u.emotion for u in voices]),
        "arousal_label": np.array([u.arousal for u in voices]),
    }
    assert len(voices) == 8
    assert found[1].score(said | {"arousal": said["arousal_label"]}) == 1.0
    assert found[1].score(said | {"arousal": -said["arousal_label"]}) == 0.0
    assert found[1].score(said | {"arousal": np.zeros(8)}) == 0.5
