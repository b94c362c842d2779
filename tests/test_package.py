"""What a user gets: the repository's shape, the wheel, the README, a run that calls nobody."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

TOP = {"pyproject.toml", "README.md", "LICENSE", "NOTICE", "train", "export", "runtime", "tests",
       "configs", "docs", "examples", "check", ".ci", ".gitignore", "CHANGELOG.md", "CITATION.cff",
       "CONTRIBUTING.md", "SECURITY.md", "integrations"}  # fmt: skip
# In every program that starts below: any name looked up or any connection opened ends it.
NO_NETWORK = """
import sys
def refuse(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        raise SystemExit(f"{event} {args[1:]}")
sys.addaudithook(refuse)
"""


def test_top_level_of_the_repository(root: Path) -> None:
    out = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True)
    if out.returncode:
        pytest.skip("not a git checkout")
    assert {line.split("/")[0] for line in out.stdout.splitlines()} == TOP


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that nothing of a former build slips in."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("runtime", "train", "export"):
        shutil.copytree(root / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copyfile(root / name, copy / name)
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(out), "."]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = out.iterdir()
    return path


def test_wheel_holds_the_package_and_its_data_only(root: Path, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
        licences = {Path(name).name for name in file.namelist() if "/licenses/" in name}
    assert licences == {"LICENSE", "NOTICE"}
    source = {
        f"dmd_live/{path.relative_to(root / 'runtime').as_posix()}"
        for path in (root / "runtime").rglob("*")
        if path.is_file() and not {"__pycache__", ".ruff_cache"} & set(path.parts)
    }
    assert names == source - {"dmd_live/ruff.toml", "dmd_live/demo/demo.png"}
    assert wheel.stat().st_size < 40e6


def test_sizes_of_what_ships(root: Path) -> None:
    bundle = sum(file.stat().st_size for file in (root / "runtime" / "default_bundle").iterdir())
    assert bundle < 25e6
    assert (root / "runtime" / "demo" / "demo.mp4").stat().st_size < 2e6


def readme_block(root: Path, marker: str) -> str:
    text = (root / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"<!-- {marker} -->\n```\w+\n(.*?)```", text, re.DOTALL)
    assert found, f"README.md has no block marked {marker}"
    return found.group(1)


def test_readme_example_runs(root: Path, demo: Path, tmp_path: Path) -> None:
    shutil.copyfile(demo, tmp_path / "talk.mp4")
    # Here the package may be installed or not; its folder serves under its installed name.
    (tmp_path / "dmd_live").symlink_to(root / "runtime")
    code = NO_NETWORK + readme_block(root, "example")
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert out.returncode == 0, out.stderr
    assert len(out.stdout.splitlines()) == 2
    assert "cold-hearted" in out.stdout


def test_readme_commands_have_the_options_that_it_shows(root: Path) -> None:
    files = (*root.glob("*.md"), *(root / "docs").glob("*.md"))
    text = "".join(file.read_text(encoding="utf-8") for file in files)
    lines = [line for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
             for line in block.splitlines()]  # fmt: skip
    shown: dict[str, set[str]] = {}
    for line in lines:
        for program in re.findall(r"python -m ([a-z._]+)|(dmd-live)(?= --)", line.split("#")[0]):
            options = re.findall(r"(?<!\S)--[a-z-]+", line.split("#")[0])
            shown.setdefault("".join(program), set()).update(options)
    assert {"dmd-live", "train.run", "export.graph", "export.trt", "export.parity"} <= set(shown)
    del shown["pdoc"]
    modules = {p: "runtime.cli" if p == "dmd-live" else p for p in shown}
    # One process for all of them: most load torch.
    code = (
        "import contextlib, io, json, runpy, sys\n"
        "said = {}\n"
        "for module in json.loads(sys.argv.pop()):\n"
        "    sys.argv[1:], out = ['--help'], io.StringIO()\n"
        "    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):\n"
        "        runpy.run_module(module, run_name='__main__', alter_sys=True)\n"
        "    said[module] = out.getvalue()\n"
        "print(json.dumps(said))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, json.dumps([*modules.values()])],
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert out.returncode == 0, out.stderr
    said = json.loads(out.stdout)
    for program, module in modules.items():
        known = set(re.findall(r"--[a-z0-9-]+", said[module]))
        assert shown[program] <= known, program


def test_readme_is_short_and_links_lead_somewhere(root: Path) -> None:
    assert len((root / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
    for file in (*root.glob("*.md"), *(root / "docs").glob("*.md")):
        for link in re.findall(r"\]\(([^)#]+)", file.read_text(encoding="utf-8")):
            if "://" not in link:
                assert (file.parent / link).exists(), f"{file.name}: {link}"


def test_the_api_reference_builds(tmp_path: Path) -> None:
    parts = ["dmd_live", "dmd_live.errors", "dmd_live.stream.options"]
    command = [sys.executable, "-W", "error::UserWarning", "-m", "pdoc", "-o", str(tmp_path)]
    out = subprocess.run([*command, *parts], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    page = (tmp_path / "dmd_live.html").read_text(encoding="utf-8")
    assert "EmotionStream" in page
    assert "reset_baseline" in page


def test_one_version_everywhere(root: Path) -> None:
    from runtime import __version__

    assert f"\nversion: {__version__}\n" in (root / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\n## {__version__}\n" in (root / "CHANGELOG.md").read_text(encoding="utf-8")


def test_a_run_opens_no_connection(root: Path) -> None:
    code = NO_NETWORK + "from runtime.cli import main; sys.exit(main(['--demo', '--json']))"
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60
    )
    assert out.returncode == 0, out.stderr
    assert len(out.stdout.splitlines()) == 2


def test_the_doctor_opens_no_connection(root: Path) -> None:
    code = NO_NETWORK + (
        "from runtime.doctor import base, report\n"
        "use = base.Use(camera='http://127.0.0.1:9/head.mjpg', microphone=None)\n"
        "print(sum(len(list(check(use))) for check in report._CHECKS.values()))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60
    )
    assert out.returncode == 0, out.stderr
    assert int(out.stdout) >= 12


def test_the_refusal_of_connections_works(root: Path) -> None:
    code = NO_NETWORK + "import socket; socket.create_connection(('127.0.0.1', 9))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.returncode == 1
    assert "socket.getaddrinfo" in out.stderr


def test_examples_run(root: Path, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "dmd_live").symlink_to(root / "runtime")
    names = sorted(path.name for path in (root / "examples").glob("*.py"))
    of_agents = {"livekit_hook.py", "openai_loop.py", "pipecat_processor.py", "reachy_mini_loop.py"}
    names = [name for name in names if name not in of_agents]  # tests/test_agents.py
    assert names == ["asyncio_app.py", "control_loop.py", "frame_source.py"]
    running = {
        name: subprocess.Popen(
            [sys.executable, root / "examples" / name, clip],
            env={"PATH": "", "PYTHONPATH": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in names
    }
    for name, process in running.items():
        out, err = process.communicate(timeout=90)
        assert process.returncode == 0, err
        wanted = r"^face: " if name == "control_loop.py" else r"%: .*amiable himself"
        assert re.search(wanted, out, re.MULTILINE), (name, out)


@pytest.mark.parametrize("path", ["docs/measured.md", "runtime/default_bundle/MODEL_CARD.md"])
def test_published_figures_are_those_of_the_bundle(root: Path, path: str) -> None:
    bundle = root / "runtime" / "default_bundle"
    info = json.loads((bundle / "bundle.json").read_text())
    certificate = json.loads((bundle / "certificate.json").read_text())
    text = (root / path).read_text(encoding="utf-8")
    table = {
        cells[1].removesuffix(" (human ratings)"): cells
        for cells in ([c.strip() for c in line.split("|")] for line in text.splitlines())
        if len(cells) == 8
    }
    metrics = {(row["subset"], row["model"]): row["metrics"] for row in certificate["rows"]}
    for subset in {subset for subset, _ in metrics}:
        torch, fp32, int8 = (metrics[subset, model] for model in ("torch", "fp32", "int8"))
        wanted = ["", "", "", f"{int8['mae']:.2f}", f"{int8['corr']:.2f}"]
        if "accuracy" in int8:
            accuracy = " / ".join(f"{100 * m['accuracy']:.1f}" for m in (torch, fp32, int8))
            f1 = f"{100 * torch['macro_f1']:.1f} / {100 * int8['macro_f1']:.1f}"
            wanted[:3] = [accuracy, f1, f"{int8['ece']:.2f}"]
        assert table[subset][2:7] == wanted
    for line in info["measured"]["lines"]:
        places, scale = (3, 1) if line["metric"].startswith("correlation") else (1, 100)
        values = " / ".join(f"{scale * value:.{places}f}" for value in line["values"].values())
        assert f"| {line['name']} | {line['metric']} | {line['n']} | {values} |" in text
