"""`python -m export.bench`: a whole run with torch beside it, and the published model."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from export import baselines, bench
from export import bundle as writer
from runtime.bench.run import JUDGED
from runtime.store.bundle import DEFAULT


@pytest.fixture
def shipped(saved: Path, tmp_path: Path) -> Path:
    """A copy of the shipped bundle that says it was exported from that checkpoint."""
    folder = Path(shutil.copytree(DEFAULT, tmp_path / "bundle"))
    source = json.loads((saved / "checkpoint.json").read_text())
    writer.update(folder, {"provenance": {"weights_sha256": source["weights_sha256"]}})
    return folder


def command(bundle: Path, saved: Path, out: Path, *more: str) -> list[str]:
    given = ["--bundle", bundle, "--checkpoint", saved, "--out", out, "--engine", "cpu", *more]
    return [str(word) for word in given]


def test_torch_in_the_same_run_and_a_plot(
    shipped: Path,
    saved: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(baselines, "LAYOUTS", {})  # the published model has a test of its own
    rows = [
        {"model": model, "subset": "text+audio+vision", "metrics": {"accuracy": accuracy}}
        for model, accuracy in (("torch", 0.894), ("int8", 0.89))
    ]
    (shipped / "certificate.json").write_text(json.dumps({"rows": rows}))
    writer.update(shipped, {"documents": ["certificate.json"]})
    out = tmp_path / "out"
    assert bench.main(command(shipped, saved, out, "--runs", "5", "--threads", "1")) == 0
    told = json.loads((out / "bench.json").read_text())
    ours, baseline = told["measured"]
    assert (ours["engine"], ours["precision"]) == ("cpu", "int8")
    assert (baseline["engine"], baseline["precision"]) == ("torch", "fp32")
    assert told["baselines"] == ["torch fp32"]
    for item in (ours, baseline):
        assert item["failure"] is None
        assert item["latency"][JUDGED.name]["n_runs"] == 5
    assert told["accuracy"] == {"torch": 0.894, "int8": 0.89}
    assert told["chosen"] == "cpu int8"
    ratio = baseline["latency"][JUDGED.name]["p50_ms"] / ours["latency"][JUDGED.name]["p50_ms"]
    times_larger = baseline["size_mb"] / ours["size_mb"]
    assert f"{ratio:.1f} x, {times_larger:.1f} x" in capsys.readouterr().out
    assert (out / "bench.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(file.name for file in out.iterdir()) == ["bench.json", "bench.png"]


def test_the_published_model_has_a_bert_base(shipped: Path) -> None:
    assert 430e6 < baselines._published_bytes("aligned") < 470e6
    assert baselines._published_bytes("unaligned") > baselines._published_bytes("aligned")
    engine = baselines._open_published("aligned", 2)
    (output,) = engine.infer(baselines._published_inputs("aligned", JUDGED, 2)).values()
    assert output.shape == (2, 1)
    assert np.isfinite(output).all()


def test_mistakes_are_one_line(
    shipped: Path, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    writer.update(shipped, {"provenance": {"weights_sha256": "another"}})
    out = tmp_path / "out"
    for arguments, said in (
        (command(shipped, saved, out), "was not exported from this checkpoint"),
        (command(shipped, tmp_path / "none", out), "no checkpoint"),
        (command(tmp_path / "none", saved, out), "not a bundle"),
        (
            command(shipped, saved, out, "--reference", str(tmp_path)),
            "not a checkout of mdswyz/DMD",
        ),
        (command(shipped, saved, out, "--threads", "0"), "--threads and --runs must be at least 1"),
    ):
        assert bench.main(arguments) == 2
        told = capsys.readouterr()
        assert said in told.err
        assert told.err.count("\n") == 1
    assert not out.exists()
