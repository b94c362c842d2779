"""From your own recordings to shards of features, by the runtime's own code.

Every clip becomes a file of its own below `parts/`, so that a killed run can go on where it
stopped. The shards are put together from these files at the end, in the order of the manifest: they
are the same however often the run was killed.
"""

import csv
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from tqdm import tqdm

from runtime.errors import DmdLiveError, UsageError
from runtime.features.spec import SPEC
from runtime.speech import open_recogniser
from runtime.speech.base import SpeechToText

from . import workers
from .clips import VERSION, extract
from .data import manifest
from .data.corpora import SPLITS, DataError
from .data.manifest import Clip
from .data.shards import Item, read_items, write_index, write_items

__all__ = ["prepare_recordings"]

_PER_SHARD = 256
_KILLED = "decoding it killed the process"


def prepare_recordings(
    table: Path, out: Path, *, stt: str, n_workers: int, ray: str | None, skip_missing: bool
) -> None:
    """Extract all clips of a manifest into `out`. Raises DmdLiveError; prints a report.

    `stt`: auto, vosk, moonshine or none; `ray`: a cluster's address, or None for `n_workers` local
    processes; `skip_missing`: go on without the files that are not there.
    """
    found = manifest.read(table)
    if found.missing and not skip_missing:
        more = f" ({len(found.missing)} in all)" if len(found.missing) > 1 else ""
        raise DataError(
            f"{table}: {found.missing[0]}{more}; correct the table, or pass --skip-missing"
        )
    for name in found.shared_speakers:
        print(f"train.prepare: warning: {name} is in more than one split", file=sys.stderr)
    keys = [_key(clip, stt) for clip in found.clips]
    identity = hashlib.sha256("".join(keys).encode()).hexdigest()
    if _is_done(out, identity):
        print(f"{out}: is complete already")
        return
    parts = out / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    for unfinished in parts.glob("*.partial"):
        unfinished.unlink()
    todo = [
        (clip, str(parts / key), stt)
        for clip, key in zip(found.clips, keys, strict=True)
        if not _part(parts / key)
    ]
    if len(todo) < len(keys):
        print(f"going on: {len(keys) - len(todo)} of {len(keys)} clips are done")
    _work(todo, n_workers, ray)
    _assemble(found, keys, out, identity)


def _do(task: tuple[Clip, str, str]) -> None:
    """One clip in a worker: its part, or the reason why there is none, appears as a whole file."""
    clip, name, stt = task
    part = Path(name)
    try:
        items = extract(clip, None if clip.text else _recogniser(stt))
    except DmdLiveError as error:
        _fail(part, str(error))
    else:
        write_items(part.with_suffix(".safetensors"), items)


def _fail(part: Path, reason: str) -> None:
    partial = part.with_suffix(".failed.partial")
    partial.write_text(reason.replace("\n", " "), encoding="utf-8")
    os.replace(partial, part.with_suffix(".failed"))


def _work(todo: Sequence[tuple[Clip, str, str]], n_workers: int, ray: str | None) -> None:
    with tqdm(total=len(todo), desc="clips", unit="clip", disable=not todo) as progress:
        if ray is not None:
            _work_on_ray(todo, ray, progress)
            return
        left = _pool(todo, n_workers, progress)
        for task in left:  # a worker died: find out which clip it is that kills
            if not _part(Path(task[1])) and _pool([task], 1, progress):
                _fail(Path(task[1]), _KILLED)


def _pool(
    todo: Sequence[tuple[Clip, str, str]], n_workers: int, progress: Any
) -> list[tuple[Clip, str, str]]:
    """Work in processes; returns what is left when one of them died."""
    done: set[str] = set()
    try:
        for task, _ in workers.each(_do, todo, n_workers):
            done.add(task[1])
            progress.update()
    except BrokenProcessPool:
        return [task for task in todo if task[1] not in done]
    return []


def _work_on_ray(todo: Sequence[tuple[Clip, str, str]], address: str, progress: Any) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise UsageError("--ray needs Ray: pip install ray") from error
    try:
        if address == "local":  # a cluster of this machine, for this run
            ray.init(address="local", include_dashboard=False, log_to_driver=False)
        else:
            ray.init(address=address, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"--ray {address}: no cluster there ({reason})") from error
    try:
        remote = ray.remote(_do)
        parts = {remote.remote(task): Path(task[1]) for task in todo}
        left = list(parts)
        while left:
            (ready,), left = ray.wait(left, num_returns=1)
            try:
                ray.get(ready)
            except ray.exceptions.WorkerCrashedError:
                _fail(parts[ready], _KILLED)
            progress.update()
    finally:
        ray.shutdown()


def _assemble(found: manifest.Manifest, keys: list[str], out: Path, identity: str) -> None:
    """Shards from the parts in the manifest's order, failures.csv, and last of all index.json."""
    parts = out / "parts"
    shards: dict[str, list[str]] = {split: [] for split in SPLITS}
    waiting: dict[str, list[Item]] = {split: [] for split in SPLITS}
    failures: list[dict[str, object]] = []

    def close(split: str) -> None:
        name = f"{split}-{len(shards[split]):05d}.safetensors"
        write_items(out / name, waiting[split][:_PER_SHARD])
        shards[split].append(name)
        del waiting[split][:_PER_SHARD]

    for clip, key in zip(found.clips, keys, strict=True):
        failed = (parts / key).with_suffix(".failed")
        if failed.exists():
            about = {"path": clip.path, "start": clip.start_s, "end": clip.end_s}
            failures.append({**about, "reason": failed.read_text(encoding="utf-8")})
            continue
        waiting[clip.split] += read_items((parts / key).with_suffix(".safetensors"))
        while len(waiting[clip.split]) >= _PER_SHARD:
            close(clip.split)
    for split in SPLITS:
        if waiting[split]:
            close(split)
    failures += [{"path": line.split(": ")[1], "reason": "no such file"} for line in found.missing]
    if not any(shards.values()):
        raise DataError(f"no clip could be used; the first failed because: {failures[0]['reason']}")
    _write_failures(out / "failures.csv", failures)
    about = {"identity": identity, "n_clips": len(keys), "n_failed": len(failures)}
    write_index(out, shards, about)
    shutil.rmtree(parts)
    n = len(keys) + len(found.missing)
    where = f": see {out / 'failures.csv'}" if failures else ""
    print(f"{out}: {len(failures)} of {n} clips failed{where}")


def _write_failures(path: Path, failures: list[dict[str, object]]) -> None:
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, ("path", "start", "end", "reason"), restval="")
        table.writeheader()
        table.writerows(failures)
    os.replace(partial, path)


def _key(clip: Clip, stt: str) -> str:
    """Name of a clip's part: it changes with the row, the file, the features and this code."""
    stat = clip.path.stat()
    row = {name: str(value) for name, value in asdict(clip).items()}
    content = [VERSION, SPEC.sha256(), stt, row, stat.st_size, stat.st_mtime_ns]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:24]


def _part(part: Path) -> bool:
    return part.with_suffix(".safetensors").exists() or part.with_suffix(".failed").exists()


def _is_done(out: Path, identity: str) -> bool:
    try:
        index = json.loads((out / "index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(index.get("identity") == identity)


@cache
def _recogniser(stt: str) -> SpeechToText | None:
    return open_recogniser(stt)
