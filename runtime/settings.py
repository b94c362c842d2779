"""Options from a TOML file and from environment variables."""

import logging
import sys
import typing
from collections.abc import Mapping, Sequence
from dataclasses import Field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from .config import kind_of
from .errors import UsageError
from .outputs.broker import PASSWORD_VARIABLE
from .outputs.chosen import OutputOptions, chosen
from .outputs.sinks import Sink
from .stream.options import StreamOptions, from_keywords

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["PREFIX", "complete", "from_environment", "from_file", "stream_and_outputs"]

PREFIX = "DMD_LIVE_"
"""What variables begin with."""
# Variables that are no options, which the package reads itself.
_OTHERS = {PASSWORD_VARIABLE, PREFIX + "CACHE"}
# Who names one of these on the command line does not want what the file has of the others.
_SOURCES = (("file", "input", "demo"), ("camera", "microphone"), ("replay",))
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
_SWITCH = {"1": True, "true": True, "yes": True, "on": True,
           "0": False, "false": False, "no": False, "off": False}  # fmt: skip

Config = TypeVar("Config")

_logger = logging.getLogger("dmd_live")


def complete(
    config: type[Config], on_command_line: dict[str, Any], environment: Mapping[str, str]
) -> Config:
    """All options: the command line goes before the environment, that before the file.

    The option `config` names the file. Raises UsageError for a file that cannot be read, a key that
    is no option and a value that is none.
    """
    said = from_environment(config, environment)
    path = {**said, **on_command_line}.get("config")
    in_file = {} if path is None else from_file(config, Path(path))
    return config(**_merged(in_file, said, on_command_line))


def from_file(config: type[Any], path: Path) -> dict[str, Any]:
    """What a TOML file says of the options in `config`."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: not TOML ({error})") from error
    known = {item.name: item for item in fields(config) if item.name != "config"}
    hints, values = typing.get_type_hints(config), {}
    for key, value in content.items():
        name = key.replace("-", "_")
        if isinstance(value, dict):
            raise UsageError(f"{path}: [{key}]: options stand alone, without sections")
        if name not in known:
            raise UsageError(f"{path}: {key}: no such option; {_nearest(name, known)}")
        values[name] = _checked(known[name], hints[name], value, f"{path}: {key}")
    return values


def from_environment(config: type[Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """What DMD_LIVE_... variables say of the options in `config`; an empty one says nothing.

    A variable that is no option is told, and left alone: it may be another program's.
    """
    known = {PREFIX + item.name.upper(): item for item in fields(config)}
    hints, values = typing.get_type_hints(config), {}
    for variable in sorted(environment):
        text = environment[variable]
        if not variable.startswith(PREFIX) or variable in _OTHERS or not text:
            continue
        if variable not in known:
            _logger.warning("%s: no such option; %s", variable, _nearest(variable, known))
            continue
        item = known[variable]
        value = _from_text(kind_of(hints[item.name]), text)
        values[item.name] = _checked(item, hints[item.name], value, variable)
    return values


def stream_and_outputs(
    path: Path, keywords: dict[str, Any], *, own_source: bool
) -> tuple[dict[str, Any], Sequence[Sink]]:
    """Options of a stream, and its outputs, from a file; `keywords` go before it."""
    from .cli import Options  # it needs this module

    in_file = from_file(Options, path)
    if own_source:
        in_file = {k: v for k, v in in_file.items() if not any(k in kind for kind in _SOURCES)}
    values = _merged(in_file, keywords)
    for_stream = {item.name for item in fields(StreamOptions)}
    for_outputs = {item.name for item in fields(OutputOptions)}
    outputs = OutputOptions(**{k: v for k, v in values.items() if k in for_outputs})
    wanted = {
        k: v
        for k, v in values.items()
        if k in for_stream or (k in keywords and k not in for_outputs)
    }
    if wanted.get("camera") is not None and wanted.get("file") is None:
        wanted.setdefault("microphone", "default")  # as the command does
    early = from_keywords(wanted).provisional
    return wanted, chosen(outputs, early=early).sinks


def _merged(*layers: dict[str, Any]) -> dict[str, Any]:
    """Later layers go before earlier ones; another kind of source replaces the earlier one."""
    values: dict[str, Any] = {}
    for layer in layers:
        named = {k for k, v in layer.items() if v is not None and v is not False}
        kinds = [kind for kind in _SOURCES if named & set(kind)]
        if kinds:
            dropped = {name for kind in _SOURCES if kind not in kinds for name in kind}
            values = {k: v for k, v in values.items() if k not in dropped}
        values.update(layer)
    return values


def _from_text(kind: type, text: str) -> Any:
    """A value as TOML would have it; what cannot be read stays a text."""
    if kind is bool:
        return _SWITCH.get(text.strip().lower(), text)
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            return text
    return text


def _checked(item: "Field[Any]", hint: Any, value: Any, where: str) -> Any:
    """The value as the option wants it; raises UsageError when it is none."""
    kind, between = kind_of(hint), item.metadata["joined_by"]
    if between is not None and isinstance(value, list) and all(isinstance(v, str) for v in value):
        return between.join(value) if value else None
    if kind is not bool and isinstance(value, int) and not isinstance(value, bool):
        value = kind(value)  # camera = 0 is the text "0"; a whole number is a number
    if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
        raise UsageError(f"{where}: {value!r} is not {_KINDS[kind]}")
    choices = item.metadata["choices"]
    if choices is not None and value not in choices:
        raise UsageError(f"{where}: no {value!r}; there are: {', '.join(choices)}")
    return value


def _nearest(name: str, known: Mapping[str, object]) -> str:
    shared = PREFIX if name.startswith(PREFIX) else ""
    names = [found.removeprefix(shared) for found in known]
    near = get_close_matches(name.removeprefix(shared), names, n=3, cutoff=0.6)
    found = [shared + one for one in near]
    return f"nearest: {', '.join(found)}" if found else "`dmd-live --help` lists them"
