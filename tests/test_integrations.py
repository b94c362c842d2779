"""The unit for systemd and the recipes for Docker, as far as they can be tried here."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

INSTRUCTIONS = {"ARG", "FROM", "RUN", "WORKDIR", "COPY", "USER", "ENV", "STOPSIGNAL", "ENTRYPOINT",
                "CMD"}  # fmt: skip


def test_the_unit_is_well_formed(root: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here (apt install systemd)")
    text = (root / "integrations" / "systemd" / "dmd-live.service").read_text(encoding="utf-8")
    unit = tmp_path / "dmd-live.service"
    unit.write_text(text.replace("/opt/dmd-live/bin/dmd-live", "/bin/true"))
    out = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert (out.returncode, out.stdout, out.stderr) == (0, "", "")
    known = subprocess.run(
        [sys.executable, "-m", "runtime.cli", "--help"], cwd=root, capture_output=True, text=True
    ).stdout
    for option in re.findall(r"^Exec.*?(--[a-z -]+)", text, re.MULTILINE):
        assert set(re.findall(r"--[a-z-]+", option)) <= set(re.findall(r"--[a-z-]+", known))


def instructions(path: Path) -> list[tuple[str, str]]:
    """Instruction and arguments; continued lines are one."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines()
             if line and not line.startswith("#")]  # fmt: skip
    whole = "\n".join(lines).replace("\\\n", " ")
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in whole.split("\n"))]


def test_dockerfiles_copy_what_the_package_needs(root: Path, tmp_path: Path) -> None:
    folder = root / "integrations" / "docker"
    both = [instructions(folder / name) for name in ("Dockerfile", "Dockerfile.jetpack")]
    for found in both:
        assert {word for word, _ in found} <= INSTRUCTIONS
        assert next(word for word, _ in found if word != "ARG") == "FROM"
        for word, rest in found:
            if word == "RUN":
                assert subprocess.run(["bash", "-n", "-c", rest]).returncode == 0, rest
    copied, same = ([rest for word, rest in found if word == "COPY"] for found in both)
    assert copied == same
    for *sources, target in (rest.split() for rest in copied):
        for source in sources:
            if (root / source).is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(root / source, tmp_path / target, ignore=ignored)
            else:
                shutil.copyfile(root / source, tmp_path / target / source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", "out", "."]
    out = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    (wheel,) = (tmp_path / "out").iterdir()
    assert wheel.name.startswith("dmd_live-")
