"""What `train.compare` and `train.ablate` do: train what is missing, compare, look once."""

import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runtime.config import option
from runtime.errors import DmdLiveError, UsageError

from .. import training
from ..data import corpora
from ..data.open import FORMATS, recorded
from ..provenance import commit, write_json
from . import mmsa_csv, pictures, protocol, reading, runs
from .models import Entry
from .protocol import Protocol, Reads
from .runs import Task
from .table import ERRORS, markdown, result, score

__all__ = ["Shared", "best", "protocol_of", "run"]


@dataclass(frozen=True, kw_only=True)
class Shared:
    """The options of both commands."""

    data: str = option(metavar="PATH", help="the data set: a folder, or a feature file")
    data_format: str = option("corpora", choices=FORMATS, help="what PATH is")
    protocol: str = option(
        "configs/protocol.toml", metavar="FILE", help="seeds, budget, selection, the one metric"
    )
    config: str | None = option(None, metavar="FILE", help="instead of the protocol's")
    metric: str | None = option(
        None, metavar="NAME", help="instead of the protocol's: macro_f1, accuracy, mae, ..."
    )
    seeds: int | None = option(None, metavar="N", help="instead of the protocol's")
    set: str | None = option(
        None, metavar="K=V;K=V", joined_by=";", help="added to the protocol; may be repeated"
    )
    no_choices: bool = option(
        False, help="do not try the protocol's choices: train with what is configured"
    )
    out: str = option("runs/compare", metavar="DIR", help="one folder for each model, and results")
    cache: str = option("build/features", metavar="DIR", help="extracted features of the corpora")
    jobs: int = option(
        max(1, (os.cpu_count() or 2) // 2), metavar="N", help="trainings side by side"
    )
    device: str = option("cpu", help="cpu, cuda or cuda:N")
    test: bool = option(False, help="when all are trained, read the test split: once")
    again: bool = option(False, help="read it once more; the result says so")


def run(prog: str, options: Shared, entries_of: Callable[[], Mapping[str, Entry]]) -> int:
    """Run the command; returns the exit code. All others are compared with the first entry."""
    try:
        _run(options, entries_of())
    except (DmdLiveError, FloatingPointError, FileExistsError, NotADirectoryError) as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{prog}: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def protocol_of(options: Shared) -> Protocol:
    """The protocol, with what the command line says instead. Raises UsageError."""
    instead = {"seeds": options.seeds, "config": options.config, "metric": options.metric}
    found = protocol.load(Path(options.protocol), instead)
    added = tuple(filter(None, (options.set or "").split(";")))
    if options.no_choices:
        found = replace(found, choices=())
    tried = {_name(choice) for choice in found.choices}
    if both := [_name(part) for part in added if _name(part) in tried]:
        raise UsageError(
            f"--set {both[0]}: the protocol tries several; add --no-choices to set it yourself"
        )
    return replace(found, set=(*found.set, *added))


def _name(assignment: str) -> str:
    return assignment.partition("=")[0].strip()


def _run(options: Shared, entries: Mapping[str, Entry]) -> None:
    if options.jobs < 1:
        raise UsageError("--jobs must be 1 or more")
    if options.again and not options.test:
        raise UsageError("--again says that --test is a second look; give both")
    out, reads = Path(options.out), Reads(Path(options.out))
    rules = protocol_of(options)
    if options.test:
        reads.check(rules, list(entries), again=options.again)
    common = training.Options(
        data=options.data,
        data_format=options.data_format,
        cache=options.cache,
        device=options.device,
    )
    trials = runs.trials(rules, entries, out, common)
    todo = trials or runs.tasks(rules, entries, out, common, {})  # a wrong option is told here
    if options.data_format == "corpora" and not all(task.done for task in todo):
        _extract(todo[0])
    protocol.fix(out, rules)
    if trials:
        print("the first seed tries each of the protocol's choices:", flush=True)
        _train(trials, options.jobs)
        todo = runs.tasks(rules, entries, out, common, best(trials, rules))
    _train(todo, options.jobs)
    about = reading.about(todo)
    titles = {name: entry.title for name, entry in entries.items()}
    if not options.test:
        rows: dict[str, list[Any]] = {}
        for task in todo:
            rows.setdefault(task.name, []).append(reading.validation(task))
        found = result(rows, rules, about)
    else:
        reads.begin(rules, list(entries), again=options.again)
        found = result(reading.read_test(todo), rules, about)
    split = "test" if options.test else "valid"
    _keep(out / f"{split}.json", found, rules, reads)
    if options.test:
        reads.finish()
    _show(out, split, found, titles, rules, todo)


def _extract(task: Task) -> None:
    """Extract features here and now, if there are none, and not in each of several processes."""
    data = Path(task.options.data)
    for line in corpora.missing(data, task.settings.data.corpora.split()):
        print(f"warning: {line}", file=sys.stderr)
    recorded(data, task.settings, Path(task.options.cache))


def best(trials: list[Task], rules: Protocol) -> dict[str, str]:
    """The choice of each model that is best on validation data; of equals, the first. Raises
    UsageError where no choice of a model could be trained."""
    sign = -1.0 if rules.metric in ERRORS else 1.0
    best: dict[str, tuple[float, str]] = {}
    for task in trials:
        if not task.done:
            continue
        value = sign * score(reading.validation(task), rules)
        if task.name not in best or value > best[task.name][0] or math.isnan(best[task.name][0]):
            best[task.name] = value, str(task.choice)
    if failed := [task.name for task in trials if task.name not in best]:
        raise UsageError(f"{failed[0]}: no choice of the protocol could be trained")
    return {name: choice for name, (_, choice) in best.items()}


def _train(todo: list[Task], jobs: int) -> None:
    """Raises FloatingPointError where a loss did not stay finite, but not for a trial."""
    n_left = sum(not task.done for task in todo)
    print(f"{len(todo)} runs, {len(todo) - n_left} of them finished", flush=True)
    for n, (task, ended) in enumerate(runs.train_all(todo, jobs), 1):
        failed = isinstance(ended, FloatingPointError)
        if failed and not task.trial:
            raise FloatingPointError(f"{task}: {ended}")
        print(
            f"{n} of {n_left}: {task}: " + (f"{ended}" if failed else f"{ended:.0f} s"), flush=True
        )


def _keep(path: Path, found: dict[str, dict[str, Any]], rules: Protocol, reads: Reads) -> None:
    looks = [{**read, "finished": True} for read in reads.all] if path.stem == "test" else []
    about = {"protocol_sha256": rules.sha256(), "commit": commit(), "test_reads": looks}
    write_json(path, {"split": path.stem, **about, "models": found})


def _show(
    out: Path,
    split: str,
    found: dict[str, dict[str, Any]],
    titles: Mapping[str, str],
    rules: Protocol,
    todo: list[Task],
) -> None:
    """The same as a table, as MMSA's table and as a page."""
    table = markdown(found, titles, rules, split, Reads(out).n if split == "test" else 0)
    (out / f"{split}.md").write_text(table + "\n", encoding="utf-8")
    mmsa_csv.write(out / f"{split}-mmsa.csv", found)
    first = {task.name: Path(task.options.out) for task in reversed(todo)}
    html = pictures.document(first, found, titles, rules, split)
    (out / f"{split}.html").write_text(html, encoding="utf-8")
    print(f"\n{table}\n\n{out / split}.json, .md and .html written", flush=True)
