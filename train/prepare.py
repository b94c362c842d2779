"""Extract the runtime's features from recordings once: `python -m train.prepare`."""

import hashlib
import os
import sys
import zlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from itertools import repeat
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.config import option, parse
from runtime.errors import DmdLiveError, UsageError
from runtime.features.appearance import Appearance
from runtime.features.audio import audio_rows
from runtime.features.embedding import EMBEDDING_DIM, no_embedding
from runtime.features.spec import SPEC
from runtime.features.vision import APPEARANCE
from runtime.speech.moonshine import Moonshine
from runtime.store import models
from runtime.system.files import write_file

from . import workers
from .data.corpora import CORPORA, DataError, Recording, faces, missing, people, voices
from .data.crops import cached, centre, content_key, find_faces
from .data.sounds import Channel, joined, spoken, spoken_again
from .recordings import prepare_recordings

__all__ = ["Features", "prepare"]

Float = NDArray[np.float32]
Made = TypeVar("Made")

# Part of the cache's key: raise it when this file makes other rows from the same recordings.
_VERSION = 4
_N_CHANNELS = 5  # versions of every training clip; version k of a person's clips shares a channel
_AUDIO_FIELDS = ("sample_rate_hz", "hop", "window", "n_mels", "mel_low_hz", "mel_high_hz",
                 "log_floor", "f0_low_hz", "f0_high_hz", "voicing_threshold")  # fmt: skip
_ENCODER = "moonshine-tiny-en"
_BATCH = 64  # faces that the appearance network sees at once


@dataclass(frozen=True, kw_only=True)
class Options:
    """Extract the runtime's features once: of your own recordings, or of the corpora.

    --manifest: a table of clips (columns: train/data/manifest.py) becomes shards to train on with
    --data-format shards. Killed, the same command goes on. --data: the folder of the corpora of
    train/data/corpora.py becomes a cache that train.run finds.
    """

    manifest: str | None = option(None, metavar="CSV", help="table of your own recordings")
    data: str | None = option(None, metavar="DIR", help="folder of the corpora")
    out: str = option("build/features", metavar="DIR", help="where the features go")
    stt: str = option(
        "auto",
        choices=("auto", "vosk", "moonshine", "none"),
        help="speech-to-text for clips without text",
    )
    workers: int = option(os.cpu_count() or 1, metavar="N", help="number of processes")
    ray: str | None = option(
        None,
        metavar="ADDRESS",
        help="use a Ray cluster: its address, auto, or local; its machines need this checkout, "
        "the recordings and --out under the same paths",
    )
    skip_missing: bool = option(False, help="go on without missing files")


@dataclass(frozen=True)
class Features:
    """`voices`: (recording, versions) pairs, each version raw rows (T, 43): as recorded, and for
    training as through `_N_CHANNELS` channels; with the embedding (576,) of each, zeros where it
    was not asked for; `faces`: (recording, row (Dv,)) pairs.

    `n_faceless`: pictures in which no face was found; they are left out.
    """

    voices: list[tuple[Recording, list[tuple[Float, Float]]]]
    faces: list[tuple[Recording, Float]]
    n_faceless: int


def main() -> int:
    """Run the command; returns the exit code."""
    options = parse(Options, None, prog="python -m train.prepare")
    try:
        if (options.manifest is None) == (options.data is None):
            raise UsageError("pass either --manifest CSV or --data DIR")
        if options.manifest is not None:
            prepare_recordings(
                Path(options.manifest),
                Path(options.out),
                stt=options.stt,
                n_workers=options.workers,
                ray=options.ray,
                skip_missing=options.skip_missing,
            )
            return 0
        data = Path(options.data or "")
        for line in missing(data):
            print(f"train.prepare: warning: {line}", file=sys.stderr)
        found = prepare(data, Path(options.out))
        _write_splits(data, Path(options.out) / "splits.csv")
    except DmdLiveError as error:
        print(f"train.prepare: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ntrain.prepare: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    print(
        f"{len(found.voices)} clips, {len(found.faces)} faces, "
        f"{found.n_faceless} pictures without a face"
    )
    return 0


def _write_splits(data: Path, path: Path) -> None:
    """Who is in which split, as a table: corpus, person, split."""
    rows = [("corpus", "person", "split"), *people(data)]
    write_file(path, "".join(",".join(row) + "\n" for row in rows).encode())


def prepare(
    data: Path,
    cache_folder: Path,
    only: Collection[str] = tuple(CORPORA),
    *,
    embeddings: bool = False,
) -> Features:
    """Features of the recordings of these corpora below `data`, from the cache or extracted now.

    `embeddings`: also what the recogniser's encoder makes of the voices.

    The cache is keyed by what decides an audio row and by name and content of every recording.
    Raises DataError, naming the file, when one cannot be read.
    """
    clips, pictures = voices(data, only), faces(data, only)
    files = (
        (f"{k} {clip.split} {part.relative_to(data)}", part)
        for k, clip in enumerate(clips)
        for part in clip.parts or (clip.path,)
    )
    contract = [_VERSION, _N_CHANNELS, {name: asdict(SPEC)[name] for name in _AUDIO_FIELDS}]
    key = content_key(contract, files)
    arrays = cached(cache_folder / f"{key}.safetensors", partial(_extract, clips))
    ends = np.cumsum(arrays["audio_lengths"])
    heard: Iterable[Float] = repeat(no_embedding(), len(ends))
    if embeddings:
        name = f"heard-{key}-{_ENCODER}.safetensors"
        heard = cached(cache_folder / name, partial(_hear, clips))["embeddings"]
    rows = (
        (arrays["audio"][end - n : end], embedding)
        for end, n, embedding in zip(ends, arrays["audio_lengths"], heard, strict=True)
    )
    versions = [[next(rows) for _ in range(n)] for n in arrays["n_versions"]]
    vision = _vision_rows(pictures, cache_folder)
    return Features(
        voices=list(zip(clips, versions, strict=True)),
        faces=[(r, row) for r, row in zip(pictures, vision, strict=True) if row[-1] > 0],
        n_faceless=int((vision[:, -1] == 0).sum()),
    )


def _extract(clips: Sequence[Recording]) -> dict[str, NDArray[Any]]:
    audio = _of_each(_rows, clips, "audio rows")
    every = [rows for versions in audio for rows in versions]
    return {
        "audio": np.concatenate([np.zeros((0, SPEC.audio_dim), np.float32), *every]),
        "audio_lengths": np.array([len(rows) for rows in every], np.int64),
        "n_versions": np.array([len(versions) for versions in audio], np.int64),
    }


def _hear(clips: Sequence[Recording]) -> dict[str, NDArray[Any]]:
    models.resolve(_ENCODER)  # that it is not here is told now
    heard = _of_each(_embeddings_of, clips, "voices heard")
    every = [embedding for versions in heard for embedding in versions]
    return {"embeddings": np.array(every, np.float32).reshape(-1, EMBEDDING_DIM)}


def _of_each(
    make: Callable[[Recording], Made], clips: Sequence[Recording], name: str
) -> list[Made]:
    with workers.pool() as pool:
        results = pool.map(make, clips, chunksize=8)
        return list(tqdm(results, desc=name, total=len(clips), unit="clip"))


def _rows(clip: Recording) -> list[Float]:
    """Raw rows (T, 43) of each version of a clip."""
    return [audio_rows(samples) for samples in _versions(clip)]


def _embeddings_of(clip: Recording) -> list[Float]:
    """The embedding (576,) of each version of a clip."""
    return [_encoder().embed(samples) for samples in _versions(clip)]


@cache
def _encoder() -> Moonshine:
    return Moonshine(models.resolve(_ENCODER))


def _versions(clip: Recording) -> list[Float]:
    """(n,) samples of a clip as it was recorded and, of a training one, through channels."""
    rng = np.random.default_rng(zlib.crc32(str((clip.path.name, len(clip.parts))).encode()))
    samples = spoken(joined(rng, clip))
    if len(samples) < SPEC.window:
        raise DataError(f"{clip.path}: shorter than one window of {SPEC.window} samples; remove it")
    versions = [samples]
    if clip.split == "train":
        person = zlib.crc32(f"{clip.corpus}/{clip.person}".encode())
        versions += [
            Channel((person, k)).through(spoken_again(rng, samples)) for k in range(_N_CHANNELS)
        ]
    most = round(SPEC.max_utterance_s * SPEC.sample_rate_hz)
    return [version[:most] for version in versions]


def _vision_rows(pictures: Sequence[Recording], cache_folder: Path) -> Float:
    """(n, Dv) rows of pictures, all zeros where no face was found."""
    if not pictures:
        return np.zeros((0, SPEC.vision_dim), np.float32)
    crops = find_faces([r.path for r in pictures], cache_folder)
    rows, found = crops.rows.copy(), np.flatnonzero(crops.found)
    key = hashlib.sha256(crops.grey[found].tobytes() + SPEC.appearance_sha256.encode())
    seen = cached(
        cache_folder / f"seen-{key.hexdigest()[:16]}.safetensors",
        lambda: {"embeddings": _embeddings(centre(crops.grey[found]))},
    )
    first = len(SPEC.blendshapes) + len(SPEC.head_pose)
    rows[found, first : first + SPEC.appearance_dim] = seen["embeddings"]
    return rows


def _embeddings(grey: NDArray[np.uint8]) -> Float:
    """(n, 32) of aligned faces (n, 48, 48)."""
    network = Appearance(APPEARANCE)
    parts = [
        network.embeddings(grey[k : k + _BATCH])
        for k in tqdm(range(0, len(grey), _BATCH), "appearance", unit="batch")
    ]
    return np.concatenate([np.zeros((0, SPEC.appearance_dim), np.float32), *parts])


if __name__ == "__main__":
    sys.exit(main())
