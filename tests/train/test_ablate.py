"""Ablations and rules of edges are compared by one command, under the protocol of a comparison."""

import json
import sys
from pathlib import Path

import pytest

from runtime.errors import UsageError
from train import ablate, report
from train.comparison.models import ABLATIONS, EDGE_RULES
from train.comparison.runs import settings_of
from train.loop import SUBSETS

Settings = tuple[str, ...]


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["train.ablate", *map(str, arguments)])
    return ablate.main()


def arguments(data: Path, settings: Settings, out: Path, root: Path) -> list[object]:
    """A small budget, from another configuration than the protocol's, with nothing to choose."""
    quick = ";".join((*settings, "optim.epochs=1", "optim.n_threads=1"))
    return ["--data", data, "--cache", data / "cache", "--out", out, "--jobs", "1", "--set", quick,
            "--no-choices",
            "--protocol", root / "configs" / "protocol.toml",
            "--config", root / "configs" / "quick.toml"]  # fmt: skip


def test_all_ablations_and_the_table(
    data: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    names = ["dmd", "mult"]
    monkeypatch.setattr(ablate, "ABLATIONS", {name: ABLATIONS[name] for name in names})
    given = [*arguments(data, settings, tmp_path, root), "--seeds", "1"]
    assert call(monkeypatch, *given) == 0
    found = json.loads((tmp_path / "valid.json").read_text())["models"]
    assert list(found) == names
    for name in names:
        info = json.loads((tmp_path / name / "seed-1" / "checkpoint.json").read_text())
        history = info["history"][0]["losses"]
        assert ("reconstruction" in history) == (name == "dmd")
        assert ("distil_homo" in history) == (name != "mult")
        assert list(info["metrics"]) == ["valid"]  # nobody looked at the test split
    table = (tmp_path / "valid.md").read_text()
    seven = [found["dmd"]["subsets"]["+".join(s)]["macro_f1"]["mean"] for s in SUBSETS]
    row = next(line for line in table.splitlines() if line.startswith("| DMD |"))
    assert row.split("|")[2].split()[0] == f"{100 * sum(seven) / 7:.1f}"
    assert "| Against DMD ± error |" in table
    path = tmp_path / "dmd" / "seed-1" / "checkpoint.json"
    changed = path.stat().st_mtime_ns
    assert call(monkeypatch, *given, "--set", "optim.clip_norm=2.0") == 2  # another protocol
    assert call(monkeypatch, *given) == 0  # nothing is trained twice
    assert path.stat().st_mtime_ns == changed


def test_a_distilled_encoder_is_the_method_s_and_has_an_ablation(
    root: Path, tmp_path: Path
) -> None:
    protocol = str(root / "configs" / "protocol.toml")
    config = str(root / "configs" / "ablation.toml")
    plain = ablate.Options(data="x", protocol=protocol, config=config)
    assert ablate.entries(plain) == ABLATIONS
    language = str(tmp_path)
    given = ablate.Options(data="x", protocol=protocol, config=config, distilled=language)
    with pytest.raises(UsageError, match="no language encoder is there"):
        ablate.entries(given)
    (tmp_path / "config.json").touch()
    found = ablate.entries(given)
    assert [*found] == [*ABLATIONS, "language"]
    rules = ablate.command.protocol_of(ablate.with_language(given))
    for name, entry in found.items():
        model = settings_of(rules, entry.options, 1).model
        own = name == "language"
        assert model.language == ("all-minilm-l6-v2" if own else language)
        assert model.language_layers == (1 if own else 0)


def test_rules_of_edges_are_judged_on_validation_data(
    data: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    names = ["fixed", "published", "together"]
    monkeypatch.setattr(ablate, "EDGE_RULES", {name: EDGE_RULES[name] for name in names})
    given = [*arguments(data, settings, tmp_path, root), "--seeds", "1", "--edges"]
    assert call(monkeypatch, *given) == 0
    info = json.loads((tmp_path / "together" / "seed-1" / "checkpoint.json").read_text())
    assert list(info["metrics"]) == ["valid"]  # nobody looked at the test split
    assert {"mixture_homo", "mixture_hetero"} <= set(info["history"][0]["losses"])
    assert report.write(report.Options(run=str(tmp_path / "together" / "seed-1"))).exists()
    assert "| Against fixed edges (conventional) ± error |" in (tmp_path / "valid.md").read_text()
    html = (tmp_path / "valid.html").read_text()
    for anchor in ("distillation", "edges-published", "edges-together"):
        assert f'id="{anchor}"' in html
    assert 'id="edges-fixed"' not in html
