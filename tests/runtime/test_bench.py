"""`dmd-live --bench` on the shipped bundle, and the power meter on what Jetsons print."""

import json
import os
import stat
import time
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.bench import power
from runtime.bench import report as bench_report
from runtime.bench import run as bench
from runtime.cli import main
from runtime.engines.base import Engine
from runtime.features.spec import SPEC
from runtime.store.bundle import DEFAULT

# From boards with JetPack 6: an Orin Nano and an AGX Orin.
ORIN_NANO = (
    "07-14-2025 10:29:36 RAM 2147/7620MB (lfb 2x4MB) SWAP 1476/3810MB (cached 1MB) "
    "CPU [0%@729,0%@729,0%@729,0%@729,0%@729,0%@729] GR3D_FREQ 0% cpu@47.687C soc2@46.718C "
    "soc0@47.468C gpu@48.625C tj@48.625C soc1@48.25C VDD_IN 4556mW/4556mW "
    "VDD_CPU_GPU_CV 483mW/483mW VDD_SOC 1451mW/1451mW"
)
AGX_ORIN = (
    "RAM 4023/30536MB (lfb 5555x4MB) SWAP 0/15268MB (cached 0MB) CPU [0%@1190,0%@1190,off,off] "
    "EMC_FREQ 0%@2133 GR3D_FREQ 0%@[0,0] cpu@45.5C tj@45.5C VDD_GPU_SOC 3188mW/3100mW "
    "VDD_CPU_CV 1195mW/1195mW VIN_SYS_5V0 3229mW/3229mW"
)


@pytest.fixture(scope="module")
def found() -> list[bench.Measured]:
    """The shipped bundle by the CPU, and a target that cannot be opened, measured in a hurry."""
    (shipped,) = bench.targets(None, "cpu", 1)
    broken = replace(shipped, engine="broken", open=no_engine)
    return bench.measure([broken, shipped], n_runs=20)


def no_engine() -> Engine:
    os._exit(3)


def test_every_line_of_the_shipped_bundle(found: list[bench.Measured]) -> None:
    shipped = found[1]
    assert (shipped.engine, shipped.precision, shipped.failure) == ("cpu", "int8", None)
    assert list(shipped.latency) == ["1 s", "5 s", "10 s", "15 s", "10 s, 50 pieces"]
    for latency in shipped.latency.values():
        assert 0.0 < latency.p50_ms <= latency.p95_ms <= latency.p99_ms
        assert latency.n_runs == 20
    assert list(shipped.per_s) == [8, 32]
    assert min(shipped.per_s.values()) > 1.0
    size_mb = sum(file.stat().st_size for file in DEFAULT.iterdir()) / 1e6
    assert shipped.size_mb == pytest.approx(size_mb, rel=1e-3)
    assert shipped.load_s is not None
    assert shipped.load_s > 0.0
    assert shipped.memory_mb is None or 20.0 < shipped.memory_mb < 1_000.0


def test_a_crash_is_a_line_and_costs_the_others_nothing(found: list[bench.Measured]) -> None:
    broken = found[0]
    assert broken.failure == "crashed (exit code 3)"
    assert not broken.latency
    assert bench_report.tables(found)[2:] == ["broken int8: crashed (exit code 3)"]


def test_tables_and_json(found: list[bench.Measured], capsys: pytest.CaptureFixture[str]) -> None:
    bench_report.report(found, n_threads=1, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["n_threads"] == 1
    assert told["device"]["n_cores"] >= 1
    assert told["cases"][-1] == {
        "name": "10 s, 50 pieces", "n_pieces": 50, "audio_s": 10.0, "vision_s": 10.0,
    }  # fmt: skip
    judged = told["measured"][1]["latency"]["10 s, 50 pieces"]
    bench_report.report(found, n_threads=1, as_json=False)
    out = capsys.readouterr().out
    assert f"{judged['p50_ms']:.1f}" in out
    assert "1 thread on the CPU" in out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--threads", "0"), "--threads is 1 at least"),
        (("--engine", "cuda"), "it has nothing that cuda could run"),
        (("--bundle", "no/such"), "not a bundle"),
        (("--engine", "rtx"), "it has nothing that rtx could run"),
    ],
)
def test_a_mistake_is_one_line(
    args: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--bench", *args]) == 2
    out = capsys.readouterr()
    assert out.out == ""
    assert said in out.err
    assert out.err.count("\n") == 1


def test_inputs_have_the_lengths_of_the_case() -> None:
    made = bench.contract_inputs(DEFAULT / "tokenizer.json", bench.JUDGED, 3)
    assert made["input_ids"].shape == (3, 50)
    assert made["audio"].shape == (3, 250, 43)
    assert made["vision"].shape == (3, 150, SPEC.vision_dim)
    assert all(made[f"{m}_mask"].all() for m in ("text", "audio", "vision"))
    assert bench.utterance(15).n_pieces == 47


def test_rails_of_a_line() -> None:
    assert power.watts(ORIN_NANO) == {"VDD_IN": 4.556, "VDD_CPU_GPU_CV": 0.483, "VDD_SOC": 1.451}
    assert power.watts(AGX_ORIN) == {
        "VDD_GPU_SOC": 3.188,
        "VDD_CPU_CV": 1.195,
        "VIN_SYS_5V0": 3.229,
    }
    assert power.watts("RAM 2147/7620MB SWAP 0/3810MB CPU [off]") == {}


@pytest.fixture
def tegrastats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command of that name that prints two lines, and after a while another, and goes on."""
    script = tmp_path / "tegrastats"
    later = ORIN_NANO.replace("VDD_IN 4556", "VDD_IN 9000")
    script.write_text(
        f"#!/bin/sh\necho '{ORIN_NANO}'\necho '{ORIN_NANO}'\nsleep 0.5\n"
        f"echo '{later}'\nexec sleep 60\n"
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


def test_power_is_a_mean_since_restart(tegrastats: None) -> None:
    with power.PowerMeter() as meter:
        until = time.monotonic() + 10
        while meter.watts() is None and time.monotonic() < until:
            time.sleep(0.05)
        first = meter.watts()
        assert first is not None
        assert first["VDD_IN"] == pytest.approx(4.556)
        meter.restart()
        while meter.watts() is None and time.monotonic() < until:
            time.sleep(0.05)
        second = meter.watts()
        assert second is not None
        assert second["VDD_IN"] == pytest.approx(9.0)


def test_without_tegrastats_there_is_no_power(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with power.PowerMeter() as meter:
        meter.restart()
        assert meter.watts() is None
