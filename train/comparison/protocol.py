"""A protocol that is fixed before any run, and the one look at the test split that it allows."""

import hashlib
import json
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from runtime.errors import UsageError

from ..config import read_toml
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
    for name in ("set", "choices"):
        table[name] = tuple(table.get(name, ()))
    for name in ("seeds", "first_seed"):
        if not isinstance(table.get(name, 1), int):
            raise UsageError(f"{path}: {name} must be a whole number")
    found = Protocol(**table)
    if found.selection != "validation":
        raise UsageError(f"{path}: selection must be validation; no other is implemented")
    if found.subsets not in ("all", "whole"):
        raise UsageError(f"{path}: subsets must be all or whole, got {found.subsets!r}")
    if found.seeds < 1:
        raise UsageError(f"{path}: seeds must be 1 or more")
    return found


def fix(out: Path, protocol: Protocol) -> None:
    """Write the protocol into `out` before the first run; raises UsageError if `out` has another.

    A few more seeds are no other protocol: they may only be added before the test split is read.
    """
    path = out / "protocol.json"
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        same = {**before["protocol"], "seeds": 0} == {**_plain(protocol), "seeds": 0}
        if not same or (protocol.seeds != before["protocol"]["seeds"] and Reads(out).n):
            raise UsageError(
                f"{path}: runs here began under another protocol; take another --out, or give the "
                "one they began with"
            )
        if protocol.seeds == before["protocol"]["seeds"]:
            return
    out.mkdir(parents=True, exist_ok=True)
    write_json(
        path,
        {
            "protocol": _plain(protocol),
            "sha256": protocol.sha256(),
            "commit": commit(),
            "fixed_at": _now(),
        },
    )


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

    def begin(self, protocol: Protocol, models: list[str], *, again: bool) -> None:
        """Note a look before it happens. Raises UsageError for a second one without `again`.

        A look that was interrupted has shown nothing: the same one goes on.
        """
        this = {"protocol_sha256": protocol.sha256(), "models": models}
        last = self.all[-1] if self.all else {"finished": True}
        if not last["finished"] and all(last[name] == value for name, value in this.items()):
            return
        if self.all and not again:
            raise UsageError(
                f"{self.path}: the test split was read on {self.all[-1]['at']}; its result is in "
                "test.json. Whoever looks twice chooses by it: --again does, and the result says so"
            )
        self.all.append(
            {**this, "at": _now(), "commit": commit(), "again": bool(self.all), "finished": False}
        )
        self._write()

    def finish(self) -> None:
        """The figures of this look are written."""
        self.all[-1]["finished"] = True
        self._write()

    def _write(self) -> None:
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self.all, indent=1) + "\n", encoding="utf-8")
        partial.replace(self.path)


def _plain(protocol: Protocol) -> dict[str, Any]:
    return {**asdict(protocol), "set": list(protocol.set), "choices": list(protocol.choices)}


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
