"""The runs of a comparison: one training for each model and seed, several side by side."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path

from runtime.errors import UsageError

from .. import config, training, workers
from ..config import Config
from ..state import finished
from .models import Entry
from .protocol import Protocol

__all__ = ["Task", "settings_of", "tasks", "train_all", "trials"]


@dataclass(frozen=True)
class Task:
    """One training: where its checkpoint goes, its configuration, and how the trainer is called.
    `choice`: the one of the protocol's choices that it follows; `trial`: it tells which is best."""

    name: str
    seed: int
    settings: Config
    teacher: Config | None
    options: training.Options
    choice: str | None = None
    trial: bool = False

    def __str__(self) -> str:
        return f"{self.name}, seed {self.seed}" + (f", {self.choice}" if self.choice else "")

    @property
    def done(self) -> bool:
        """Whether it is finished. Raises UsageError where the folder has another run."""
        return finished(Path(self.options.out), self.settings, self.options.inputs())


def settings_of(protocol: Protocol, switches: tuple[str, ...], seed: int) -> Config:
    """The configuration of one run. Raises UsageError for a wrong option."""
    return config.load(Path(protocol.config), (*protocol.set, *switches), seed)


def trials(
    protocol: Protocol, entries: Mapping[str, Entry], out: Path, common: training.Options
) -> list[Task]:
    """The runs of the first seed with each of the protocol's choices; none where it has none.

    Raises UsageError where two choices come to the same for a model.
    """
    seed, found = protocol.first_seed, list[Task]()
    for choice in protocol.choices:
        for name, entry in entries.items():
            task = replace(_task(protocol, name, entry, seed, choice, out, common), trial=True)
            if any(name == other.name and task.settings == other.settings for other in found):
                raise UsageError(
                    f"{name}: the protocol's choice {choice!r} changes nothing; leave it out, or "
                    "pass --no-choices"
                )
            found.append(task)
    return found


def tasks(
    protocol: Protocol,
    entries: Mapping[str, Entry],
    out: Path,
    common: training.Options,
    chosen: Mapping[str, str],
) -> list[Task]:
    """All runs, seed by seed, so that what is there after an interruption can be compared.
    `chosen`: the choice of each model, where the protocol has any."""
    return [
        _task(protocol, name, entry, seed, chosen.get(name), out, common)
        for seed in protocol.all_seeds
        for name, entry in entries.items()
    ]


def _task(
    protocol: Protocol,
    name: str,
    entry: Entry,
    seed: int,
    choice: str | None,
    out: Path,
    common: training.Options,
) -> Task:
    """One run. Its folder is MODEL/seed-N, or MODEL/choice-K/seed-N."""
    added = () if choice is None else (choice,)
    folder = out / name
    if choice is not None:
        folder /= f"choice-{protocol.choices.index(choice) + 1}"
    folder /= f"seed-{seed}"
    teacher = None
    if entry.teacher is not None:
        teacher = settings_of(protocol, (*added, *entry.teacher), seed)
    options = replace(
        common,
        out=str(folder),
        teacher_checkpoint=None if teacher is None else str(folder / "teacher"),
        no_test=True,
    )
    settings = settings_of(protocol, (*added, *entry.options), seed)
    return Task(name, seed, settings, teacher, options, choice)


def train_all(todo: list[Task], jobs: int) -> Iterator[tuple[Task, float | FloatingPointError]]:
    """Train what is not finished, `jobs` at a time; yields each when it ends, with its seconds, or
    with the error where its loss did not stay finite. Raises UsageError where a process was killed.
    """
    waiting = [task for task in todo if not task.done]
    if jobs == 1:
        for task in waiting:
            yield task, _train(task)
        return
    try:
        yield from workers.each(_train, waiting, jobs)
    except BrokenProcessPool as error:
        raise UsageError(
            "a training was killed, perhaps for want of memory: try fewer --jobs. "
            "The same command goes on"
        ) from error


def _train(task: Task) -> float | FloatingPointError:
    """Train one, its teacher first; what it prints goes into `train.log` of its folder."""
    started = time.monotonic()
    folder = Path(task.options.out)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "train.log").open("a", encoding="utf-8") as log, _quiet(log):
        try:
            if task.teacher is not None:
                out = folder / "teacher"
                options = replace(task.options, out=str(out), teacher_checkpoint=None)
                if not finished(out, task.teacher, options.inputs()):
                    training.train(task.teacher, options)
            training.train(task.settings, task.options)
        except FloatingPointError as error:
            return error
    return time.monotonic() - started


@contextlib.contextmanager
def _quiet(log: object) -> Iterator[None]:
    with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):  # type: ignore[type-var]
        yield
