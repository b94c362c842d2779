"""A protocol that is fixed before any run, and the one look at the test split that it allows."""

import hashlib
import json
import time
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import UsageError

from ..config import read_toml
from ..metrics import emotion_metrics, sentiment_metrics, sims_metrics
from ..provenance import commit, write_json

__all__ = ["Protocol", "Reads", "fix", "load"]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What `configs/protocol.toml` says; `splits` and `selection` are there to be read."""

    config: str
    set: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    splits: str = ""
    selection: str = "validation"
    first_seed: int = 1
    seeds: int = 5
    metric: str = "macro_f1"
    subsets: str = "all"

    def sha256(self) -> str:
        """Tells whether a run began under this protocol."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @property
    def all_seeds(self) -> range:
        """The seeds, in order."""
        return range(self.first_seed, self.first_seed + self.seeds)


def load(path: Path, overrides: dict[str, Any]) -> Protocol:
    """Read a file; `overrides` that are None are left out. Raises UsageError for what is wrong."""
    table = read_toml(path, "pass --protocol a TOML file")
    table |= {name: value for name, value in overrides.items() if value is not None}
    known = {item.name: item.type for item in fields(Protocol)}
    if unknown := [name for name in table if name not in known]:
        raise UsageError(f"{path}: unknown {unknown[0]!r}; known here: {', '.join(known)}")
    if "config" not in table:
        raise UsageError(f"{path}: no config, the file that says data and model")
    for name in ("seeds", "first_seed"):
        if not isinstance(table.get(name, 1), int):
            raise UsageError(f"{path}: {name} must be a whole number")
    for name in ("set", "choices"):
        given = table.get(name, [])
        if not isinstance(given, list) or not all(isinstance(part, str) for part in given):
            raise UsageError(f'{path}: {name} must be a list such as ["optim.epochs=2"]')
        table[name] = tuple(given)
    found = Protocol(**table)
    for name in ("config", "splits", "metric"):
        if not isinstance(getattr(found, name), str):
            raise UsageError(f"{path}: {name} must be a text in quotes")
    if found.metric not in _metrics():
        there = ", ".join(sorted(_metrics()))
        raise UsageError(f"{path}: no metric {found.metric!r}; there are {there}")
    if found.selection != "validation":
        raise UsageError(f"{path}: selection must be validation; no other is implemented")
    if found.subsets not in ("all", "whole"):
        raise UsageError(f"{path}: subsets must be all or whole, got {found.subsets!r}")
    if found.seeds < 1:
        raise UsageError(f"{path}: seeds must be 1 or more")
    return found


def fix(out: Path, protocol: Protocol) -> None:
    """Write the protocol into `out` before the first run; raises UsageError if runs there began
    under another.

    More seeds are no other protocol: they may be added before the test split is read.
    """
    path, now = out / "protocol.json", _plain(protocol)
    record = {"commit": commit(), "fixed_at": _now()}
    if path.exists() and any(out.rglob("seed-*")):
        kept = json.loads(path.read_text(encoding="utf-8"))
        before = {**_plain(Protocol(config="")), **kept["protocol"]}
        record = {name: kept[name] for name in record}
        fewer_or_late = now["seeds"] < before["seeds"] or Reads(out).n
        for name, value in now.items():
            same = value == before[name] or (name == "seeds" and not fewer_or_late)
            if not same:
                raise UsageError(
                    f"{path}: runs here began under another protocol, with {name} = "
                    f"{json.dumps(before[name])}; take another --out, or give that one"
                )
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, {"protocol": now, "sha256": protocol.sha256(), **record})


class Reads:
    """How often the test split has been read for a comparison: `test-reads.json` in its folder."""

    def __init__(self, out: Path) -> None:
        self.path = out / "test-reads.json"
        self.all: list[dict[str, Any]] = []
        if self.path.exists():
            self.all = json.loads(self.path.read_text(encoding="utf-8"))

    @property
    def n(self) -> int:
        """Looks so far."""
        return len(self.all)

    def check(self, protocol: Protocol, models: list[str], *, again: bool) -> bool:
        """Whether this look goes on with one that was interrupted and so has shown nothing. Raises
        UsageError for a second look without `again`."""
        last = self.all[-1] if self.all else None
        if last is None or (again and last["finished"]):
            return False
        if last["finished"]:
            raise UsageError(
                f"{self.path}: the test split was read on {last['at']}; its result is in "
                "test.json. Whoever looks twice chooses by it: --again does, and the result says so"
            )
        if last["protocol_sha256"] == protocol.sha256() and last["models"] == models:
            return True
        if again:
            return False
        raise UsageError(
            f"{self.path}: a look at the test split began on {last['at']}; end it with --seeds and "
            f"--models as then ({','.join(last['models'])}), or look once more with --again"
        )

    def begin(self, protocol: Protocol, models: list[str], *, again: bool) -> None:
        """Note a look before it happens; raises as `check`."""
        if self.check(protocol, models, again=again):
            return
        this = {"protocol_sha256": protocol.sha256(), "models": models}
        self.all.append(
            {**this, "at": _now(), "commit": commit(), "again": bool(self.all), "finished": False}
        )
        write_json(self.path, self.all)

    def finish(self) -> None:
        """The figures of this look are written."""
        self.all[-1]["finished"] = True
        write_json(self.path, self.all)


@cache
def _metrics() -> set[str]:
    two = np.array([-1.0, 1.0])
    emotion = emotion_metrics(np.eye(2), np.arange(2))
    return {*emotion, *sentiment_metrics(two, two), *sims_metrics(two, two)}


def _plain(protocol: Protocol) -> dict[str, Any]:
    return {**asdict(protocol), "set": list(protocol.set), "choices": list(protocol.choices)}


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
