"""Small data in the corpora's layouts, a model that trains on it in seconds, its bundle."""

from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch

from export import graph
from runtime.features.vision import VisionFeatures
from runtime.store import models
from tests.once import Once
from train import checkpoint, config, run
from train.prepare import prepare

# Subjects that the hash puts into each split of CK+.
FACES = {"train": "S010", "valid": "S013", "test": "S014"}
GOEMOTIONS = ("anger", "disgust", "fear", "joy", "sadness", "surprise", "neutral")
SMALL = (
    "model.dim=16", "model.n_heads=2", "model.n_layers=1", "model.gd_hidden=8",
    "model.front_audio=12", "model.embedding_audio=8", "model.language_layers=0",
    "data.utterances_per_epoch=48", "data.n_valid=14", "data.n_test=14", "data.unheard_share=0.3",
    "optim.batch_size=8", "optim.epochs=3", "optim.patience=3",
)  # fmt: skip


@pytest.fixture(scope="session")
def data(once: Once, demo: Path) -> Path:
    """Every emotion in every split: made-up sentences, and the demo clip's voice and face. Their
    features are in its folder `cache`."""

    def make(folder: Path) -> None:
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
        write_text(folder / "goemotions" / "ekman")
        write_voices(folder / "ravdess", said)
        write_faces(folder / "ckplus48", picture)
        prepare(folder, folder / "cache", embeddings=True)

    return once("data", make)


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


@pytest.fixture(scope="session")
def settings(once: Once, tokenizer_json: Path) -> tuple[str, ...]:
    """Overrides for a model that trains in seconds, its language encoder a local folder."""

    def make(folder: Path) -> None:
        from transformers import BertConfig, BertModel

        size = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
        size |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        torch.manual_seed(0)  # else every run of the tests trains another model
        BertModel(BertConfig(**size, intermediate_size=32)).save_pretrained(folder)
        (folder / "tokenizer.json").write_bytes(tokenizer_json.read_bytes())

    return (*SMALL, f'model.language="{once("bert", make)}"')


@pytest.fixture(scope="session")
def trained(root: Path, once: Once, data: Path, settings: tuple[str, ...]) -> Path:
    """A checkpoint of an uninterrupted run."""

    def make(folder: Path) -> None:
        out = str(folder / "checkpoint")
        options = run.Options(data=str(data), out=out, cache=str(data / "cache"))
        run.train(config.load(root / "configs" / "quick.toml", settings), options)

    return once("run", make) / "checkpoint"


@pytest.fixture(scope="session")
def traced(once: Once, trained: Path) -> Path:
    """Its bundle with fp32 alone, which takes long to trace."""

    def make(folder: Path) -> None:
        graph.write_bundle(checkpoint.load(trained), folder / "bundle")

    return once("traced-run", make) / "bundle"
