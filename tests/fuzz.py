"""Damaged bundles, manifests, recordings and media: none may crash or hang what reads them.

`python -m tests.fuzz --n 100000 --jobs 2 --log build/fuzz.json` runs for 14 minutes on two cores;
the test suite runs a small share. Every case follows from its seed and number: `--only NUMBER`
repeats one.
"""

import json
import multiprocessing
import re
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from tqdm import tqdm

from runtime.config import option, parse
from runtime.engines.choose import open_engine
from runtime.errors import DmdLiveError
from runtime.features.text import TextFeatures
from runtime.live import EmotionStream
from runtime.outputs.recording import Recording
from runtime.sources.file import FileSource
from runtime.store.bundle import Bundle, own_hash
from tests.export.tiny_bundle import tiny_graph, write_bundle
from train.data import manifest

__all__ = ["TARGETS", "main", "run"]

ROOT = Path(__file__).parents[1]
LONGEST_S = 20.0  # of one case; more is a hang
BATCH = 100  # cases of one process: a crash costs the rest of its batch
VALUES = [
    "0",
    "-1",
    "0.3",
    "1e999",
    "NaN",
    "null",
    "[]",
    "{}",
    '""',
    "true",
    "18446744073709551616",
]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Read damaged files and count what happens."""

    n: int = option(1_000, metavar="N", help="cases, spread over all kinds of files")
    seed: int = option(0, metavar="N", help="of the damage")
    jobs: int = option(2, metavar="N", help="processes at once")
    log: str | None = option(None, metavar="FILE", help="write the counts and failures here")
    only: int | None = option(None, metavar="NUMBER", help="run this case alone, here")


def damaged(rng: np.random.Generator, content: bytes) -> bytes:
    """A few bytes changed, a piece cut out, doubled or put in, or the end lost."""
    data = bytearray(content)
    for _ in range(int(rng.choice([1, 1, 2, 4]))):
        at = int(rng.integers(len(data) + 1))
        length = int(rng.integers(1, 64))
        match int(rng.integers(5)):
            case 0:
                data[at : at + 1] = bytes([int(rng.integers(256))])
            case 1:
                del data[at : at + length]
            case 2:
                data[at:at] = data[at : at + length]
            case 3:
                data[at:at] = rng.bytes(length)
            case _:
                del data[at:]
        if not data:
            break
    return bytes(data)


def other_values(rng: np.random.Generator, text: str) -> str:
    """JSON with some of its values exchanged for strange ones."""
    values = list(re.finditer(r'(?<=[:\[,]) ?(-?[\d.]+|"[^"\\]*"|true|false|null)', text))
    for found in sorted(
        rng.choice(len(values), min(int(rng.choice([1, 1, 3])), len(values)), replace=False)
    )[::-1]:
        span = values[found].span(1)
        text = text[: span[0]] + str(rng.choice(VALUES)) + text[span[1] :]
    return text


def read_bundle(rng: np.random.Generator, folder: Path, sources: Path) -> None:
    """A bundle with a damaged file; half of them are sealed again, so that hashes say nothing."""
    bundle = Path(shutil.copytree(sources / "bundle", folder / "bundle"))
    names = ["bundle.json", "bundle.json", "tokenizer.json", "model.fp32.onnx"]
    path = bundle / str(rng.choice(names))
    content = path.read_bytes()
    if path.suffix == ".json" and rng.random() < 0.5:
        content = other_values(rng, content.decode()).encode()
    else:
        content = damaged(rng, content)
    path.write_bytes(content)
    if rng.random() < 0.7:
        seal(bundle)
    found = Bundle.load(bundle)
    TextFeatures(found.tokenizer_json).ids("hello there")
    open_engine(found, "cpu")


def seal(folder: Path) -> None:
    """Make all hashes right again, where the description can be read."""
    import hashlib

    path = folder / "bundle.json"
    content = path.read_bytes()
    for file in ("tokenizer.json", "model.fp32.onnx"):
        sha = hashlib.sha256((folder / file).read_bytes()).hexdigest().encode()
        content = re.sub(b'("%s": ")[0-9a-f]{64}' % file.encode(), b"\\g<1>" + sha, content)
    path.write_bytes(content)
    stated, computed = own_hash(content)
    if stated:
        path.write_bytes(content.replace(stated.encode(), computed.encode()))


def read_manifest(rng: np.random.Generator, folder: Path, sources: Path) -> None:
    """A table of clips."""
    path = folder / "clips.csv"
    path.write_bytes(damaged(rng, (sources / "clips.csv").read_bytes()))
    manifest.read(path)


def read_recording(rng: np.random.Generator, folder: Path, sources: Path) -> None:
    """A recording; most lines get a right checksum again. One in ten is judged as well."""
    lines = (sources / "talk.jsonl").read_bytes().splitlines(keepends=True)
    k = int(rng.integers(len(lines)))
    body, mark, _ = lines[k].rpartition(b', "crc32": ')
    body = other_values(rng, body.decode()).encode() if rng.random() < 0.5 else damaged(rng, body)
    if rng.random() < 0.8:
        lines[k] = body + mark + f"{crc32(body)}}}\n".encode()
    else:
        lines[k] = damaged(rng, lines[k])
    path = folder / "talk.jsonl"
    path.write_bytes(b"".join(lines))
    if rng.random() < 0.1:
        with EmotionStream(replay=path) as stream:
            list(stream)
        return
    with Recording(path) as recording:
        for _ in recording.entries():
            pass


def read_media(rng: np.random.Generator, folder: Path, sources: Path) -> None:
    """A sound or video file."""
    source = sources / str(rng.choice(["talk.wav", "talk.flac", "talk.mp4", "talk.ogg"]))
    path = folder / source.name
    path.write_bytes(damaged(rng, source.read_bytes()))
    with FileSource(path) as file:
        for _ in file.packets():
            pass


Target = Callable[[np.random.Generator, Path, Path], None]
TARGETS: dict[str, Target] = {
    "bundle": read_bundle,
    "manifest": read_manifest,
    "recording": read_recording,
    "media": read_media,
}


def prepare(folder: Path) -> Path:
    """The sound files that are damaged afterwards."""
    import av

    write_bundle(folder / "bundle", tiny_graph(), ROOT / "runtime/default_bundle/tokenizer.json")
    rows = ["path,start,end,text,sentiment,emotion,speaker,split"]
    rows += [f"talk.wav,{k},{k + 1},words said,{k - 2},anger,anna,train" for k in range(5)]
    (folder / "clips.csv").write_text("\n".join(rows) + "\n")
    demo = ROOT / "runtime" / "demo" / "demo.mp4"
    with EmotionStream(file=demo, record=folder / "talk.jsonl", provisional=True, stt="none") as s:
        list(s)
    for name, codec in (("wav", "pcm_s16le"), ("flac", "flac"), ("ogg", "libopus"), ("mp4", "aac")):
        with av.open(str(demo)) as read, av.open(str(folder / f"talk.{name}"), "w") as write:
            video = write.add_stream("libx264", rate=15) if name == "mp4" else None
            if video is not None:
                video.width = video.height = 64
                video.pix_fmt = "yuv420p"
            sound = write.add_stream(codec, rate=48_000 if name == "ogg" else 16_000)
            for frame in read.decode(audio=0):
                if frame.time > 1.0:
                    break
                frame.pts = None
                write.mux(sound.encode(frame))
            write.mux(sound.encode(None))
            if video is not None:
                for k in range(15):
                    grey = np.full((64, 64, 3), 10 * k, np.uint8)
                    write.mux(video.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
                write.mux(video.encode(None))
    return folder


def case(seed: int, number: int, sources: Path) -> str:
    """What became of one case: "read", "refused", or the traceback of a failure."""
    names = list(TARGETS)
    rng = np.random.default_rng([seed, number])
    with tempfile.TemporaryDirectory() as folder:
        try:
            TARGETS[names[number % len(names)]](rng, Path(folder), sources)
        except DmdLiveError as error:
            return "refused" if "\n" not in str(error) else f"more than one line: {error!r}"
        except Exception:
            return traceback.format_exc()
    return "read"


def _work(seed: int, numbers: range, sources: Path, results: Any) -> None:
    import logging

    logging.disable(logging.CRITICAL)
    for number in numbers:
        results.put((number, "begun"))
        results.put((number, case(seed, number, sources)))


def run(n: int, seed: int, jobs: int, sources: Path) -> tuple[Counter[str], dict[int, str]]:
    """Counts by kind and outcome, and what went wrong by case."""
    spawn = multiprocessing.get_context("spawn")
    todo = [range(k, min(k + BATCH, n)) for k in range(0, n, BATCH)][::-1]
    counts: Counter[str] = Counter()
    failures: dict[int, str] = {}
    running: list[_Batch] = []
    with tqdm(total=n, unit="case", disable=not sys.stderr.isatty()) as bar:
        while todo or running:
            while todo and len(running) < jobs:
                running.append(_Batch(spawn, seed, todo.pop(), sources))
            time.sleep(0.02)
            for batch in list(running):
                for number, outcome in batch.outcomes():
                    kind = list(TARGETS)[number % len(TARGETS)]
                    fine = outcome in ("read", "refused")
                    counts[f"{kind}: {outcome if fine else 'failed'}"] += 1
                    if not fine:
                        failures[number] = outcome
                    bar.update()
                if batch.ended:
                    running.remove(batch)
                    if batch.rest:
                        todo.append(batch.rest)
    return counts, failures


class _Batch:
    """A process that reads some cases; one that dies or hangs is told by the case it was at."""

    def __init__(self, spawn: Any, seed: int, numbers: range, sources: Path) -> None:
        self._results = spawn.SimpleQueue()
        self._process = spawn.Process(
            target=_work, args=(seed, numbers, sources, self._results), daemon=True
        )
        self._process.start()
        self._numbers, self._at, self._since = numbers, None, time.monotonic()
        self.ended, self.rest = False, range(0)

    def outcomes(self) -> list[tuple[int, str]]:
        found = []
        died = not self._process.is_alive()
        while not self._results.empty():
            number, outcome = self._results.get()
            self._since = time.monotonic()
            self._at = number if outcome == "begun" else None
            if outcome != "begun":
                found.append((number, outcome))
        hangs = self._at is not None and time.monotonic() - self._since > LONGEST_S
        if hangs:
            self._process.kill()
        if died or hangs:
            self._process.join()
            self.ended = True
            if self._at is not None:
                why = "hangs" if hangs else f"ended the process ({self._process.exitcode})"
                found.append((self._at, why))
                self.rest = range(self._at + 1, self._numbers.stop)
        return found


def main() -> int:
    """Run the command; returns 1 when anything failed."""
    options = parse(Options, None, prog="python -m tests.fuzz")
    with tempfile.TemporaryDirectory() as folder:
        sources = prepare(Path(folder))
        if options.only is not None:
            print(case(options.seed, options.only, sources))
            return 0
        begun = time.monotonic()
        counts, failures = run(options.n, options.seed, options.jobs, sources)
    found = {
        "seed": options.seed,
        "cases": options.n,
        "seconds": round(time.monotonic() - begun),
        "counts": dict(sorted(counts.items())),
        "failures": failures,
    }
    print(json.dumps(found, indent=2))
    if options.log is not None:
        Path(options.log).write_text(json.dumps(found, indent=2) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
