"""What is checked for, and what a check says."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

__all__ = ["FINE", "MISSING", "NOT_NEEDED", "Check", "Function", "Use"]

FINE, MISSING, NOT_NEEDED = "fine", "missing", "not needed"


@dataclass(frozen=True, kw_only=True)
class Use:
    """What the machine is wanted for, as the other options say. `pictures`: whether there may be
    faces; `camera` and `microphone` are None where a file or a recording is analysed."""

    pictures: bool = True
    camera: int | str | None = 0
    microphone: str | None = "default"
    bundle: str | None = None
    engine: str = "auto"
    stt: str = "auto"
    stt_model: str | None = None


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the report. `state`: fine, missing or not needed; `remedy`: the command that
    mends it; `blocks`: the use fails without, and does not only lack something."""

    name: str
    state: str
    detail: str
    remedy: str = ""
    blocks: bool = False


Function = Callable[[Use], Iterator[Check]]
