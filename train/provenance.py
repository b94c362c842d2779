"""What made an artefact: the commit, and JSON beside it that never is half-written."""

import hashlib
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["commit", "inputs", "write_json"]


def write_json(path: Path, content: dict[str, Any] | list[dict[str, Any]]) -> None:
    """Write readable JSON under a temporary name, then rename."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)


def inputs(data: str, data_format: str, files: Mapping[str, str | None]) -> dict[str, str]:
    """What a run reads besides its configuration: the format of its data, the name of a feature
    file (a folder may be moved), and the SHA-256 of each of `files` that is there."""
    name, _, part = data.partition("#")
    found = {"data_format": data_format}
    if Path(name).is_file():
        found["data"] = "#".join(filter(None, (Path(name).name, part)))
    for kind, file in files.items():
        if file and Path(file).is_file():
            found[kind] = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    return found


def commit() -> str:
    """The checkout's commit, with `-dirty` when files differ from it; "unknown" outside git."""
    try:
        out = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return out.stdout.strip()
