"""Pretrained parts: where they are, that they are what they claim to be, how to get them.

A part is looked for in the local cache, then in an installed package; every file's SHA-256 is
checked before use. Only `download` opens a connection, and only when the user asks for it.
"""

import hashlib
import http.client
import importlib.util
import os
import shutil
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from ..errors import ModelError, UsageError
from .catalogue import PARTS, Package, Part, sums

__all__ = [
    "PARTS",
    "Row",
    "cache_folder",
    "download",
    "is_here",
    "listing",
    "resolve",
]

Progress = Callable[[int, int], None]

_BLOCK = 1 << 20
_TIMEOUT_S = 30.0
_SUMS = "SHA256SUMS"  # beside the files of an unpacked archive, as sha256sum writes it


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of `dmd-live --list-models`."""

    name: str
    n_bytes: int
    licence: str
    state: str
    purpose: str

    def __str__(self) -> str:
        return (
            f"{self.name:<18} {self.n_bytes / 1e6:6.1f} MB  {self.licence:<11}  "
            f"{self.purpose}: {self.state}"
        )


def cache_folder() -> Path:
    """`$DMD_LIVE_CACHE`, else `$XDG_CACHE_HOME/dmd-live`, else `~/.cache/dmd-live`."""
    own = os.environ.get("DMD_LIVE_CACHE")
    if own:
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "dmd-live"


def is_here(name: str) -> bool:
    """Whether a part is in the cache or an installed package; its content is not looked at."""
    return _find(_part(name)) is not None


def resolve(name: str) -> Path:
    """The verified part: its file when it is a single one, else its folder.

    Raises ModelError when it is nowhere on this machine, or when a file has a wrong SHA-256.
    """
    part = _part(name)
    place = _find(part)
    if place is None:
        raise ModelError(f"{name} is not on this machine; get it with: {part.way_out}")
    _verify(part, place)
    return place.folder / next(iter(part.files)) if len(part.files) == 1 else place.folder


def download(name: str, progress: Progress | None = None) -> Path:
    """Fetch a part from its public address into the cache, unless it is there; returns its path.

    `progress(n_done, n_total)` is called with bytes. What was fetched appears in the cache only
    when it is complete and verified. Raises ModelError when that fails or nobody offers the part.
    """
    part = _part(name)
    if part.address is None:
        raise ModelError(f"{name} has no public address; get it with: {part.way_out}")
    target = cache_folder() / part.name
    try:
        if not _is_intact(part, target):
            _fetch_part(part, target, progress)
    except (OSError, http.client.HTTPException, zipfile.BadZipFile) as error:
        raise ModelError(
            f"{name} cannot be had from {part.address} ({error}); nothing was kept"
        ) from error
    return resolve(name)


def listing() -> list[Row]:
    """All parts and where each is, verified."""
    return [
        Row(
            name=part.name,
            n_bytes=part.n_bytes,
            licence=part.licence,
            state=_state(part),
            purpose=part.purpose,
        )
        for part in PARTS
    ]


@dataclass(frozen=True, kw_only=True)
class _Place:
    """A folder that holds a part: what to call it, and what to do if its content is wrong."""

    folder: Path
    label: str
    remedy: str


def _part(name: str) -> Part:
    for part in PARTS:
        if part.name == name:
            return part
    known = ", ".join(part.name for part in PARTS)
    raise UsageError(f"there is no pretrained part {name!r}; there are: {known}")


def _find(part: Part) -> _Place | None:
    """Where the part is: the cache comes first, so that a user can replace a damaged package."""
    cached = _cached(part, cache_folder() / part.name)
    if _holds(part, cached.folder):
        return cached
    carried = _carried(part.package) if part.package else None
    return carried if carried and _holds(part, carried.folder) else None


def _cached(part: Part, folder: Path) -> _Place:
    return _Place(
        folder=folder, label="in the cache", remedy=f"delete {folder} and run: {part.way_out}"
    )


def _carried(package: Package) -> _Place | None:
    """The part's folder in an installed package, found without importing the package."""
    root = Path(__file__).parent.parent
    if package.module:
        spec = importlib.util.find_spec(package.module)
        if spec is None or not spec.submodule_search_locations:
            return None
        root = Path(spec.submodule_search_locations[0])
    return _Place(
        folder=root / package.folder,
        label=f"in package {package.requirement}",
        remedy=f"run: pip install --force-reinstall {package.requirement}",
    )


def _holds(part: Part, folder: Path) -> bool:
    if part.archive:
        return folder.is_dir()
    return any((folder / path).exists() for path in part.files)


def _verify(part: Part, place: _Place) -> None:
    """Raises ModelError that names the first file that is missing or has a wrong SHA-256."""
    try:
        expected = part.files or sums((place.folder / _SUMS).read_text(encoding="utf-8"))
        for path, digest in expected.items():
            found = _sha256(place.folder / path)
            if found != digest:
                raise ModelError(
                    f"{place.folder / path}: SHA-256 is {found}, expected {digest}; {place.remedy}"
                )
    except (OSError, ValueError) as error:
        raise ModelError(f"{part.name} is incomplete ({error}); {place.remedy}") from error


def _is_intact(part: Part, folder: Path) -> bool:
    try:
        _verify(part, _cached(part, folder))
    except ModelError:
        return False
    return True


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _state(part: Part) -> str:
    place = _find(part)
    if place is None:
        return f"not here, get it with {part.way_out}"
    try:
        _verify(part, place)
    except ModelError as error:
        return f"DAMAGED, {error}"
    return place.label


def _fetch_part(part: Part, target: Path, progress: Progress | None) -> None:
    """Fill a temporary folder beside `target`, then put it in its place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{part.name}-", dir=target.parent) as temporary:
        fresh = Path(temporary) / part.name
        fresh.mkdir()
        if part.archive:
            zipped = Path(temporary) / "archive.zip"
            with zipped.open("wb") as out:
                _fetch(part.archive.url, part.archive.sha256, out, 0, part.n_bytes, progress)
            _unpack(zipped, fresh)
        else:
            n_done = 0
            for path, digest in part.files.items():
                with (fresh / path).open("wb") as out:
                    url = f"{part.url}{path}"
                    n_done = _fetch(url, digest, out, n_done, part.n_bytes, progress)
        if target.exists():
            shutil.rmtree(target)
        os.replace(fresh, target)


def _fetch(
    url: str, sha256: str, out: BinaryIO, n_done: int, n_total: int, progress: Progress | None
) -> int:
    """Copy what `url` answers to `out`; returns the bytes fetched so far for the whole part.

    Raises ModelError when they are more than the part has, or not those with that SHA-256.
    """
    digest = hashlib.sha256()
    # Some hosts turn away urllib's own name.
    request = urllib.request.Request(url, headers={"User-Agent": "dmd-live"})
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()  # it is also the answer, with its connection
        raise
    with answer:
        while block := answer.read(_BLOCK):
            n_done += len(block)
            if n_done > n_total:
                raise ModelError(f"{url}: sends more than the expected {n_total} bytes")
            out.write(block)
            digest.update(block)
            if progress:
                progress(n_done, n_total)
    if digest.hexdigest() != sha256:
        raise ModelError(
            f"{url}: SHA-256 is {digest.hexdigest()}, expected {sha256}; nothing was kept, "
            "the transfer broke or the file was changed"
        )
    return n_done


def _unpack(zipped: Path, folder: Path) -> None:
    """Unpack the one folder inside a zip into `folder` and write its SHA256SUMS.

    Raises ModelError for a member that would land elsewhere.
    """
    sums = {}
    with zipfile.ZipFile(zipped) as archive:
        for member in archive.infolist():
            if member.is_dir():
                continue
            path = PurePosixPath(member.filename)
            if path.is_absolute() or ".." in path.parts or len(path.parts) < 2:
                raise ModelError(f"the archive has an unsafe member, {member.filename!r}")
            inside = PurePosixPath(*path.parts[1:])
            target = folder / inside
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, target.open("wb") as out:
                shutil.copyfileobj(source, out, _BLOCK)
            sums[str(inside)] = _sha256(target)
    lines = (f"{digest}  {path}\n" for path, digest in sums.items())
    (folder / _SUMS).write_text("".join(lines), encoding="utf-8")
