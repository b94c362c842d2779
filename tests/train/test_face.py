"""`train.face` on the demo clip's face, cut out small, with made-up votes."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import onnxruntime
import pytest

from runtime.errors import UsageError
from runtime.features.spec import SPEC
from train import face
from train.data import corpora
from train.data.crops import centre, find_faces
from train.data.photographs import vary
from train.face import Options, targets


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, demo: Path) -> Path:
    """FER+ of 24 training and 6 validation pictures of one face, and one of nobody."""
    root = tmp_path_factory.mktemp("data")
    with av.open(str(demo)) as container:
        frames = [f.to_ndarray(format="bgr24") for f in container.decode(video=0)][::5][:30]
    for folder, some in (("FER2013Train", frames[:24]), ("FER2013Valid", frames[24:])):
        place = root / "ferplus" / folder
        place.mkdir(parents=True)
        lines = []
        for k, frame in enumerate(some):
            cv2.imwrite(str(place / f"{k}.png"), cv2.resize(frame, (200, 150)))
            votes = [0] * 10
            votes[k % 4], votes[(k + 1) % 4] = 7, 3
            lines.append(f'{k}.png,"(0, 0, 48, 48)",{",".join(map(str, votes))}\n')
        (place / "label.csv").write_text("".join(lines))
    nobody = root / "ferplus" / "FER2013Train"
    cv2.imwrite(str(nobody / "nobody.png"), np.zeros((300, 300), np.uint8))
    with (nobody / "label.csv").open("a") as file:
        file.write('nobody.png,"(0, 0, 48, 48)",10,0,0,0,0,0,0,0,0,0\n')
    return root


@pytest.fixture(scope="module")
def options(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Options:
    cache = tmp_path_factory.mktemp("cache")
    out = cache / "face"
    return Options(data=str(data), out=str(out), cache=str(cache), epochs=2, batch_size=8)


@pytest.fixture(scope="module")
def trained(options: Options) -> Path:
    face.train(options)
    return Path(options.out)


def test_it_writes_what_the_runtime_ships(trained: Path) -> None:
    info = json.loads((trained / "appearance.json").read_text())
    model = trained / "appearance.onnx"
    assert model.stat().st_size < 1e6
    session = onnxruntime.InferenceSession(model.read_bytes())
    faces = np.random.default_rng(0).normal(0, 1, (3, 1, 48, 48)).astype(np.float32)
    (found,) = session.run(["embedding"], {"face": faces})
    assert found.shape == (3, SPEC.appearance_dim)
    assert info["n_training"] == 24
    assert info["share_with_a_face"]["ferplus"] == pytest.approx(30 / 31)
    assert info["config"]["seed"] == 1
    assert {"accuracy", "uar", "ece"} <= info["valid"]["ferplus"].keys()
    assert len(info["history"]) == 2


def test_an_interrupted_run_ends_the_same(
    options: Options, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = replace(options, out=str(tmp_path))
    epochs = []

    def once(run: face._Run, record: dict[str, object]) -> None:
        finish(run, record)
        epochs.append(record)
        if len(epochs) == 1:
            raise KeyboardInterrupt

    finish = face._Run.finish_epoch
    monkeypatch.setattr(face._Run, "finish_epoch", once)
    with pytest.raises(KeyboardInterrupt):
        face.train(again)
    face.train(again)
    assert len(epochs) == 2
    same = (tmp_path / "appearance.onnx").read_bytes()
    assert same == (trained / "appearance.onnx").read_bytes()


def test_mistakes_are_one_line(
    options: Options, tmp_path: Path, trained: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    with pytest.raises(UsageError, match="no FER"):
        face.train(replace(options, data=str(tmp_path)))
    with pytest.raises(UsageError, match="other options"):
        face.train(replace(options, seed=2))
    monkeypatch.setattr(
        sys, "argv", ["train.face", "--data", str(tmp_path), "--out", str(tmp_path)]
    )
    assert face.main() == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_votes_are_the_targets(data: Path) -> None:
    people = list(corpora.ferplus(data))
    rows = targets(people)
    np.testing.assert_allclose(rows.sum(axis=1), 1.0)
    np.testing.assert_allclose(rows[0, :2], (0.7, 0.3))
    slip = replace(people[0], votes=(1, 8, 0, 0, 0, 0, 0, 0, 1, 0))
    posed = replace(people[0], votes=(), emotion=corpora.EMOTIONS.index("fear"))
    single, label = targets([slip, posed])
    assert single[1] == 1.0
    assert label[corpora.VOTES.index("fear")] == 1.0


def test_crops_vary_as_the_device_may_see_them(options: Options, data: Path) -> None:
    pictures = [p.path for p in corpora.ferplus(data)][:3]
    crops = find_faces(pictures, Path(options.cache) / "few")
    assert crops.grey.shape == (3, 60, 60)
    assert centre(crops.grey).shape == (3, 48, 48)
    varied = [vary(np.random.default_rng(k), crops.grey[0]) for k in range(30)]
    assert {v.shape for v in varied} == {(48, 48)}
    assert {v.dtype for v in varied} == {np.dtype(np.uint8)}
    assert len({v.tobytes() for v in varied}) == 30
    again = vary(np.random.default_rng(3), crops.grey[0])
    np.testing.assert_array_equal(again, varied[3])
