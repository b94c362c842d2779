"""The ablations run from one command, go on after an interruption, and write their table."""

import json
import sys
from pathlib import Path

import pytest

from train import ablate, report
from train.loop import SUBSETS


def test_all_ablations_and_the_table(
    data: Path, settings: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["full method", "without decoupling", "crossmodal branch alone (MulT)"]
    chosen = {name: ablate.ABLATIONS[name] for name in names}
    monkeypatch.setattr(ablate, "ABLATIONS", chosen)
    quick = ";".join((*settings, "optim.epochs=1"))
    command = ["train.ablate", "--data", data, "--cache", data / "cache", "--out", tmp_path,
               "--seeds", "2", "--set", quick]  # fmt: skip
    monkeypatch.setattr(sys, "argv", [str(part) for part in command])
    assert ablate.main() == 0
    found = json.loads((tmp_path / "ablations.json").read_text())
    assert list(found["results"]) == names
    for name, switches in chosen.items():
        folder = tmp_path / name.split(" (")[0].replace(" ", "-")
        info = json.loads((folder / "seed-2" / "checkpoint.json").read_text())
        history = info["history"][0]["losses"]
        assert ("reconstruction" in history) == (not switches)
        assert ("distil_homo" in history) == (name != names[2])
        for metric, values in found["results"][name]["text+audio+vision"].items():
            if metric == "macro_f1":
                assert values["mean"] == pytest.approx(sum(values["values"]) / 2)
    table = (tmp_path / "ablations.md").read_text().splitlines()
    assert [row.split("|")[1].strip() for row in table[2:]] == names
    full = found["results"]["full method"]
    seven = [full["+".join(subset)]["macro_f1"]["mean"] for subset in SUBSETS]
    assert table[2].split("|")[2].split()[0] == f"{sum(seven) / 7:.3f}"
    changed = (tmp_path / "full-method" / "seed-1" / "checkpoint.json").stat().st_mtime_ns
    monkeypatch.setattr(sys, "argv", [*map(str, command[:-1]), quick + ";optim.clip_norm=2.0"])
    assert ablate.main() == 2  # what another configuration trained is not taken for this one's
    monkeypatch.setattr(sys, "argv", [str(part) for part in command])
    assert ablate.main() == 0  # nothing is trained twice
    assert (tmp_path / "full-method" / "seed-1" / "checkpoint.json").stat().st_mtime_ns == changed


def test_a_distilled_encoder_is_the_method_s_and_has_an_ablation(root: Path) -> None:
    from train import config

    plain = ablate.chosen(ablate.Options(data="x"))
    assert plain == ablate.ABLATIONS
    found = ablate.chosen(ablate.Options(data="x", distilled="runs/stages/language"))
    assert len(found) == len(plain) + 1
    path = root / "configs" / "ablation.toml"
    for name, switches in found.items():
        model = config.load(path, switches).model
        own = name == "without language distillation"
        assert model.language == ("all-minilm-l6-v2" if own else "runs/stages/language")


def test_every_switch_is_an_option_that_differs_from_the_full_method(root: Path) -> None:
    from train import config

    full = config.load(root / "configs" / "quick.toml")
    for name, switches in ablate.ABLATIONS.items():
        changed = config.load(root / "configs" / "quick.toml", switches)
        assert (changed == full) == (name == "full method")


def test_rules_of_edges_are_judged_on_validation_data(
    data: Path, settings: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["fixed edges (conventional distillation)", "together"]
    chosen = {name: ablate.EDGE_RULES[name] for name in names}
    monkeypatch.setattr(ablate, "EDGE_RULES", chosen)
    quick = ";".join((*settings, "optim.epochs=1"))
    command = ["train.ablate", "--edges", "--data", data, "--cache", data / "cache", "--out",
               tmp_path, "--seeds", "1", "--set", quick]  # fmt: skip
    monkeypatch.setattr(sys, "argv", [str(part) for part in command])
    assert ablate.main() == 0
    info = json.loads((tmp_path / "together" / "seed-1" / "checkpoint.json").read_text())
    assert list(info["metrics"]) == ["valid"]  # nobody looked at the test split
    assert {"mixture_homo", "mixture_hetero"} <= set(info["history"][0]["losses"])
    assert report.write(report.Options(run=str(tmp_path / "together" / "seed-1"))).exists()
    table = (tmp_path / "ablations.md").read_text().splitlines()
    assert [row.split("|")[1].strip() for row in table[2:]] == names
