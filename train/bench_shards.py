"""How the shard path grows: `python -m train.bench_shards --utterances 1000000`.

Writes that many made-up utterances as `train.prepare --manifest` would (6 kB each), then opens them
and goes through one epoch as training does, without a model, in a process of its own.
"""

import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from runtime.config import option, parse
from runtime.errors import DmdLiveError, UsageError
from runtime.features.spec import SPEC
from runtime.store.bundle import DEFAULT

from . import workers
from .data.labels import EMOTIONS
from .data.shards import Item, Shards, write_index, write_items

__all__ = ["Options", "main"]

_A_SHARD = 256  # utterances, as `train.prepare` writes them
_AUDIO_ROWS, _VISION_ROWS = 10, 6  # 0.4 s: what is counted is utterances, not their length
_WORDS = ("we", "could", "not", "believe", "that", "they", "would", "take", "our", "money")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Time and memory of opening and reading shards, for a corpus of any size."""

    utterances: int = option(100_000, metavar="N", help="size of the made-up training split")
    out: str = option(
        "build/made-up", metavar="DIR", help="where they go; what is there is used again"
    )


def main() -> int:
    """Run the command; returns the exit code."""
    options = parse(Options, None, prog="python -m train.bench_shards")
    try:
        if options.utterances < _A_SHARD:
            raise UsageError(f"--utterances: {_A_SHARD} at least")
        folder = Path(options.out) / str(options.utterances)
        if not (folder / "index.json").exists():
            _make(folder, options.utterances)
        with workers.pool(1) as pool:
            print(pool.submit(_measure, folder).result())
    except (DmdLiveError, OSError) as error:
        print(f"train.bench_shards: {error}", file=sys.stderr)
        return 2
    return 0


def _make(folder: Path, n: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    names = []
    for first in tqdm(range(0, n, _A_SHARD), "made up", unit="shard"):
        names.append(f"train-{first // _A_SHARD:06d}.safetensors")
        items = [_item(rng, first + k) for k in range(min(_A_SHARD, n - first))]
        write_items(folder / names[-1], items)
    write_index(folder, {"train": names, "valid": [], "test": []}, {})


def _item(rng: np.random.Generator, number: int) -> Item:
    return Item(
        id=str(number),
        text=" ".join(rng.choice(_WORDS, 6)),
        audio=rng.random((_AUDIO_ROWS, SPEC.audio_dim), np.float32),
        vision=rng.random((_VISION_ROWS, SPEC.vision_dim), np.float32),
        sentiment=float("nan"),
        emotion=number % len(EMOTIONS),
        speaker=str(number % 1_000),
        text_from="manifest",
    )


def _measure(folder: Path) -> str:
    begun = time.perf_counter()
    corpus = Shards(folder, DEFAULT / "tokenizer.json", seed=1)
    corpus.training(0, 0)
    opened_s, early_mb = time.perf_counter() - begun, 0.0
    begun = time.perf_counter()
    for k in tqdm(range(corpus.n_training), "epoch", unit="utterance", mininterval=1.0):
        corpus.training(0, k)
        if k == corpus.n_training // 10:
            early_mb = _peak_mb()
    epoch_s = time.perf_counter() - begun
    return (
        f"{corpus.n_training} utterances: first one after {opened_s:.1f} s; epoch {epoch_s:.0f} s, "
        f"{corpus.n_training / epoch_s:.0f} a second; peak memory {_peak_mb():.0f} MB, "
        f"{_peak_mb() - early_mb:.0f} MB more than after a tenth"
    )


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    sys.exit(main())
