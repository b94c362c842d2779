"""Pictures of a training run: `python -m train.report RUN` writes one HTML page.

It reads `checkpoint.json` and `analysis.safetensors`; no data set and no model.
"""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.config import option, parse
from runtime.errors import BundleError, DmdLiveError, UsageError
from runtime.features.spec import MODALITIES

from . import analysis, page
from .analysis import Shown
from .sections import sections

__all__ = ["Options", "main", "write"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Write an HTML page with plots of a finished training run."""

    run: str = option(metavar="RUN", positional=True, help="the folder that train.run wrote")
    out: str | None = option(
        None, metavar="FILE", help="the page to write; default: report.html in RUN"
    )
    utterance: str | None = option(
        None,
        metavar="ID",
        help="utterance whose crossmodal attention is drawn; default: the first one kept",
    )


def main() -> int:
    """Run the command; returns the exit code."""
    options = parse(Options, None, prog="python -m train.report")
    try:
        print(f"{write(options)} written")
    except DmdLiveError as error:
        print(f"train.report: {error}", file=sys.stderr)
        return 2
    return 0


def write(options: Options) -> Path:
    """Write the page and return its path. Raises DmdLiveError for a user's mistake."""
    run = Path(options.run)
    info = _read(run)
    found = analysis.load(run)
    if found.arrays["probabilities"].shape[1] != len(info["emotions"]):
        raise BundleError(
            f"{run}: {analysis.FILE} belongs to another run; train again with --restart"
        )
    k = _pick(found.shown, options.utterance)
    out = Path(options.out) if options.out else run / "report.html"
    if not out.parent.is_dir():
        raise UsageError(f"{out.parent}: no such folder; pass another --out")
    html = page.document(f"Training run {run.resolve().name}", sections(info, found, k))
    partial = out.with_name(out.name + ".partial")
    try:
        partial.write_text(html, encoding="utf-8")
        os.replace(partial, out)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UsageError(f"{out}: cannot be written ({error.strerror}); pass --out") from error
    return out


def _read(run: Path) -> dict[str, Any]:
    """The content of checkpoint.json, checked as far as the page reads it."""
    path = run / "checkpoint.json"
    if not path.exists():
        if (run / "state" / "last.pt").exists():
            raise UsageError(f"{run}: not finished; run the same train.run command again first")
        raise UsageError(f"{run}: not a training run (no checkpoint.json); pass train.run's --out")
    try:
        info: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for name, kind in (("config", dict), ("emotions", list), ("metrics", dict),
                           ("history", list), ("data", dict), ("best_epoch", int)):  # fmt: skip
            if not isinstance(info[name], kind):
                raise TypeError(f"{name} is no {kind.__name__}")
        names = {(*epoch["losses"], *epoch["valid"]) for epoch in info["history"]}
        if len(names) != 1:
            raise ValueError("history: epochs differ in what they hold")
        split = "test" if "test" in info["metrics"] else "valid"
        _ = info["metrics"][split]["+".join(MODALITIES)], info["config"]["model"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path}: damaged ({error}); train again with --restart") from error
    return info


def _pick(shown: tuple[Shown, ...], wanted: str | None) -> int:
    ids = [utterance.id for utterance in shown]
    if wanted is not None and wanted not in ids:
        raise UsageError(f"--utterance {wanted}: not kept; these are: {', '.join(ids)}")
    return 0 if wanted is None else ids.index(wanted)


if __name__ == "__main__":
    sys.exit(main())
