"""From one's own recordings to shards of features, by the runtime's own code.

Every clip becomes a file of its own below `parts/`, so that a run that was killed goes on where it
was; the shards are put together from them at the end, in the order of the manifest, so that they
are the same however often it was killed.
"""

import csv
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from runtime.errors import DmdLiveError, UsageError
from runtime.features.spec import SPEC
from runtime.features.text import TextFeatures
from runtime.features.vision import VisionFeatures
from runtime.sources.base import AudioChunk, Packet
from runtime.sources.file import FileSource
from runtime.speech import open_recogniser
from runtime.speech.base import SpeechToText
from runtime.speech.understood import sensible
from runtime.speech.vad import VoiceActivity
from runtime.store import models
from runtime.store.bundle import DEFAULT
from runtime.utterances.segmenter import Segment, Segmenter
from runtime.utterances.timeline import ALONE, Timeline, alone

from .data import manifest
from .data.corpora import SPLITS, DataError
from .data.manifest import Clip
from .data.shards import Item, read_items, write_index, write_items

__all__ = ["extract", "prepare_recordings"]

_PER_SHARD = 256
_KILLED = "its decoding killed the process"
_VERSION = 1  # part of every part's name: raise it when this file makes other rows


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
        raise DataError(f"{table}: {found.missing[0]}{more}; mend it, or pass --skip-missing")
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


def extract(clip: Clip, speech_to_text: SpeechToText | None) -> list[Item]:
    """The utterances of a clip: one, or with speech-to-text, as the device would cut it, several
    where it is longer than an utterance may be. Raises DmdLiveError when it holds none."""
    with FileSource(clip.path) as source:
        timeline, cut = Timeline(), _Cutter()
        end_s, items = clip.start_s, []
        for packet in _inside(source.packets(), clip):
            if isinstance(packet, AudioChunk):
                timeline.add_audio(packet.start_s, packet.samples)
                end_s = max(end_s, packet.start_s + len(packet.samples) / SPEC.sample_rate_hz)
                if not clip.text:
                    for segment in cut.push(packet):
                        items += _item(clip, segment, timeline, speech_to_text)
            else:
                timeline.add_vision(packet.time_s, alone(_networks().row(packet.rgb)))
                end_s = max(end_s, packet.time_s)
    whole = Segment(clip.start_s, min(end_s, clip.end_s))
    if whole.end_s - whole.start_s <= SPEC.max_utterance_s:
        return _item(clip, whole, timeline, speech_to_text)
    if clip.text:
        raise DataError(
            f"{end_s - clip.start_s:.1f} s long: an utterance has at most "
            f"{SPEC.max_utterance_s:g} s; split it, or leave its text empty"
        )
    for segment in cut.flush():
        items += _item(clip, segment, timeline, speech_to_text)
    if not items:
        raise DataError("nobody speaks in it")
    return items


class _Cutter:
    """Finds utterances as the device does."""

    def __init__(self) -> None:
        self._voice = VoiceActivity()
        self._segmenter: Segmenter | None = None
        self._rest = np.zeros(0, np.float32)

    def push(self, chunk: AudioChunk) -> list[Segment]:
        size = VoiceActivity.CHUNK
        if self._segmenter is None:
            self._segmenter = Segmenter(size / SPEC.sample_rate_hz, chunk.start_s)
        samples = np.concatenate([self._rest, chunk.samples])
        n = len(samples) // size * size
        self._rest = samples[n:]
        found = [
            self._segmenter.push(self._voice.probability(piece))
            for piece in samples[:n].reshape(-1, size)
        ]
        return [segment for segment in found if segment is not None]

    def flush(self) -> list[Segment]:
        last = self._segmenter.flush() if self._segmenter else None
        return [last] if last else []


def _inside(packets: Iterator[Packet], clip: Clip) -> Iterator[Packet]:
    """What lies between the clip's start and end; chunks of sound are trimmed."""
    for packet in packets:
        if not isinstance(packet, AudioChunk):
            if clip.start_s <= packet.time_s < clip.end_s:
                yield packet
            continue
        if packet.start_s >= clip.end_s:
            return
        begin, end = (
            max(0, round((t - packet.start_s) * SPEC.sample_rate_hz))
            for t in (clip.start_s, min(clip.end_s, packet.start_s + 60.0))
        )
        samples = packet.samples[begin:end]
        if len(samples):
            yield AudioChunk(start_s=packet.start_s + begin / SPEC.sample_rate_hz, samples=samples)


def _item(
    clip: Clip, segment: Segment, timeline: Timeline, speech_to_text: SpeechToText | None
) -> list[Item]:
    samples = timeline.samples(segment.start_s, segment.end_s)
    text = clip.text
    if not text and speech_to_text is not None and len(samples):
        heard = speech_to_text.transcribe(samples, segment.start_s)
        words = sensible(heard, _tokenizer(), segment.end_s - segment.start_s).words
        text = " ".join(word.text for word in words)
    n_pieces = len(_tokenizer().ids(text)) if text else 0
    if n_pieces > SPEC.max_pieces:
        raise DataError(f"{n_pieces} word pieces of text; {SPEC.max_pieces} fit; split the clip")
    audio = np.zeros((0, SPEC.audio_dim), np.float32)
    if len(samples):
        audio = timeline.audio_rows(segment.start_s, segment.end_s)
    vision = timeline.vision_rows(segment.start_s, segment.end_s, ALONE)
    if not vision[:, -1].any():  # no face: absent, as on the device
        vision = vision[:0]
    if not (text or len(audio) or len(vision)):
        raise DataError("neither words, sound nor a face in it")
    return [
        Item(
            id=f"{clip.path.stem}_{segment.start_s:.3f}_{segment.end_s:.3f}",
            text=text,
            audio=audio,
            vision=vision,
            sentiment=clip.sentiment,
            emotion=clip.emotion,
            speaker=clip.speaker,
            text_from="manifest" if clip.text else "stt",
        )
    ]


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
        # Spawned, not forked: the parent may hold threads of its own.
        with ProcessPoolExecutor(n_workers, get_context("spawn")) as pool:
            futures = {pool.submit(_do, task): task for task in todo}
            for future in as_completed(futures):
                future.result()
                done.add(futures[future][1])
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
        raise DataError(f"no clip could be used; the first: {failures[0]['reason']}")
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
    content = [_VERSION, SPEC.sha256(), stt, row, stat.st_size, stat.st_mtime_ns]
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
def _networks() -> VisionFeatures:
    return VisionFeatures(models.resolve("face-landmarker"))


@cache
def _recogniser(stt: str) -> SpeechToText | None:
    return open_recogniser(stt)


@cache
def _tokenizer() -> TextFeatures:
    return TextFeatures(DEFAULT / "tokenizer.json")
