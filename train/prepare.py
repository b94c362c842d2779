"""Extract the runtime's features from recordings once: `python -m train.prepare`."""

import hashlib
import json
import os
import sys
import zlib
from collections.abc import Collection, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.config import option, parse
from runtime.errors import DmdLiveError, UsageError
from runtime.features.appearance import Appearance
from runtime.features.audio import audio_rows
from runtime.features.embedding import no_embedding
from runtime.features.spec import SPEC
from runtime.features.vision import APPEARANCE
from runtime.speech.moonshine import Moonshine
from runtime.store import models
from runtime.system.files import write_file
from runtime.utterances.segmenter import SegmenterConfig

from .data.corpora import CORPORA, DataError, Recording, faces, missing, people, voices
from .data.crops import cached, centre, find_faces
from .data.sounds import Channel, spoken_again
from .recordings import prepare_recordings

__all__ = ["Features", "decode_audio", "joined", "prepare", "spoken"]

Float = NDArray[np.float32]

# Frames this far below the loudest one are silence. On the training speakers the cut serves as
# well as the device's own voice activity detector, at a hundredth of its time.
_SILENCE_DB = 30.0
# Part of the cache's key: raise it when this file makes other rows from the same recordings.
_VERSION = 5
_N_CHANNELS = 5  # versions of every training clip; version k of a person's clips shares a channel
_AUDIO_FIELDS = ("sample_rate_hz", "hop", "window", "n_mels", "mel_low_hz", "mel_high_hz",
                 "log_floor", "f0_low_hz", "f0_high_hz", "voicing_threshold")  # fmt: skip
_ENCODER = "moonshine-tiny-en"
_BATCH = 64  # faces that the appearance network sees at once
_PAUSE_S = 0.4  # the longest between two digits


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
    """`voices`: (recording, versions) pairs, each version raw rows (T, 43) and embedding (576,): as
    recorded, and for training as through `_N_CHANNELS` channels; `faces`: (recording, row (Dv,))
    pairs.

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


def prepare(data: Path, cache_folder: Path, only: Collection[str] = tuple(CORPORA)) -> Features:
    """Features of the recordings of these corpora below `data`, from the cache or extracted now.

    The cache is keyed by what decides an audio row and by name, size and date of every recording.
    Raises DataError, naming the file, when one cannot be read.
    """
    clips, pictures = voices(data, only), faces(data, only)
    stats = [
        (r.split, [(str(part.relative_to(data)), _stamp(part)) for part in r.parts or (r.path,)])
        for r in clips
    ]
    spec = {name: asdict(SPEC)[name] for name in _AUDIO_FIELDS}
    contract = [_VERSION, _N_CHANNELS, spec, models.is_here(_ENCODER)]
    key = hashlib.sha256(json.dumps([contract, stats]).encode()).hexdigest()[:16]
    arrays = cached(cache_folder / f"{key}.safetensors", partial(_extract, clips))
    ends = np.cumsum(arrays["audio_lengths"])
    rows = iter(
        (arrays["audio"][end - n : end], embedding)
        for end, n, embedding in zip(
            ends, arrays["audio_lengths"], arrays["embeddings"], strict=True
        )
    )
    versions = [[next(rows) for _ in range(n)] for n in arrays["n_versions"]]
    vision = _vision_rows(pictures, cache_folder)
    return Features(
        voices=list(zip(clips, versions, strict=True)),
        faces=[(r, row) for r, row in zip(pictures, vision, strict=True) if row[-1] > 0],
        n_faceless=int((vision[:, -1] == 0).sum()),
    )


def decode_audio(path: Path) -> Float:
    """(n,) float32 samples in [-1, 1] at 16 kHz mono of any audio file."""
    import av

    try:
        with av.open(str(path)) as container:
            resampler = av.AudioResampler("flt", "mono", SPEC.sample_rate_hz)
            frames = [
                resampled.to_ndarray()[0]
                for frame in (*container.decode(audio=0), None)
                for resampled in resampler.resample(frame)
            ]
    except (OSError, IndexError, ValueError) as error:
        raise DataError(f"{path}: cannot be decoded ({error}); replace or remove it") from error
    return np.concatenate([np.zeros(0, np.float32), *frames])


def spoken(samples: Float) -> Float:
    """(n,) samples in [-1, 1] without the silence before and after speech, but for the device's
    padding. Acted clips have a second of it, which an utterance cut by the device never has."""
    frames = samples[: len(samples) // SPEC.hop * SPEC.hop].reshape(-1, SPEC.hop)
    power = frames.var(axis=1)
    if not power.any():
        return samples
    loud = np.flatnonzero(power > power.max() * 10.0 ** (-_SILENCE_DB / 10.0))
    pad = round(SegmenterConfig().pad_s * SPEC.sample_rate_hz)
    return samples[max(0, loud[0] * SPEC.hop - pad) : (loud[-1] + 1) * SPEC.hop + pad]


def _extract(clips: Sequence[Recording]) -> dict[str, NDArray[Any]]:
    # Spawned, not forked: the parent may hold threads of torch.
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        results = pool.map(_versions, clips, chunksize=8)
        audio = list(tqdm(results, desc="audio rows", total=len(clips), unit="clip"))
    every = [rows for versions in audio for rows, _ in versions]
    embeddings = [embedding for versions in audio for _, embedding in versions]
    return {
        "audio": np.concatenate([np.zeros((0, SPEC.audio_dim), np.float32), *every]),
        "audio_lengths": np.array([len(rows) for rows in every], np.int64),
        "embeddings": np.array(embeddings, np.float32).reshape(-1, SPEC.audio_embedding_dim),
        "n_versions": np.array([len(versions) for versions in audio], np.int64),
    }


def _versions(clip: Recording) -> list[tuple[Float, Float]]:
    """Raw rows (T, 43) and embedding (576,) of a clip as it was recorded and, of a training one,
    through channels."""
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
    return [(audio_rows(version[:most]), _embedding(version[:most])) for version in versions]


def _embedding(samples: Float) -> Float:
    """(576,) of (n,) samples; zeros on a machine without the recogniser."""
    encoder = _encoder()
    return no_embedding() if encoder is None else encoder.embed(samples)


@cache
def _encoder() -> Moonshine | None:
    return Moonshine(models.resolve(_ENCODER)) if models.is_here(_ENCODER) else None


def joined(rng: np.random.Generator, clip: Recording) -> Float:
    """(n,) samples of a clip, or of its parts with short pauses, or none, between them."""
    pieces: list[Float] = []
    for part in clip.parts or (clip.path,):
        pause_s = max(0.0, rng.uniform(-0.15, _PAUSE_S)) if pieces else 0.0
        # Not silence: what the microphone hears of a room when nobody speaks.
        samples = decode_audio(part)
        level = 1e-6 + (float(np.abs(samples[:160]).mean()) if len(samples) else 0.0)
        quiet = rng.normal(0.0, level, round(pause_s * SPEC.sample_rate_hz))
        pieces += [quiet.astype(np.float32), samples]
    return np.concatenate(pieces)


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


def _stamp(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


if __name__ == "__main__":
    sys.exit(main())
