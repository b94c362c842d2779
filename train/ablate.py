"""What each part of the method is worth: `python -m train.ablate --data DATA`.

The ablations, or the rules by which edges are learned, compared as `train.compare` compares models.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from runtime.config import option, parse
from runtime.errors import UsageError

from .comparison import command
from .comparison.models import ABLATIONS, EDGE_RULES, Entry
from .comparison.runs import settings_of

__all__ = ["Options", "entries", "main", "with_language"]


@dataclass(frozen=True, kw_only=True)
class Options(command.Shared):
    """Train the method and its ablations with several seeds each, then write a table and plots.

    The protocol is fixed by the first call. Interrupted, the same command goes on; what is finished
    is kept.
    """

    out: str = option("runs/ablations", metavar="DIR", help="one folder for each, and results")
    edges: bool = option(
        False, help="instead: the rules by which edges are learned, against fixed edges"
    )
    distilled: str | None = option(
        None,
        metavar="DIR",
        help="a distilled language encoder (OUT/language of train.run --teacher): the method uses "
        "it, and one more ablation (without --edges) uses the encoder of the configuration instead",
    )


def main() -> int:
    """Run the command; returns the exit code."""
    prog = "train.ablate"
    given = parse(Options, None, prog=f"python -m {prog}")
    return command.run(prog, with_language(given), lambda: entries(given))


def entries(options: Options) -> Mapping[str, Entry]:
    """What is trained, by the name of its folder. Raises UsageError for a wrong configuration, or
    where there is no distilled encoder."""
    if options.distilled is not None and not (Path(options.distilled) / "config.json").is_file():
        raise UsageError(f"--distilled {options.distilled}: no language encoder is there")
    if options.edges:
        return EDGE_RULES
    if options.distilled is None:
        return ABLATIONS
    own = settings_of(command.protocol_of(options), (), 1).model
    switches = (f'model.language="{own.language}"', f"model.language_layers={own.language_layers}")
    return {**ABLATIONS, "language": Entry("DMD, no language distillation", switches)}


def with_language(options: Options) -> Options:
    """The same, where every run uses the distilled encoder."""
    if options.distilled is None:
        return options
    language = f'model.language="{options.distilled}";model.language_layers=0'
    return replace(options, set=";".join(filter(None, (options.set, language))))


if __name__ == "__main__":
    sys.exit(main())
