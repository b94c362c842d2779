"""The whole path on small data: train, be killed, go on, export, quantize, compare, run."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file

from export import bundle as writer
from export import measure, parity, quantize
from runtime.errors import BundleError, UsageError
from runtime.live import EmotionStream
from runtime.store.bundle import Bundle
from tests.train import tiny
from train import config, run, training
from train.data.corpora import DataError
from train.data.utterance import Utterance
from train.state import RunState, finished


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
    assert len(info["metrics"]["test"]) == 8  # the subsets and all text; none is rated here
    assert sorted(file.name for file in trained.iterdir()) == [
        "analysis.safetensors", "checkpoint.json", "model.safetensors", "tokenizer.json"
    ]  # fmt: skip


def test_killed_and_resumed_is_the_same_run(
    root: Path,
    data: Path,
    settings: tuple[str, ...],
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "checkpoint"
    options = ["--data", data, "--cache", data / "cache", "--out", out,
               *(part for x in settings for part in ("--set", x))]  # fmt: skip
    command = [sys.executable, "-m", "train.run", *options]
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
        run.train(other, run.Options(data=str(data), out=str(out), cache=str(data / "cache")))
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "argv", ["train.run", *map(str, options)])
    assert run.main() == 0
    assert "going on after epoch" in capsys.readouterr().out
    weights = [(folder / "model.safetensors").read_bytes() for folder in (trained, out)]
    assert weights[0] == weights[1]
    with pytest.raises(UsageError, match="finished run"):
        run.train(
            config.load(root / "configs" / "quick.toml", settings),
            run.Options(data=str(data), out=str(out), cache=str(data / "cache")),
        )


def test_a_second_stage_begins_with_the_first_one_s_weights(
    root: Path, data: Path, settings: tuple[str, ...], trained: Path, tmp_path: Path
) -> None:
    stage = (*settings, "optim.stop_after=1", "optim.learning_rate=1e-9",
             "optim.language_learning_rate=1e-9", "optim.weight_decay=0.0")  # fmt: skip
    options = run.Options(
        data=str(data), out=str(tmp_path / "second"), cache=str(data / "cache"), start=str(trained)
    )
    run.train(config.load(root / "configs" / "quick.toml", stage), options)
    info = json.loads((tmp_path / "second" / "checkpoint.json").read_text())
    assert len(info["history"]) == 1  # of a schedule of three
    first, second = (
        load_file(folder / "model.safetensors") for folder in (trained, tmp_path / "second")
    )
    for name, weights in first.items():
        torch.testing.assert_close(second[name], weights, atol=1e-6, rtol=0.0)
    other = config.load(root / "configs" / "quick.toml", (*settings, "model.dim=8"))
    with pytest.raises(UsageError, match="no weights of such a model"):
        run.train(other, replace(options, out=str(tmp_path / "third")))


def test_seeds_that_were_trained_without_a_test_are_told(
    root: Path, data: Path, settings: tuple[str, ...], trained: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "runs" / "seed-1"))
    info = json.loads((folder / "checkpoint.json").read_text())
    del info["metrics"]["test"]
    (folder / "checkpoint.json").write_text(json.dumps(info))
    options = run.Options(data=str(data), out=str(tmp_path / "runs"), cache=str(data / "cache"))
    with pytest.raises(UsageError, match="was trained with --no-test; give it here too"):
        run.train_seeds(config.load(root / "configs" / "quick.toml", settings), options)


def test_a_restart_leaves_no_finished_run_behind(
    root: Path, settings: tuple[str, ...], trained: Path, tmp_path: Path
) -> None:
    """Else an interrupted restart would pass for the run of before."""
    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    asked = config.load(root / "configs" / "quick.toml", settings)
    assert finished(folder, asked, {})
    RunState.open(folder, asked, {}, restart=True)
    assert not finished(folder, asked, {})


def test_a_run_on_other_data_or_from_other_ratings_is_not_taken_for_this_one(
    root: Path, data: Path, settings: tuple[str, ...], trained: Path, tmp_path: Path
) -> None:
    asked = config.load(root / "configs" / "quick.toml", settings)
    ratings = tmp_path / "taught.safetensors"
    ratings.write_bytes(b"ratings")
    first = run.Options(data=str(data), taught=str(ratings))
    assert first.inputs().keys() == {"data_format", "taught"}  # a folder may be moved
    assert finished(trained, asked, first.inputs())  # whose ratings are not known
    with pytest.raises(UsageError, match="holds a run with another data_format"):
        finished(trained, asked, replace(first, data_format="shards").inputs())
    state = RunState.open(tmp_path / "run", asked, first.inputs(), restart=False)
    layer = torch.nn.Linear(1, 1)
    adam = torch.optim.AdamW(layer.parameters())
    state.finish_epoch(0, 0.0, {}, layer, adam, torch.optim.lr_scheduler.ConstantLR(adam))
    RunState.open(tmp_path / "run", asked, first.inputs(), restart=False)
    ratings.write_bytes(b"others")
    with pytest.raises(UsageError, match="holds a run with another taught"):
        RunState.open(tmp_path / "run", asked, first.inputs(), restart=False)


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_a_split_without_utterances_is_told_before_the_training(
    split: str, tokenizer_json: Path
) -> None:
    class Lacking:
        n_training = 0 if split == "train" else 7

        def held_out(self, asked: str) -> list[Utterance]:
            return [] if asked == split else tiny.utterances(7, tokenizer_json)

    corpus: Any = Lacking()
    with pytest.raises(UsageError, match="utterances"):
        training._splits(corpus, run.Options(data="clips"))
    if split == "test":
        training._splits(corpus, run.Options(data="clips", no_test=True))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ('optim.precision="fp16"', "optim.precision is fp32 or bf16, not 'fp16'"),
        ('model.summary="lst"', "model.summary is attention or last"),
        ('model.gate="sigmod"', "model.gate is softmax or sigmoid"),
        ("data.text_share=1.1", "add up to 1 at most"),
        ("optim.batch_size=0", "optim.batch_size must be 1 or more"),
    ],
)
def test_a_value_that_would_stand_for_another_is_refused(
    root: Path, override: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        config.load(root / "configs" / "quick.toml", (override,))


def test_the_configuration_says_how_many_threads(root: Path, tmp_path: Path) -> None:
    settings = config.load(root / "configs" / "quick.toml", ("optim.n_threads=3",))
    before = torch.get_num_threads()
    try:
        with pytest.raises(DataError):  # there is nothing to train on
            run.train(settings, run.Options(data=str(tmp_path), out=str(tmp_path / "out")))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_from_checkpoint_to_events(
    data: Path,
    trained: Path,
    traced: Path,
    demo: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("export.recipes._SMALL", 0)  # this model has small products only
    folder = Path(shutil.copytree(traced, tmp_path / "bundle"))
    where = {"bundle": str(folder), "data": str(data), "cache": str(data / "cache")}
    quantize.run(quantize.Options(**where, budget=1e6))
    rows = parity.run(parity.Options(**where, checkpoint=str(trained), split="test", budget=0.01))
    table = capsys.readouterr().out
    assert [row.model for row in rows] == ["torch", "fp32", "int8"] * 7
    assert all(name in table for name in ("torch", "fp32", "int8", "text+audio+vision"))
    assert all(row.max_difference < 1e-4 for row in rows if row.model == "fp32")
    assert {"certificate.json", "CERTIFICATE.md"} <= writer.read(folder)["files"].keys()
    written = json.loads((folder / "certificate.json").read_text())
    assert [row["subset"] for row in written["rows"]] == [row.subset for row in rows]
    for precision, verdict in written["models"].items():
        model = (folder / f"model.{precision}.onnx").read_bytes()
        assert verdict["sha256"] == hashlib.sha256(model).hexdigest()
        assert verdict["passed"] == (verdict["largest_change_points"] <= 0.01)
    _sabotage(folder / "model.int8.onnx")
    writer.update(folder, {})
    with pytest.raises(BundleError, match=r"the certificate is for another model\.int8\.onnx"):
        writer.publish(folder, "int8", None, tmp_path / "out")
    parity.run(parity.Options(**where, checkpoint=str(trained), split="test"))
    assert "int8 FAILED" in capsys.readouterr().out
    with pytest.raises(BundleError, match=r"model\.int8\.onnx failed: .* points"):
        writer.publish(folder, "int8", None, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    writer.publish(folder, "fp32", None, tmp_path / "out")
    with EmotionStream(file=demo, bundle=tmp_path / "out") as stream:
        events = list(stream)
    assert len(events) == 2
    assert all(event.modalities["text"] == "present" for event in events)


def test_the_fastest_form_is_the_one_that_is_loaded(
    data: Path, traced: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(traced, tmp_path / "bundle"))
    where = {"bundle": str(folder), "data": str(data), "cache": str(data / "cache")}
    quantize.run(quantize.Options(**where, recipe="auto", budget=1e6))
    told = re.search(r"fastest first: (\S+) ", capsys.readouterr().out)
    assert told is not None
    assert set(writer.read(folder)["models"]) == {"fp32", "int8", "int8-qdq", "fp16", "mixed"}
    assert Bundle.load(folder).precision == told[1]
    for precision, published in ((None, told[1]), ("int8-qdq", "int8-qdq"), ("mixed", "mixed")):
        writer.publish(folder, precision, None, tmp_path / "out", unsigned=True)
        assert list(writer.read(tmp_path / "out")["models"]) == [published]
        assert Bundle.load(tmp_path / "out").precision == published


def test_each_corpus_is_measured_alone(
    data: Path, trained: Path, traced: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = Path(shutil.copytree(traced, tmp_path / "bundle"))
    where = {"data": str(data), "cache": str(data / "cache")}
    teacher = _with_other_pieces(trained, tmp_path / "teacher")
    lines = measure.run(
        measure.Options(**where, bundle=str(folder), checkpoint=str(trained), teacher=str(teacher))
    )
    assert {(line.name.split(",")[0], line.metric): line.n for line in lines} == {
        ("GoEmotions", "macro-F1"): 28,
        ("RAVDESS", "UAR"): 7,
        ("CK+", "accuracy"): 6,
        ("CK+", "UAR"): 6,
    }
    for line in lines:
        assert line.values["teacher"] == line.values["torch"]  # it reads the words, not the ids
        assert line.values["fp32"] == pytest.approx(line.values["torch"], abs=0.15)
        assert 0.0 <= line.values["fp32"] <= 1.0
    # One picture for all emotions: whatever the model says is right once in six, at most.
    assert lines[-1].values["torch"] == pytest.approx(1 / 6) or lines[-1].values["torch"] == 0.0
    assert lines[0].name in capsys.readouterr().out
    info = writer.read(folder)
    assert [line["values"] for line in info["measured"]["lines"]] == [x.values for x in lines]
    assert "coverage.png" in info["files"]
    # Once more, without the checkpoint, after a change of the picture as after a quantization.
    asked: list[list[str]] = []
    monkeypatch.setattr(measure, "measure", lambda models, *_: asked.append([*models]) or lines)
    monkeypatch.setattr(measure, "draw", lambda path, *_: path.write_bytes(b"another"))
    measure.run(measure.Options(**where, bundle=str(folder)))
    assert asked == [["fp32"]]
    assert writer.read(folder)["measured"]["lines"] == info["measured"]["lines"]


def _with_other_pieces(trained: Path, out: Path) -> Path:
    """The same model, whose tokenizer numbers the word pieces the other way round."""
    shutil.copytree(trained, out)
    tokenizer = json.loads((out / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    ordinary = sorted(k for piece, k in vocabulary.items() if piece[0] != "[")
    other = dict(zip(ordinary, ordinary[::-1], strict=True))
    tokenizer["model"]["vocab"] = {piece: other.get(k, k) for piece, k in vocabulary.items()}
    (out / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    weights = load_file(out / "model.safetensors")
    name = next(name for name in weights if name.endswith("word_embeddings.weight"))
    moved = weights[name].clone()
    moved[list(other.values())] = weights[name][list(other)]
    save_file({**weights, name: moved}, out / "model.safetensors")
    return out


def _sabotage(path: Path) -> None:
    """Multiply every scale of a quantized model by 1.5."""
    model = onnx.load(path)
    for weight in model.graph.initializer:
        if weight.name.endswith(("scale", "scales")):
            values = onnx.numpy_helper.to_array(weight)
            weight.CopyFrom(onnx.numpy_helper.from_array(1.5 * values, weight.name))
    onnx.save(model, path)


def test_two_processes_descend_as_one(
    root: Path, data: Path, settings: tuple[str, ...], tmp_path: Path
) -> None:
    """Also when one is killed after the first epoch, and the same command goes on."""
    # Dropout draws other numbers in each process; all else must be the same.
    still = ("model.dropout=0.0", "model.dropout_embed=0.0", "model.dropout_head=0.0",
             "model.dropout_attention_text=0.0", "data.utterances_per_epoch=80",
             "optim.epochs=2")  # fmt: skip
    changed = (*settings, *still)
    cache = data / "cache"
    alone = run.Options(data=str(data), out=str(tmp_path / "one"), cache=str(cache), no_test=True)
    run.train(config.load(root / "configs" / "quick.toml", changed), alone)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launch, "-m", "train.run", "--data", data, "--cache", cache, "--no-test", "--out",
               tmp_path / "two", "--set", ";".join(changed)]  # fmt: skip
    process = _started(root, command)
    until = time.monotonic() + 120.0
    while not (tmp_path / "two" / "state" / "last.pt").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(workers[-1]), signal.SIGKILL)
    process.communicate()
    assert process.returncode != 0
    assert not (tmp_path / "two" / "checkpoint.json").exists()
    process = _started(root, command)
    said = process.communicate()[0]
    assert process.returncode == 0, said
    assert "going on after epoch 1" in said
    curves = []
    for name in ("one", "two"):
        info = json.loads((tmp_path / name / "checkpoint.json").read_text())
        curves.append([epoch["losses"] for epoch in info["history"]])
    for one, two in zip(*curves, strict=True):
        assert one.keys() == two.keys()
        for term in one:
            assert two[term] == pytest.approx(one[term], abs=1e-4), term


def _started(root: Path, command: Sequence[object]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(part) for part in command],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def test_the_bundle_of_another_checkpoint_is_refused(root: Path, data: Path, trained: Path) -> None:
    where = {
        "checkpoint": str(trained),
        "bundle": str(root / "runtime" / "default_bundle"),
        "data": str(data),
        "cache": str(data / "cache"),
    }
    with pytest.raises(BundleError, match="was not exported from"):
        parity.run(parity.Options(**where, split="test"))
    with pytest.raises(BundleError, match="was not exported from"):
        measure.run(measure.Options(**where))


def test_bf16_and_accumulated_steps(
    root: Path, data: Path, settings: tuple[str, ...], trained: Path, tmp_path: Path
) -> None:
    folders = [trained]
    for name, more in (
        ("accumulated", "optim.accumulate=3"),
        ("bf16", 'optim.precision="bf16"'),
    ):
        folders.append(tmp_path / name)
        chosen = config.load(root / "configs" / "quick.toml", (*settings, more))
        options = run.Options(data=str(data), out=str(folders[-1]), cache=str(data / "cache"))
        run.train(chosen, options)
    for folder in folders:
        info = json.loads((folder / "checkpoint.json").read_text())
        totals = [epoch["losses"]["total"] for epoch in info["history"]]
        assert np.isfinite(totals).all()
        assert totals[-1] < totals[0]
    assert len({(folder / "model.safetensors").read_bytes() for folder in folders}) == 3
