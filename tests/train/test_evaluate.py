"""The tables of train.evaluate, lossy input, and the predictions file."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from train import evaluate
from train.data.corpora import EMOTIONS
from train.loop import SUBSETS
from train.metrics import bootstrap, emotion_metrics


def run(monkeypatch: pytest.MonkeyPatch, *args: object) -> int:
    monkeypatch.setattr(sys, "argv", ["train.evaluate", *map(str, args)])
    return evaluate.main()


def test_tables_and_predictions(
    trained: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "out" / "predictions.csv"
    given = ("--checkpoint", trained, "--data", data, "--cache", data / "cache")
    assert run(monkeypatch, *given, "--predictions", path) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line[:24].strip() for line in lines]
    assert {"+".join(subset) for subset in SUBSETS} <= set(names)
    assert [f"{k / 10:.1f} lost" for k in range(10)] == [n for n in names if n.endswith(" lost")]
    full = lines[names.index("text+audio+vision")].split()[1:]
    assert lines[names.index("0.0 lost")].split()[2:] == full  # nothing lost, nothing changed
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [f"test-{k:05d}" for k in range(14)]
    assert {row["split"] for row in rows} == {"test"}
    right = 0
    for row in rows:
        assert row["label"] in EMOTIONS
        assert row["prediction"] == max(EMOTIONS, key=lambda name: float(row[name]))
        assert sum(float(row[name]) for name in EMOTIONS) == pytest.approx(1.0, abs=1e-4)
        right += row["label"] == row["prediction"]
    assert f"{right / len(rows):.3f}" == full[0]


def test_lost_rows_are_masked_and_zero() -> None:
    batch = {
        "input_ids": torch.ones(2, 1_000, dtype=torch.int64),
        "audio": torch.ones(2, 1_000, 3),
        "vision": torch.ones(2, 1_000, 3),
        **{f"{m}_mask": torch.ones(2, 1_000, dtype=torch.bool) for m in ("text", "audio")},
        "vision_mask": torch.zeros(2, 1_000, dtype=torch.bool),
        "audio_embedding": torch.ones(2, 4),
    }
    found = evaluate.lossy(batch, 0.3, torch.Generator().manual_seed(0))
    for m, rows in (("text", found["input_ids"]), ("audio", found["audio"][..., 0])):
        assert torch.equal(rows != 0, found[f"{m}_mask"])
        assert float(found[f"{m}_mask"].float().mean()) == pytest.approx(0.7, abs=0.04)
    assert not found["vision_mask"].any()
    assert batch["audio"].all()  # the batch given is left as it is
    # What sums up a voice is there or not.
    many = {**batch, "audio_embedding": torch.ones(400, 4), "text_mask": torch.ones(400, 3).bool(),
            "input_ids": torch.ones(400, 3, dtype=torch.int64)}  # fmt: skip
    kept = evaluate.lossy(many, 0.3, torch.Generator().manual_seed(0))["audio_embedding"]
    assert torch.equal(kept.any(dim=1), kept.all(dim=1))
    assert float(kept.mean()) == pytest.approx(0.7, abs=0.06)


def test_bootstrap_interval_is_that_of_the_mean() -> None:
    values = np.random.default_rng(1).normal(5.0, 2.0, 400)
    low, high = bootstrap(lambda take: {"mean": float(values[take].mean())}, 400)
    assert low["mean"] == pytest.approx(values.mean() - 1.96 * 0.1, abs=0.05)
    assert high["mean"] == pytest.approx(values.mean() + 1.96 * 0.1, abs=0.05)


def test_recall_is_a_mean_over_the_classes_that_occur() -> None:
    said = np.eye(3)[[0, 0, 1, 2]]  # one of the second class is taken for the third: none is there
    found = emotion_metrics(said, np.array([0, 0, 1, 1]))
    assert found["uar"] == pytest.approx((1.0 + 0.5) / 2)
    assert found["macro_f1"] == pytest.approx((1.0 + 2 / 3) / 2)


def test_a_device_that_is_not_here_is_one_line(
    trained: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--checkpoint", trained, "--data", data, "--cache", data / "cache")
    assert run(monkeypatch, *given, "--device", "cuda:99") == 2
    error = capsys.readouterr().err
    assert error.startswith("train.evaluate: --device cuda:99 cannot be used here")
    assert error.count("\n") == 1


def test_a_missing_checkpoint_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--checkpoint", tmp_path, "--data", tmp_path) == 2
    error = capsys.readouterr().err
    assert error.startswith("train.evaluate: ")
    assert error.count("\n") == 1
