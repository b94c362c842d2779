"""What made an artefact: the commit, and JSON beside it that never is half-written."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

__all__ = ["commit", "write_json"]


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write readable JSON under a temporary name, then rename."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)


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
