"""The whole path on small data: train, be killed, go on, export, quantize, compare, run."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from export import bundle as writer
from export import graph, parity, quantize
from runtime import models
from runtime.errors import BundleError, UsageError
from runtime.features.vision import VisionFeatures
from runtime.live import EmotionStream
from train import checkpoint, config, run

# Subjects that the hash puts into each split of CK+.
FACES = {"train": "S010", "valid": "S013", "test": "S014"}
GOEMOTIONS = ("anger", "disgust", "fear", "joy", "sadness", "surprise", "neutral")
SMALL = (
    "model.dim=16", "model.n_heads=2", "model.n_layers=1", "model.gd_hidden=8",
    "model.language_layers=0", "data.utterances_per_epoch=48", "data.n_valid=14", "data.n_test=14",
    "optim.batch_size=8", "optim.epochs=3", "optim.patience=3",
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, demo: Path) -> Path:
    """Every emotion in every split: made-up sentences, and the demo clip's voice and face."""
    root = tmp_path_factory.mktemp("data")
    with av.open(str(demo)) as container:
        picture = next(container.decode(video=0)).to_ndarray(format="rgb24")
    with av.open(str(demo)) as container:
        resampler = av.AudioResampler("s16", "mono", 16_000)
        pieces = [
            out.to_ndarray()[0]
            for frame in container.decode(audio=0)
            for out in resampler.resample(frame)
        ]
    said = np.concatenate(pieces)[16_000:64_000]
    write_text(root / "goemotions" / "ekman")
    write_voices(root / "ravdess", said)
    write_faces(root / "ckplus48", picture)
    return root


def write_text(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "labels.txt").write_text("\n".join(GOEMOTIONS) + "\n")
    for split in ("train", "dev", "test"):
        lines = [
            f"{split} sentence {k} of {name}\t{label}\tid\n"
            for label, name in enumerate(GOEMOTIONS)
            for k in range(4)
        ]
        (folder / f"{split}.tsv").write_text("".join(lines))


def write_voices(folder: Path, said: np.ndarray) -> None:
    folder.mkdir()
    for emotion in ("01", "03", "04", "05", "06", "07", "08"):
        for k, actor in enumerate(("01", "09", "11")):  # train, validation, test
            path = folder / f"03-01-{emotion}-01-01-01-{actor}.flac"
            with av.open(str(path), "w") as container:
                stream = container.add_stream("flac", rate=16_000, layout="mono")
                piece = said[k * 4_000 : k * 4_000 + 24_000]
                frame = av.AudioFrame.from_ndarray(piece[None], format="s16", layout="mono")
                frame.sample_rate = 16_000
                container.mux(stream.encode(frame))
                container.mux(stream.encode(None))


def write_faces(folder: Path, picture: np.ndarray) -> None:
    face = VisionFeatures(models.resolve("face-landmarker")).largest_face(picture)
    assert face is not None
    (x0, y0), (x1, y1) = (f(face.landmarks[:, :2], 0).astype(int) for f in (np.min, np.max))
    crop = cv2.cvtColor(cv2.resize(picture[y0:y1, x0:x1], (48, 48)), cv2.COLOR_RGB2GRAY)
    for name in ("anger", "disgust", "fear", "happy", "sadness", "surprise"):
        (folder / name).mkdir(parents=True)
        for subject in FACES.values():
            cv2.imwrite(str(folder / name / f"{subject}_001.png"), crop)


@pytest.fixture(scope="module")
def settings(
    root: Path, tmp_path_factory: pytest.TempPathFactory, tokenizer_json: Path
) -> tuple[str, ...]:
    """Overrides for a model that trains in seconds, its language encoder a local folder."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("bert")
    size = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(**size, intermediate_size=32)).save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(tokenizer_json.read_bytes())
    return (*SMALL, f'model.language="{folder}"')


def options(data: Path, out: Path) -> run.Options:
    return run.Options(data=str(data), out=str(out), cache=str(data / "cache"))


@pytest.fixture(scope="module")
def trained(
    root: Path, data: Path, settings: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A checkpoint of an uninterrupted run."""
    out = tmp_path_factory.mktemp("run") / "checkpoint"
    run.train(config.load(root / "configs" / "quick.toml", settings), options(data, out))
    return out


def test_checkpoint_says_how_it_was_made(trained: Path) -> None:
    info = json.loads((trained / "checkpoint.json").read_text())
    assert info["seed"] == 1
    assert info["commit"]
    assert info["seconds"] > 0
    assert [epoch["epoch"] for epoch in info["history"]] == [1, 2, 3]
    for name in ("task_fused", "task_common", "reconstruction", "cycle", "margin", "distil_homo",
                 "orthogonality", "distil_hetero", "edges_homo", "edges_hetero"):  # fmt: skip
        values = [epoch["losses"][name] for epoch in info["history"]]
        assert np.isfinite(values).all(), name
        assert min(values) >= 0, name
        assert len(set(values)) > 1, name
    assert len(info["metrics"]["test"]) == 7  # no rated sentences in this data
    assert sorted(file.name for file in trained.iterdir()) == [
        "checkpoint.json", "model.safetensors", "tokenizer.json"
    ]  # fmt: skip


def test_killed_and_resumed_is_the_same_run(
    root: Path, data: Path, settings: tuple[str, ...], trained: Path, tmp_path: Path
) -> None:
    out = tmp_path / "checkpoint"
    command = [sys.executable, "-m", "train.run", "--data", data, "--cache", data / "cache",
               "--out", out, "--set", ";".join(settings)]  # fmt: skip
    process = subprocess.Popen(command, cwd=root, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (out / "state" / "last.pt").exists() and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (out / "checkpoint.json").exists()
    other = config.load(root / "configs" / "quick.toml", settings, seed=2)
    with pytest.raises(UsageError, match="another configuration"):
        run.train(other, options(data, out))
    again = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert "going on after epoch" in again.stdout
    weights = [(folder / "model.safetensors").read_bytes() for folder in (trained, out)]
    assert weights[0] == weights[1]
    with pytest.raises(UsageError, match="finished run"):
        run.train(config.load(root / "configs" / "quick.toml", settings), options(data, out))


def test_from_checkpoint_to_events(
    data: Path, trained: Path, demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "bundle"
    graph.write_bundle(checkpoint.load(trained), folder)
    quantize.quantize(folder)
    rows = parity.run(
        parity.Options(
            checkpoint=str(trained),
            bundle=str(folder),
            data=str(data),
            cache=str(data / "cache"),
            split="test",
        )
    )
    table = capsys.readouterr().out
    assert [row.model for row in rows] == ["torch", "fp32", "int8"] * 7
    assert all(name in table for name in ("torch", "fp32", "int8", "text+audio+vision"))
    assert all(row.max_difference < 1e-4 for row in rows if row.model == "fp32")
    written = writer.read(folder)["parity"]
    assert [row["subset"] for row in written["rows"]] == [row.subset for row in rows]
    with EmotionStream(input=demo, bundle=folder) as stream:
        events = list(stream)
    assert len(events) == 2
    assert all(event.modalities["text"] == "present" for event in events)


def test_parity_refuses_the_bundle_of_another_checkpoint(
    root: Path, data: Path, trained: Path
) -> None:
    with pytest.raises(BundleError, match="was not exported from"):
        parity.run(
            parity.Options(
                checkpoint=str(trained),
                bundle=str(root / "runtime" / "default_bundle"),
                data=str(data),
                cache=str(data / "cache"),
                split="test",
            )
        )
