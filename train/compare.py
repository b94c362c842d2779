"""Models side by side under a fixed protocol: `python -m train.compare --data DATA --models LIST`.

Everything is chosen and shown on validation data. `--test` reads the test split, once.
"""

import sys
from dataclasses import dataclass

from runtime.config import option, parse

from .comparison import command
from .comparison.models import MODELS, chosen

__all__ = ["Options", "main"]


@dataclass(frozen=True, kw_only=True)
class Options(command.Shared):
    """Train models and seeds that are missing, then write a table and a page of plots.

    The protocol is fixed by the first call. Interrupted, the same command goes on; what is finished
    is kept.
    """

    models: str = option(
        "dmd,published,fixed,undistilled,undecoupled,dhmd,mult,misa,pmr,corrkd,late,text,audio,vision",
        metavar="LIST",
        help=f"names with commas between, of {', '.join(MODELS)}",
    )


def main() -> int:
    """Run the command; returns the exit code."""
    prog = "train.compare"
    options = parse(Options, None, prog=f"python -m {prog}")
    return command.run(prog, options, lambda: chosen(options.models))


if __name__ == "__main__":
    sys.exit(main())
