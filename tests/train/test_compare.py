"""Models side by side: resumed, tested in pairs, and one look at the test split."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from runtime.errors import UsageError
from train import compare, training
from train.comparison import command, protocol, runs
from train.comparison.models import ABLATIONS, EDGE_RULES, MODELS, chosen
from train.comparison.protocol import Protocol, Reads
from train.comparison.runs import settings_of
from train.comparison.significance import compare as differences
from train.comparison.significance import holm
from train.comparison.table import markdown, result, score
from train.loop import SUBSETS

RULES = Protocol(config="x.toml", seeds=3)


def table(value: float) -> dict[str, dict[str, float]]:
    return {"+".join(s): {"macro_f1": value + k / 100} for k, s in enumerate(SUBSETS)}


def test_differences_are_those_of_a_paired_test() -> None:
    dmd, other = [0.50, 0.55, 0.60, 0.52], [0.48, 0.50, 0.59, 0.49]
    found = differences({"dmd": dmd, "other": other})["other"]
    gap = np.subtract(other, dmd)
    assert found.mean == pytest.approx(gap.mean())
    assert found.error == pytest.approx(gap.std(ddof=1) / 2)
    assert found.p == found.p_holm == pytest.approx(stats.ttest_rel(other, dmd).pvalue)
    assert found.effect == pytest.approx(gap.mean() / gap.std(ddof=1))
    one = differences({"dmd": [0.5], "other": [0.4]})["other"]
    assert one.mean == pytest.approx(-0.1)
    assert math.isnan(one.p)
    same = differences({"dmd": dmd, "other": dmd})["other"]
    assert (same.mean, same.error, same.p) == (0.0, 0.0, 1.0)
    assert math.isnan(differences({"dmd": [0.5, 0.6], "other": [0.4, 0.5]})["other"].p)


def test_holm_s_correction_equals_a_worked_example() -> None:
    found = holm([0.01, 0.04, 0.03, 0.005, float("nan")])
    np.testing.assert_allclose(found[:4], [0.03, 0.06, 0.06, 0.02])
    assert math.isnan(found[4])
    assert holm([0.6, 0.9]) == [1.0, 1.0]


def test_the_table_says_how_it_was_made() -> None:
    rows = {
        "dmd": [table(v) for v in (0.5, 0.6, 0.55)],
        "misa": [table(v) for v in (0.4, 0.5, 0.5)],
    }
    about = {name: {"n_parameters": 1234, "ms": 2.5, "ms_of": "a pass"} for name in rows}
    found = result(rows, RULES, about)
    assert found["dmd"]["scores"][0] == pytest.approx(0.53)  # mean of the seven subsets
    assert score(table(0.5), Protocol(config="x", subsets="whole")) == 0.5
    with pytest.raises(UsageError, match=r"metric 'mae' cannot be had .* there are macro_f1"):
        score(table(0.5), Protocol(config="x", metric="mae"))
    assert "difference" not in found["dmd"]
    text = markdown(found, {"dmd": "DMD", "misa": "MISA"}, RULES, "test", 2)
    assert "test split; read 2 times, mean of 7 subsets, 3 seeds" in text
    assert "| Model | Mean ± deviation | All modalities | Against DMD ± error |" in text
    row, subsets = (line for line in text.splitlines() if line.startswith("| MISA"))
    assert subsets.count("|") == len(SUBSETS) + 2
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:4] == ["49.7 ± 5.8", "46.7", "-8.3 ± 1.7"]
    assert cells[-2:] == ["1,234", "2.5"]
    assert json.loads(json.dumps(found))["misa"]["difference"]["n"] == 3
    rows["text"] = [table(float("nan"))] * 3  # a correlation that is not defined, say
    about = {
        name: {**row, "choice": "optim.epochs=2"}
        for name, row in (about | {"text": about["dmd"]}).items()
    }
    text = markdown(result(rows, RULES, about), dict.fromkeys(rows, "X"), RULES, "valid", 0)
    assert "| X |  |  |  |  |  |  | 1,234 | 2.5 | optim.epochs=2 |" in text
    assert "whose values flatter" in text


def test_a_protocol_is_read_and_what_is_wrong_is_named(tmp_path: Path, root: Path) -> None:
    found = protocol.load(root / "configs" / "protocol.toml", {"seeds": 2})
    assert list(found.all_seeds) == [1, 2]
    assert (found.metric, found.selection) == ("macro_f1", "validation")
    assert (root / found.config).is_file()
    path = tmp_path / "p.toml"
    for text, said in (
        ("metric = 'f1'", "no config"), ("config = 'a'\nseed = 1", "unknown 'seed'"),
        ("config = 'a'\nselection = 'test'", "selection must be validation"),
        ("config = 'a'\nseeds = 0", "seeds must be 1"), ("config =", "not a TOML"),
        ("config = 'a'\nsubsets = 'some'", "subsets must be"),
        ("config = 'a'\nseeds = 'five'", "seeds must be a whole"),
        ("config = 'a'\nchoices = 'optim.epochs=2'", "choices must be a list"),
        ("config = 'a'\nset = [1]", "set must be a list"), ("config = 5", "config must be a text"),
        ("config = 'a'\nmetric = 'f2'", "no metric 'f2'; there are acc2"),
    ):  # fmt: skip
        path.write_text(text)
        with pytest.raises(UsageError, match=said):
            protocol.load(path, {})


def test_a_protocol_cannot_change_once_runs_have_begun(tmp_path: Path) -> None:
    path = tmp_path / "protocol.json"
    protocol.fix(tmp_path, replace(RULES, metric="uar"))
    protocol.fix(tmp_path, RULES)  # no run has begun
    (tmp_path / "dmd" / "seed-1").mkdir(parents=True)
    protocol.fix(tmp_path, RULES)
    fixed = json.loads(path.read_text())
    with pytest.raises(UsageError, match='under another protocol, with metric = "macro_f1"'):
        protocol.fix(tmp_path, replace(RULES, metric="uar"))
    with pytest.raises(UsageError, match="another protocol, with choices = "):
        protocol.fix(tmp_path, replace(RULES, choices=("optim.epochs=2",)))
    with pytest.raises(UsageError, match="another protocol, with seeds = 3"):
        protocol.fix(tmp_path, replace(RULES, seeds=2))
    more = replace(RULES, seeds=5)
    protocol.fix(tmp_path, more)  # more seeds, as long as nobody has looked
    kept = json.loads(path.read_text())
    assert kept["sha256"] == more.sha256()
    assert kept["fixed_at"] == fixed["fixed_at"]
    del kept["protocol"]["choices"]  # as files were before there were choices
    path.write_text(json.dumps(kept))
    protocol.fix(tmp_path, more)
    Reads(tmp_path).begin(more, ["dmd"], again=False)
    with pytest.raises(UsageError, match="began under another protocol"):
        protocol.fix(tmp_path, Protocol(config="x.toml", seeds=6))


def test_a_second_look_is_refused_or_written_down(tmp_path: Path) -> None:
    reads = Reads(tmp_path)
    reads.begin(RULES, ["dmd"], again=False)
    Reads(tmp_path).begin(RULES, ["dmd"], again=False)  # interrupted: the same look goes on
    with pytest.raises(UsageError, match="--again"):
        Reads(tmp_path).begin(RULES, ["dmd", "misa"], again=False)
    with pytest.raises(UsageError, match=r"began on .* as then \(dmd\)"):
        Reads(tmp_path).check(RULES, ["dmd", "misa"], again=False)
    reads.finish()
    again = Reads(tmp_path)
    with pytest.raises(UsageError, match="the test split was read on"):
        again.begin(RULES, ["dmd"], again=False)
    again.begin(RULES, ["dmd"], again=True)
    again.finish()
    assert [read["again"] for read in Reads(tmp_path).all] == [False, True]


def test_every_model_is_an_option_away_from_the_dmd(root: Path) -> None:
    rules = Protocol(config=str(root / "configs" / "ablation.toml"))
    plain = settings_of(rules, (), 1)
    for name, entry in (*MODELS.items(), *ABLATIONS.items(), *EDGE_RULES.items()):
        changed = settings_of(rules, entry.options, 1)
        assert (changed == plain) == (name in ("dmd", "together"))
        assert (changed.data, changed.optim) == (plain.data, plain.optim)  # same data and budget
    with pytest.raises(UsageError, match="no resnet"):
        chosen("dmd,resnet")
    with pytest.raises(UsageError, match="dmd must be among them"):
        chosen("misa,late")


def test_what_cannot_be_compared_is_told_before_any_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], root: Path
) -> None:
    rules = tmp_path / "protocol.toml"
    rules.write_text(
        f'config = "{root / "configs" / "quick.toml"}"\nchoices = ["optim.clip_norm=1"]\n'
    )
    given = ["train.compare", "--data", tmp_path / "none", "--protocol", rules, "--out",
             tmp_path / "out", "--cache", tmp_path / "cache"]  # fmt: skip
    for more, said in (
        (["--set", "optim.clip_norm=2"], "the protocol tries several; add --no-choices"),
        (["--metric", "f2"], "no metric 'f2'"),
        (["--models", "dmd,dmd2"], "no dmd2"),
        (["--no-choices", "--set", "optim.clip=2"], "clip"),
        (["--jobs", "0"], "--jobs must be 1"),
        ([], "none"),
    ):
        monkeypatch.setattr(sys, "argv", [*map(str, given), *more])
        assert compare.main() == 2
        assert said in capsys.readouterr().err
        assert not (tmp_path / "out").exists()  # nothing is fixed by a mistake
    rules.write_text(rules.read_text().replace('=1"', '=1", "optim.clip_norm=1.0"'))
    monkeypatch.setattr(sys, "argv", [str(part) for part in given])
    assert compare.main() == 2
    assert "'optim.clip_norm=1.0' changes nothing" in capsys.readouterr().err


def test_a_choice_that_diverges_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    choices = ("optim.learning_rate=1e9", "optim.learning_rate=1e-3", "optim.learning_rate=1e-4")
    rules = Protocol(config=str(root / "configs" / "quick.toml"), choices=choices)
    trials = runs.trials(rules, {"dmd": MODELS["dmd"]}, tmp_path, training.Options(data="x"))
    values = {choices[1]: float("nan"), choices[2]: 0.4}
    monkeypatch.setattr(runs.Task, "done", property(lambda task: task.choice in values))
    monkeypatch.setattr(command.reading, "validation", lambda task: table(values[task.choice]))
    assert command.best(trials, rules) == {"dmd": choices[2]}
    values.clear()
    with pytest.raises(UsageError, match="dmd: no choice of the protocol could be trained"):
        command.best(trials, rules)


def test_workers_end_with_the_process_that_started_them(tmp_path: Path, root: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, time\n"
        "from train import workers\n"
        "if __name__ == '__main__':\n"
        "    pool = workers.pool(2)\n"
        "    print(pool.submit(os.getpid).result(), flush=True)\n"
        "    pool.submit(time.sleep, 600).result()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(root)}
    with subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:
        assert parent.stdout is not None
        assert int(parent.stdout.readline()) != parent.pid
        parent.kill()
        # The pipe ends when nobody has it any more, the workers neither.
        assert parent.communicate(timeout=60) == ("", None)


def test_a_comparison_from_nothing_to_one_look(
    data: Path, settings: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], root: Path,
) -> None:  # fmt: skip
    rules = tmp_path / "protocol.toml"
    choices = 'choices = ["optim.learning_rate=1e-3", "optim.learning_rate=1e-9"]'
    rules.write_text(f'config = "{root / "configs" / "quick.toml"}"\nseeds = 2\n{choices}\n')
    out = tmp_path / "out"
    quick = ";".join((*settings, "optim.epochs=1", "optim.n_threads=1"))
    given = ["train.compare", "--data", data, "--cache", data / "cache", "--out", out, "--set",
             quick, "--protocol", rules, "--models", "dmd,corrkd"]  # fmt: skip

    def run(*more: str) -> int:
        monkeypatch.setattr(sys, "argv", [*map(str, given), *more])
        return compare.main()

    draw = command.pictures.document  # drawn once, where it is looked at
    monkeypatch.setattr(command.pictures, "document", lambda *_: "")
    assert run("--seeds", "1", "--jobs", "1") == 0
    assert run("--jobs", "2") == 0
    assert not (out / "test-reads.json").exists()
    said = capsys.readouterr().out
    assert "4 runs, 4 of them finished" in said  # every choice, by the first seed
    assert "4 runs, 2 of them finished" in said
    valid = json.loads((out / "valid.json").read_text())["models"]
    assert list(valid) == ["dmd", "corrkd"]
    for name in valid:
        run_of = {}
        for k in (1, 2):
            path = out / name / f"choice-{k}" / "seed-1" / "checkpoint.json"
            run_of[k] = score(json.loads(path.read_text())["metrics"]["valid"], RULES)
        best = max(run_of, key=lambda k: run_of[k])
        assert valid[name]["choice"] == f"optim.learning_rate={('1e-3', '1e-9')[best - 1]}"
        assert not (out / name / f"choice-{3 - best}" / "seed-2").exists()
        path = out / name / f"choice-{best}" / "seed-2" / "checkpoint.json"
        info = json.loads(path.read_text())
        assert list(info["metrics"]) == ["valid"]
        assert valid[name]["scores"][1] == pytest.approx(
            np.mean([info["metrics"]["valid"]["+".join(s)]["macro_f1"] for s in SUBSETS])
        )
        assert valid[name]["ms"] > 0
    log = json.loads((out / "corrkd" / "choice-1" / "seed-1" / "checkpoint.json").read_text())
    assert {"contrastive", "prototypes", "responses"} <= set(log["history"][0]["losses"])
    assert run("--again") == 2
    assert run("--test") == 0
    first = json.loads((out / "test.json").read_text())
    assert [read["finished"] for read in first["test_reads"]] == [True]
    assert run("--test") == 2
    assert "--again" in capsys.readouterr().err
    monkeypatch.setattr(command.pictures, "document", draw)
    assert run("--test", "--again") == 0
    second = json.loads((out / "test.json").read_text())
    assert [read["again"] for read in second["test_reads"]] == [False, True]
    assert second["models"]["dmd"]["scores"] == first["models"]["dmd"]["scores"]
    assert "read 2 times" in (out / "test.md").read_text()
    html = (out / "test.html").read_text()
    for anchor in ("alone", "table", "features-dmd", "edges-dmd", "attention-dmd"):
        assert f'id="{anchor}"' in html
    assert run("--seeds", "3") == 2  # no seeds are added after a look
