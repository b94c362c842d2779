"""Own recordings: the table, the features, the shards, and what happens when it is killed."""

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from runtime.features.normal import SpeechStatistics
from runtime.features.spec import SPEC
from runtime.features.vision import VisionFeatures
from runtime.sources.base import AudioChunk
from runtime.sources.file import FileSource
from runtime.store import models
from runtime.utterances.timeline import ALONE, Timeline, alone
from train import run
from train.data import manifest
from train.data.corpora import EMOTIONS, DataError
from train.data.shards import Item, Shards, read_items, write_index, write_items

Row = dict[str, object]


def table(folder: Path, rows: list[Row]) -> Path:
    path = folder / "clips.csv"
    manifest.write(path, rows)
    return path


def row(path: object, split: str = "train", **more: object) -> Row:
    return {"path": path, "split": split, "speaker": f"{split} person", **more}


def prepare(root: Path, csv_file: Path, out: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "train.prepare", "--manifest", csv_file, "--out", out, *args]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory, demo: Path) -> Path:
    """A table of five clips of the demo, one with text, and two files that are no media."""
    folder = tmp_path_factory.mktemp("clips")
    shutil.copyfile(demo, folder / "demo.mp4")
    (folder / "broken.mp4").write_bytes(demo.read_bytes()[:100_000])
    (folder / "text.wav").write_text("no sound")
    return table(
        folder,
        [
            row("demo.mp4", start=0.7, end=6.1, emotion="sadness", sentiment=-1.2),
            row("demo.mp4", start=7.0, end=10.6, text="he might have", emotion="Happy"),
            row("broken.mp4"),
            row("text.wav", emotion="fear"),
            row("demo.mp4", "valid", start=7.1, end=10.6, emotion="neutral"),
            row("demo.mp4", "test", sentiment=2),
        ],
    )


@pytest.fixture(scope="module")
def prepared(root: Path, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "out"
    done = prepare(root, clips, out)
    assert done.returncode == 0, done.stderr
    assert "2 of 6 clips failed" in done.stdout
    return out


def test_labels_words_and_failures(prepared: Path, clips: Path) -> None:
    first, second = read_items(prepared / "train-00000.safetensors")
    assert (first.emotion, second.emotion) == (EMOTIONS.index("sadness"), 3)
    assert first.sentiment == pytest.approx(-1.2)
    assert np.isnan(second.sentiment)
    assert "cold-hearted" in first.text
    assert (second.text, second.text_from) == ("he might have", "manifest")
    (whole,) = read_items(prepared / "test-00000.safetensors")
    assert "amiable" in whole.text
    assert whole.emotion == -1
    with (prepared / "failures.csv").open(newline="") as file:
        failed = {Path(r["path"]).name: r["reason"] for r in csv.DictReader(file)}
    assert failed.keys() == {"broken.mp4", "text.wav"}
    assert not (prepared / "parts").exists()


def test_features_are_the_runtimes(prepared: Path, demo: Path) -> None:
    first, _ = read_items(prepared / "train-00000.safetensors")
    networks = VisionFeatures(models.resolve("face-landmarker"))
    timeline = Timeline()
    with FileSource(demo) as source:
        for packet in source.packets():
            if isinstance(packet, AudioChunk):
                # The clip's own clock begins at its start, as if the file had been cut there.
                begin = max(0, round((0.7 - packet.start_s) * SPEC.sample_rate_hz))
                end = max(0, round((6.1 - packet.start_s) * SPEC.sample_rate_hz))
                samples = packet.samples[begin:end]
                if len(samples):
                    at_s = packet.start_s + begin / SPEC.sample_rate_hz
                    timeline.add_audio(at_s, samples)
            elif 0.7 <= packet.time_s < 6.1:
                timeline.add_vision(packet.time_s, alone(networks.row(packet.rgb)))
    np.testing.assert_array_equal(first.audio, timeline.audio_rows(0.7, 6.1))
    np.testing.assert_allclose(first.vision, timeline.vision_rows(0.7, 6.1, ALONE), atol=1e-6)
    assert len(first.vision) == 81


def test_killed_at_any_moment_ends_the_same(
    root: Path, clips: Path, prepared: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "train.prepare", "--manifest", clips, "--out", out,
               "--workers", "1"]  # fmt: skip
    process = subprocess.Popen(command, cwd=root, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 60
    while not list((out / "parts").glob("*.safetensors")) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.01)
    import os

    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "index.json").exists()
    done = prepare(root, clips, out)
    assert "going on: " in done.stdout
    for file in sorted(prepared.iterdir()):
        assert (out / file.name).read_bytes() == file.read_bytes(), file.name
    assert "complete already" in prepare(root, clips, out).stdout


@pytest.fixture
def two_nodes() -> Iterator[str]:
    """The address of a Ray cluster of two nodes, both on this machine."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    try:
        cluster.add_node(num_cpus=1)
        yield cluster.address
    finally:
        cluster.shutdown()


def test_a_ray_cluster_does_the_same(
    root: Path, clips: Path, prepared: Path, tmp_path: Path, two_nodes: str
) -> None:
    done = prepare(root, clips, tmp_path / "out", "--ray", two_nodes)
    assert done.returncode == 0, done.stderr
    for file in sorted(prepared.iterdir()):
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "dev"}, "row 3: split 'dev'"),
        ({"emotion": "boredom"}, "row 3: emotion 'boredom'"),
        ({"sentiment": 3.5}, "row 3: sentiment 3.5"),
        ({"sentiment": "good"}, "row 3: sentiment 'good' is not a number"),
        ({"sentiment": "nan"}, "row 3: sentiment 'nan'"),
        ({"start": 5, "end": 4}, "row 3: start 5 and end 4"),
        ({"path": ""}, "row 3: no path"),
        ({"end": 5}, "row 3: the same clip as row 2"),
        ({"path": "gone.mp4"}, "row 3: .*gone.mp4: no such file"),
    ],
)
def test_a_wrong_row_is_named_before_any_work(
    root: Path, demo: Path, tmp_path: Path, change: Row, message: str
) -> None:
    path = table(tmp_path, [row(demo, end=5), row(demo) | change])
    done = prepare(root, path, tmp_path / "out")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    import re

    assert re.search(message, done.stderr)
    assert not (tmp_path / "out").exists()


def test_missing_files_can_be_skipped(root: Path, demo: Path, tmp_path: Path) -> None:
    path = table(tmp_path, [row("gone.mp4"), row(demo, start=7, end=10.6)])
    done = prepare(root, path, tmp_path / "out", "--skip-missing")
    assert done.returncode == 0, done.stderr
    assert "1 of 2 clips failed" in done.stdout
    assert "gone.mp4" in (tmp_path / "out" / "failures.csv").read_text()


def item(k: int, n_rows: int = 20) -> Item:
    rng = np.random.default_rng(k)
    return Item(
        id=f"item-{k}",
        text="some words",
        audio=rng.normal(size=(n_rows, SPEC.audio_dim)).astype(np.float32),
        vision=rng.random((n_rows, SPEC.vision_dim), np.float32),
        sentiment=0.5,
        emotion=k % 7,
        speaker="",
        text_from="stt",
    )


def store(folder: Path, n_shards: int, per_shard: int, n_rows: int = 20) -> Path:
    folder.mkdir()
    names: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    for k in range(n_shards):
        name = f"train-{k:05d}.safetensors"
        items = [item(k * per_shard + i, n_rows) for i in range(per_shard)]
        write_items(folder / name, items)
        names["train"].append(name)
    write_index(folder, names, {})
    return folder


def test_an_epoch_is_a_permutation_of_its_own(tmp_path: Path, tokenizer_json: Path) -> None:
    shards = Shards(store(tmp_path / "s", 4, 5), tokenizer_json, seed=1)
    orders = [[shards.training(e, k).id for k in range(20)] for e in (0, 1, 0)]
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[0]) == sorted(u.id for u in shards.held_out("train"))
    said = item(int(orders[0][3].split("-")[1]))
    heard = SpeechStatistics().normalise(said.audio)  # as the first utterance of a session
    np.testing.assert_array_equal(shards.training(0, 3).audio, heard)


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path, tokenizer_json: Path) -> None:
    peaks = []
    for n_shards in (3, 30):
        folder = store(tmp_path / str(n_shards), n_shards, 20, n_rows=200)
        shards = Shards(folder, tokenizer_json, seed=0)
        tracemalloc.start()
        for k in range(shards.n_training):
            shards.training(0, k)
        for _ in shards.held_out("train"):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


@pytest.mark.parametrize("damage", ["cut", "gone", "flipped", "nan", "index"])
def test_a_damaged_shard_is_named(tmp_path: Path, tokenizer_json: Path, damage: str) -> None:
    folder = store(tmp_path / "s", 2, 3)
    shard = folder / "train-00001.safetensors"
    content = shard.read_bytes()
    if damage == "cut":
        shard.write_bytes(content[: len(content) // 2])
    elif damage == "gone":
        shard.unlink()
    elif damage == "flipped":
        shard.write_bytes(b"\xff" * 20 + content[20:])
    elif damage == "nan":
        bad = item(3)
        bad.audio[2, 2] = np.nan
        write_items(shard, [bad, item(4), item(5)])
    else:
        (folder / "index.json").write_text("{")
    with pytest.raises(DataError) as caught:
        for _ in Shards(folder, tokenizer_json, seed=0).held_out("train"):
            pass
    assert "\n" not in str(caught.value)
    name = {"index": "index.json", "nan": "item-3"}.get(damage, "train-00001")
    assert name in str(caught.value)


def test_a_model_trains_on_shards(
    root: Path, settings: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: dict[str, list[str]] = {}
    (tmp_path / "shards").mkdir()
    for k, split in enumerate(("train", "valid", "test")):
        name = f"{split}-00000.safetensors"
        write_items(tmp_path / "shards" / name, [item(100 * k + i) for i in range(16)])
        names[split] = [name]
    write_index(tmp_path / "shards", names, {})
    command = ["train.run", "--data", tmp_path / "shards", "--data-format", "shards", "--out",
               tmp_path / "run", "--set", ";".join(settings)]  # fmt: skip
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "argv", [str(part) for part in command])
    assert run.main() == 0
    info = json.loads((tmp_path / "run" / "checkpoint.json").read_text())
    assert info["emotions"] == list(EMOTIONS)
