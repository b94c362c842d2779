"""Features on disk in shards, read one shard at a time: a corpus may be larger than memory."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from runtime.features.embedding import no_embedding
from runtime.features.normal import SpeechStatistics
from runtime.features.spec import SPEC
from runtime.features.text import TextFeatures

from ..provenance import write_json
from .corpora import DataError
from .utterance import Utterance

__all__ = ["Item", "Shards", "read_items", "write_index", "write_items"]

Float = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Item:
    """One utterance as it is stored: `audio` (Ta, 43) raw, `audio_embedding` (576,), `vision`
    (Tv, Dv) float32, its labels (`emotion` -1, `sentiment` NaN: unknown), and where its text is
    from (manifest or stt)."""

    id: str
    text: str
    audio: Float
    vision: Float
    sentiment: float
    emotion: int
    speaker: str
    text_from: str
    audio_embedding: Float = field(default_factory=no_embedding)


def write_items(path: Path, items: Sequence[Item]) -> None:
    """Write one file under a temporary name, then rename. Equal items give equal bytes."""
    told = [
        {"id": i.id, "text": i.text, "speaker": i.speaker, "text_from": i.text_from} for i in items
    ]
    content = save(
        {
            "audio": np.concatenate([i.audio for i in items]),
            "audio_lengths": np.array([len(i.audio) for i in items], np.int64),
            "audio_embedding": np.stack([i.audio_embedding for i in items]),
            "vision": np.concatenate([i.vision for i in items]),
            "vision_lengths": np.array([len(i.vision) for i in items], np.int64),
            "sentiment": np.array([i.sentiment for i in items], np.float32),
            "emotion": np.array([i.emotion for i in items], np.int64),
        },
        metadata={"items": json.dumps(told, ensure_ascii=False)},
    )
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_bytes(content)
    os.replace(partial, path)


def read_items(path: Path) -> list[Item]:
    """All items of a file. Raises DataError that names the file, and the item that holds NaN."""
    try:
        with safe_open(path, framework="numpy") as file:
            told = json.loads((file.metadata() or {})["items"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        rows = {
            m: np.split(arrays[m], np.cumsum(arrays[f"{m}_lengths"])[:-1])
            for m in ("audio", "vision")
        }
        items = [
            Item(
                **about,
                audio=rows["audio"][k],
                audio_embedding=arrays["audio_embedding"][k],
                vision=rows["vision"][k],
                sentiment=float(arrays["sentiment"][k]),
                emotion=int(arrays["emotion"][k]),
            )
            for k, about in enumerate(told)
        ]
    except (OSError, SafetensorError, KeyError, IndexError, ValueError, TypeError) as error:
        raise DataError(f"{path}: damaged ({error}); run train.prepare again") from error
    for item in items:
        parts = item.audio, item.audio_embedding, item.vision
        if not all(np.isfinite(part).all() for part in parts):
            raise DataError(f"{path}: utterance {item.id} holds NaN or infinite features")
    return items


def write_index(folder: Path, shards: dict[str, list[str]], about: dict[str, Any]) -> None:
    """`index.json`: the files of each split with their sizes and hashes; written last."""
    listed = {
        split: [
            {
                "file": name,
                "n": len(read_items(folder / name)),
                "bytes": (folder / name).stat().st_size,
                "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest(),
            }
            for name in names
        ]
        for split, names in shards.items()
    }
    index = {"feature_spec_sha256": SPEC.sha256(), "shards": listed, **about}
    write_json(folder / "index.json", index)


class Shards:
    """A folder that `train.prepare --manifest` wrote, as a `Corpus`.

    An epoch goes through the shards in an order of its own, and through each shard in another; so
    no more than two shards are in memory. Raises DataError for a folder or shard that is damaged.
    """

    def __init__(self, folder: Path, tokenizer_json: Path, *, seed: int) -> None:
        self._folder, self._seed = folder, seed
        self._text = TextFeatures(tokenizer_json)
        try:
            index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
            self._shards: dict[str, list[dict[str, Any]]] = index["shards"]
            spec = index["feature_spec_sha256"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{folder}: no complete index.json; run python -m train.prepare --manifest"
            ) from error
        if spec != SPEC.sha256():
            raise DataError(f"{folder}: made with another feature spec; prepare it again")
        for shard in (shard for shards in self._shards.values() for shard in shards):
            path = folder / shard["file"]
            size = path.stat().st_size if path.exists() else -1
            if size != shard["bytes"]:
                found = "missing" if size < 0 else f"{size} bytes"
                raise DataError(
                    f"{path}: {found}, but index.json says {shard['bytes']} bytes; prepare it again"
                )
        self._counts = np.array([shard["n"] for shard in self._shards["train"]], np.int64)
        self.n_training = int(self._counts.sum())
        self._open = lru_cache(maxsize=2)(self._read)
        self._order = lru_cache(maxsize=2)(self._epoch_order)

    def training(self, epoch: int, index: int) -> Utterance:
        """Utterance `index` of an epoch."""
        order, ends = self._order(epoch)
        at = int(np.searchsorted(ends, index, side="right"))
        shard = int(order[at])
        begin = int(ends[at - 1]) if at else 0
        inside = np.random.default_rng((self._seed, epoch, shard)).permutation(self._counts[shard])
        return self._utterance(self._open("train", shard)[int(inside[index - begin])])

    def held_out(self, split: str) -> "_Split":
        """A split in order, shard by shard, each time it is gone through."""
        return _Split(self, split)

    def stream(self, split: str) -> Iterator[Utterance]:
        """The utterances of a split in order."""
        for shard in range(len(self._shards[split])):
            for item in self._open(split, shard):
                yield self._utterance(item)

    def _epoch_order(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        order = np.random.default_rng((self._seed, epoch)).permutation(len(self._counts))
        return order, np.cumsum(self._counts[order])

    def _read(self, split: str, shard: int) -> list[Item]:
        return read_items(self._folder / self._shards[split][shard]["file"])

    def _utterance(self, item: Item) -> Utterance:
        ids = self._text.ids(item.text) if item.text else np.zeros(0, np.int64)
        if len(ids) > SPEC.max_pieces:
            raise DataError(
                f"{self._folder}: utterance {item.id} has {len(ids)} word pieces, at most "
                f"{SPEC.max_pieces} fit; split it in the manifest"
            )
        return Utterance(
            text=ids,
            words=item.text,
            # Each as a session's first utterance: nobody knows who spoke before.
            audio=SpeechStatistics().normalise(item.audio),
            audio_embedding=item.audio_embedding,
            vision=item.vision,
            emotion=item.emotion,
            sentiment=item.sentiment,
            id=item.id,
        )


@dataclass(frozen=True)
class _Split:
    """A split that can be gone through again and again."""

    shards: Shards
    name: str

    def __iter__(self) -> Iterator[Utterance]:
        return self.shards.stream(self.name)
