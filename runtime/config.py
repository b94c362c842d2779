"""One frozen dataclass per command: its fields are the options, their `help` is the --help."""

import argparse
import types
import typing
from collections.abc import Sequence
from dataclasses import MISSING, Field, field, fields
from typing import Any, TypeVar

__all__ = ["given", "kind_of", "option", "parse"]

Config = TypeVar("Config")


def option(
    default: Any = MISSING,
    *,
    help: str,
    choices: Sequence[str] | None = None,
    metavar: str | None = None,
    positional: bool = False,
    joined_by: str | None = None,
) -> Any:
    """A dataclass field that is also a command-line option; without a default it is required.

    `positional`: given without its name, and required. `joined_by`: may be given several times, and
    is then one text with this between the parts.
    """
    metadata = {
        "help": help,
        "choices": choices,
        "metavar": metavar,
        "positional": positional,
        "joined_by": joined_by,
    }
    return field(default=default, metadata=metadata)


def parse(
    config: type[Config], argv: Sequence[str] | None, *, prog: str, epilog: str | None = None
) -> Config:
    """Fill `config` from the command line; prints help or a usage error and exits (code 2)."""
    return config(**given(config, argv, prog=prog, epilog=epilog))


def given(
    config: type[Any], argv: Sequence[str] | None, *, prog: str, epilog: str | None = None
) -> dict[str, Any]:
    """What the command line says of `config`, without the defaults; exits as `parse` does.

    A switch may be taken back: `--no-json` after `--json`, or where a file has `json = true`.
    """
    parser = argparse.ArgumentParser(
        prog=prog,
        description=config.__doc__,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    hints = typing.get_type_hints(config)
    for item in fields(config):
        _add(parser, item, hints[item.name])
    values = vars(parser.parse_args(argv))
    for item in fields(config):
        if item.metadata["joined_by"] is not None and item.name in values:
            values[item.name] = item.metadata["joined_by"].join(values[item.name])
    return values


def kind_of(hint: Any) -> Any:
    """The type of an option's value: `str` for `str | None`."""
    if isinstance(hint, types.UnionType):  # the option may be left out
        return next(kind for kind in typing.get_args(hint) if kind is not type(None))
    return hint


def _add(parser: argparse.ArgumentParser, item: "Field[Any]", hint: Any) -> None:
    flag = "--" + item.name.replace("_", "-")
    text = item.metadata["help"]
    if item.metadata["positional"]:
        parser.add_argument(item.name, type=hint, metavar=item.metadata["metavar"], help=text)
        return
    if hint is bool:
        parser.add_argument(flag, action="store_true", default=argparse.SUPPRESS, help=text)
        parser.add_argument(
            f"--no-{flag[2:]}",
            action="store_false",
            dest=item.name,
            default=argparse.SUPPRESS,
            help=argparse.SUPPRESS,
        )
        return
    required = item.default is MISSING
    if not required and item.default is not None:
        text += f" (default: {item.default})"
    parser.add_argument(
        flag,
        action="store" if item.metadata["joined_by"] is None else "append",
        type=kind_of(hint),
        required=required,
        default=argparse.SUPPRESS,
        choices=item.metadata["choices"],
        metavar=item.metadata["metavar"] or ("X" if item.metadata["choices"] is None else None),
        help=text.replace("%", "%%"),
    )
