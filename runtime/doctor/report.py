"""Run the checks and print what they found.

Each check runs in a process of its own with a time limit: a driver that hangs or a library that
crashes is a line of the report. Cameras and microphones are opened for a moment, and what they
deliver is dropped. No connection is opened.
"""

import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial

from ..errors import DmdLiveError
from ..system.isolated import isolated
from . import listening, machine
from .base import MISSING, Check, Function, Use

__all__ = ["diagnose", "report"]

_CHECKS: dict[str, Function] = {
    "device": machine.device,
    "JetPack": machine.jetpack,
    "TensorRT": machine.tensorrt,
    "onnxruntime": machine.onnxruntime,
    "camera": listening.camera,
    "microphone": listening.microphone,
    "voice activity": listening.voice,
    "face": listening.face,
    "speech-to-text": listening.words,
    "bundle": listening.bundle,
    "cache": machine.cache,
    "clock": machine.clock,
}
_TIMEOUT_S = 30.0  # of one check, except:
_LIMITS_S = {"bundle": 300.0}  # a GPU's engine may have to be built
_AT_ONCE = 4
_STYLES = {"fine": "green", "missing": "bold red", "not needed": "dim"}


def diagnose(use: Use) -> Iterator[Check]:
    """All checks, in the order of the report, as they come. Never raises, never hangs."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for found in pool.map(partial(_run, use), _CHECKS.items()):
            yield from found


def report(checks: Iterable[Check], *, as_json: bool) -> bool:
    """Print a line a check, or one JSON object; returns whether the use would work."""
    from rich.console import Console
    from rich.text import Text

    done, console = [], Console(soft_wrap=True, highlight=False)
    for check in checks:
        done.append(check)
        if as_json:
            continue
        state = Text(f"{check.state:<12}", style=_STYLES[check.state])
        console.print(state + Text(f"{check.name:<16}{check.detail}"))
        if check.remedy:
            console.print(Text(f"{'':<28}-> {check.remedy}"))
    lacking = [check.name for check in done if check.blocks]
    if as_json:
        print(json.dumps({"works": not lacking, "checks": [asdict(check) for check in done]}))
    else:
        print(f"It would fail for want of: {', '.join(lacking)}." if lacking else "It would work.")
    return not lacking


def _run(use: Use, named: tuple[str, Function]) -> list[Check]:
    name, function = named
    found: list[Check] = []
    try:
        limit_s = _LIMITS_S.get(name, _TIMEOUT_S)
        for check in isolated(partial(function, use), timeout_s=limit_s, quiet=True):
            found.append(check)
    except DmdLiveError as error:
        found.append(Check(name=name, state=MISSING, detail=str(error), blocks=True))
    return found
