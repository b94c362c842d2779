"""A trained DMD that teaches another one by soft targets.

`python -m train.teacher --checkpoint DIR --data DATA --out taught.safetensors` lets a teacher read
all sentences once and keeps the sentiment and the arousal that it finds, for `train.run --taught`.
"""

import hashlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from runtime.config import option, parse
from runtime.errors import DmdLiveError, UsageError
from runtime.features.text import TextFeatures

from . import checkpoint
from .data import corpora
from .data.labels import Text
from .data.utterance import Utterance, collate
from .loop import batched
from .metrics import sentiment_metrics
from .models.dmd import Features

__all__ = ["Options", "Taught", "Teacher", "main"]

_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Options:
    """Let a teacher of words read training sentences and keep how it rates them."""

    checkpoint: str = option(metavar="DIR", help="the teacher: what train.run wrote")
    data: str = option(metavar="DIR", help="folder of the corpora (train/data/corpora.py)")
    corpora: str = option(
        "mosi mosei emobank vader/movieReviewSnippets goemotions meld",
        metavar="NAMES",
        help="corpora whose training sentences are read",
    )
    out: str = option("taught.safetensors", metavar="FILE", help="where the ratings go")
    precision: str = option("fp32", choices=("fp32", "bf16"), help="precision of the reading")
    threads: int = option(2, metavar="N", help="threads of torch; results depend on their number")


def main() -> int:
    """Run the command; returns the exit code."""
    options = parse(Options, None, prog="python -m train.teacher")
    try:
        _read_all(options)
    except DmdLiveError as error:
        print(f"train.teacher: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ntrain.teacher: interrupted; nothing is kept", file=sys.stderr)
        return 130
    return 0


def _read_all(options: Options) -> None:
    torch.set_num_threads(options.threads)
    wanted = options.corpora.split()
    folders = {name.split("/")[0] for name in wanted}
    texts = [t for t in corpora.texts(Path(options.data), folders) if t.corpus in wanted]
    sentences = sorted(
        {text.text for text in texts if text.split == "train"},
        key=lambda text: (len(text), text),  # padding is computed too
    )
    if not sentences:
        raise UsageError(f"{options.data}: no training sentence of {options.corpora}")
    here = torch.device("cpu")
    teacher = Teacher(Path(options.checkpoint), here, options.precision, words_only=True)
    ratings = _ratings(teacher, sentences)
    out = Path(options.out)
    partial = out.with_suffix(f".{os.getpid()}.partial")
    keys = torch.tensor([_key(sentence) for sentence in sentences], dtype=torch.int64)
    save_file({"keys": keys, "ratings": ratings}, partial)
    os.replace(partial, out)
    print(f"{out}: {len(sentences)} sentences")
    for name in wanted:
        rated = [
            t for t in texts if t.corpus == name and t.split == "valid" and t.rating is not None
        ]
        if len(rated) > 1:
            print(f"{name}, {len(rated)} validation sentences: {_agreement(teacher, rated)}")


def _ratings(teacher: "Teacher", sentences: Sequence[str]) -> Tensor:
    """(n, 2): what the teacher says of each sentence."""
    parts = [teacher.read(part) for part in batched(sentences, _BATCH)]
    return torch.cat(
        [teacher.rate(part) for part in tqdm(parts, "the teacher reads", unit="batch")]
    )


def _agreement(teacher: "Teacher", rated: Sequence[Text]) -> str:
    """How far the teacher agrees with people, as words."""
    told = _ratings(teacher, [text.text for text in rated]).numpy()
    found = sentiment_metrics(told[:, 0], np.array([text.rating for text in rated]))
    arousal = np.array([float("nan") if t.arousal is None else t.arousal for t in rated])
    if not np.isnan(arousal).any():
        found["corr of arousal"] = sentiment_metrics(told[:, 1], arousal)["corr"]
    return ", ".join(f"{name} {value:.3f}" for name, value in found.items())


def _key(sentence: str) -> int:
    """63 bits that stand for a sentence."""
    return int.from_bytes(hashlib.sha256(sentence.encode()).digest()[:8], "big") >> 1


class Taught:
    """The ratings that `train.teacher` kept. Raises UsageError for a file that is not such."""

    def __init__(self, path: Path) -> None:
        try:
            found = load_file(path)
            pairs = zip(found["keys"].tolist(), found["ratings"], strict=True)
            self._known: dict[int, Tensor] = dict(pairs)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise UsageError(f"{path}: not what train.teacher wrote ({error})") from error

    def __call__(self, utterances: Sequence[Utterance]) -> Tensor:
        """(B, 2): sentiments in about [-3, 3] and arousals in [-1, 1]; NaN of utterances that are
        not words alone, or that were not read."""
        unknown = torch.full((2,), float("nan"))
        alone = [not len(u.audio) and not len(u.vision) for u in utterances]
        return torch.stack(
            [
                self._known.get(_key(u.id), unknown) if words else unknown
                for u, words in zip(utterances, alone, strict=True)
            ]
        )


class Teacher:
    """A checkpoint, frozen. Its word pieces may differ from the student's: it reads the words."""

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        precision: str = "fp32",
        *,
        words_only: bool = False,
    ) -> None:
        source = checkpoint.load(folder, words_only=words_only)
        self.model, self.calibration = source.model.to(device), source.calibration
        self._device, self._low = device, precision == "bf16"
        tokenizer = folder / "tokenizer.json"
        self._text = TextFeatures(tokenizer) if tokenizer.exists() else None
        self._told: dict[str, Tensor] = {}

    def __call__(self, utterances: Sequence[Utterance]) -> Tensor:
        """Fused outputs (B, 1 + n_emotions) on utterances that miss nothing."""
        alone = all(not len(u.audio) and not len(u.vision) for u in utterances)
        if alone and all(u.words in self._told for u in utterances):
            return torch.stack([self._told[u.words] for u in utterances])
        return self._outputs(utterances)

    def remember(self, sentences: Sequence[Utterance], path: Path) -> None:
        """Read all training sentences once, so that no later epoch has to. `path` keeps the outputs
        for a run that goes on after an interruption."""
        if not path.exists():
            parts = tqdm(list(batched(sentences, 64)), desc="the teacher reads", unit="batch")
            partial = path.with_suffix(f".{os.getpid()}.partial")
            save_file(
                {"outputs": torch.cat([self._outputs(part).cpu() for part in parts])}, partial
            )
            os.replace(partial, path)
        outputs = load_file(path)["outputs"].to(self._device)
        self._told = {u.words: row for u, row in zip(sentences, outputs, strict=True)}

    def rate(self, utterances: Sequence[Utterance]) -> Tensor:
        """(B, 2): the sentiments in about [-3, 3] and the arousals in [-1, 1]."""
        found = self._features(utterances)
        return torch.stack([found.outputs[:, 0], found.arousal.tanh()], dim=1).float()

    def _outputs(self, utterances: Sequence[Utterance]) -> Tensor:
        return self._features(utterances).outputs.float()

    @torch.no_grad()
    def _features(self, utterances: Sequence[Utterance]) -> Features:
        batch = collate([self.retold(utterance) for utterance in utterances])
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._low):
            found: Features = self.model({n: t.to(self._device) for n, t in batch.items()})
        return found

    def read(self, sentences: Sequence[str]) -> list[Utterance]:
        """Utterances of text alone."""
        config = self.model.config
        return [
            Utterance(
                text=np.zeros(0, np.int64),
                words=sentence,
                audio=np.zeros((0, config.audio_dim), np.float32),
                vision=np.zeros((0, config.vision_dim), np.float32),
                emotion=-1,
                sentiment=float("nan"),
            )
            for sentence in sentences
        ]

    def retold(self, utterance: Utterance) -> Utterance:
        """The utterance with its words in the teacher's own pieces."""
        if self._text is None or not utterance.words:
            return utterance
        return replace(utterance, text=self._text.ids(utterance.words))


if __name__ == "__main__":
    sys.exit(main())
