"""Train a DMD model: `python -m train.run --config configs/quick.toml --data DIR`.

Reads top to bottom: features once, utterances composed anew every epoch, early stopping on the
validation split, calibration, one look at the test split, a checkpoint. Interrupted at any moment,
the same command goes on after the last finished epoch and ends with the same result.
"""

import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from runtime.config import option, parse
from runtime.errors import DmdLiveError, UsageError
from runtime.features.spec import MODALITIES

from . import checkpoint, config
from .config import Config
from .data import corpora
from .data.compose import Composer, Utterance, collate
from .loop import SUBSETS, Batch, batched, evaluate, keep, optimiser, predict, train_epoch
from .losses import TrainingDMD
from .metrics import fit_temperature
from .models.dmd import DMD
from .models.language import load_pretrained, locate
from .prepare import prepare
from .provenance import commit

__all__ = ["Options", "main", "train"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train a DMD model on utterances composed from text, audio and face corpora."""

    data: str = option(metavar="DIR", help="folder of the corpora (layout: train/data/corpora.py)")
    config: str = option("configs/quick.toml", metavar="FILE", help="TOML file with all options")
    out: str = option("checkpoint", metavar="DIR", help="where the checkpoint goes")
    cache: str = option("build/features", metavar="DIR", help="extracted features, made once")
    seed: int | None = option(None, metavar="N", help="instead of the configuration's seed")
    device: str = option("cpu", help="cpu, cuda or cuda:N")
    set: str | None = option(
        None, metavar="K=V;K=V", help="override options, such as optim.epochs=2;model.dim=32"
    )
    restart: bool = option(False, help="forget an interrupted or finished run in --out")


def main() -> int:
    """Run the command; returns the exit code."""
    options = parse(Options, None, prog="python -m train.run")
    try:
        overrides = tuple(filter(None, (options.set or "").split(";")))
        train(config.load(Path(options.config), overrides, options.seed), options)
    except (DmdLiveError, FloatingPointError) as error:
        print(f"train.run: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ntrain.run: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def train(settings: Config, options: Options) -> None:
    """Train, calibrate, test and write the checkpoint. Raises DmdLiveError for a user's mistake."""
    started = time.monotonic()
    out, optim = Path(options.out), settings.optim
    device = _device(options.device)
    state = _State.open(out, settings, options.restart)
    torch.use_deterministic_algorithms(True)

    texts = corpora.texts(Path(options.data))
    features = prepare(Path(options.data), Path(options.cache))
    tokenizer = Path(locate(settings.model.language)) / "tokenizer.json"
    if not tokenizer.exists():
        tokenizer = _download_tokenizer(settings.model.language, out)
    composer = Composer(texts, features, tokenizer, settings.data, settings.seed)

    torch.manual_seed(settings.seed)
    language = load_pretrained(
        settings.model.language,
        settings.model.language_layers,
        freeze_words=settings.model.freeze_word_embeddings,
    )
    dmd = DMD(settings.model, language, len(corpora.EMOTIONS))
    dmd.fit_normalisation(collate([composer.training(0, k) for k in range(400)]))
    model = TrainingDMD(dmd, settings).to(device)
    n_batches = settings.data.utterances_per_epoch // optim.batch_size
    adam, schedule = optimiser(model, optim, optim.epochs * n_batches)
    state.restore(model, adam, schedule)

    valid = composer.held_out("valid", settings.data.n_valid)
    for epoch in range(state.epoch, optim.epochs):
        if epoch - state.best_epoch > optim.patience:
            break
        # Dropout follows from the epoch alone, so that a resumed run is the same run.
        torch.manual_seed(settings.seed * 1_000 + epoch)
        batches = tqdm(
            _training_batches(composer, epoch, n_batches, optim.batch_size),
            desc=f"epoch {epoch + 1} of {optim.epochs}",
            total=n_batches,
            unit="batch",
        )
        losses = train_epoch(model, batches, adam, schedule, optim.clip_norm)
        score, scores = _validate(dmd, valid)
        state.finish_epoch(epoch, score, {"losses": losses, "valid": scores}, model, adam, schedule)
        shown = " ".join(f"{name} {value:.3f}" for name, value in scores.items())
        print(f"  loss {losses['total']:.3f}  macro-F1 on validation: {shown}", flush=True)

    state.restore_best(dmd)
    _calibrate(dmd, valid)
    test = composer.held_out("test", settings.data.n_test)
    rated = composer.rated("test", settings.data.n_test)
    metrics = {"valid": _table(dmd, valid), "test": _table(dmd, test)}
    metrics["test"]["rated text"] = _score(dmd, rated)
    recordings = [recording for recording, _ in (*features.voices, *features.faces)]
    about_data = {
        "corpora": sorted({t.corpus for t in texts} | {r.corpus for r in recordings}),
        "weak_sentiment": composer.sentiment_of.tolist(),
        "n_texts_too_long": composer.n_too_long,
        "n_texts_without_words": composer.n_wordless,
        "n_pictures_without_face": features.n_faceless,
    }
    info = {
        "emotions": list(corpora.EMOTIONS),
        "commit": state.commit,
        "metrics": metrics,
        "best_epoch": state.best_epoch + 1,
        "history": state.history,
        "data": about_data,
        "n_parameters": sum(p.numel() for p in dmd.parameters()),
        "seconds": round(time.monotonic() - started, 1),
    }
    checkpoint.save(out, dmd, settings, tokenizer, info)
    state.close()
    _print_table(metrics["test"])
    seconds = time.monotonic() - started
    print(f"{out} written after {seconds:.0f} s (best epoch {state.best_epoch + 1})")


@dataclass
class _State:
    """What an interrupted run needs to go on: files in `out/state`, gone when it is finished."""

    folder: Path
    identity: str
    commit: str  # of the code that the run began with
    epoch: int = 0
    best_epoch: int = -1
    best_score: float = -1.0
    history: list[dict[str, Any]] | None = None
    loaded: dict[str, Any] | None = None

    @classmethod
    def open(cls, out: Path, settings: Config, restart: bool) -> "_State":
        """The state in `out`; raises UsageError when it belongs to another configuration."""
        state = cls(out / "state", settings.sha256(), commit(), history=[])
        if restart:
            shutil.rmtree(state.folder, ignore_errors=True)
        elif (out / "checkpoint.json").exists() and not state.folder.exists():
            raise UsageError(f"{out}: holds a finished run; take another --out, or --restart")
        path = state.folder / "last.pt"
        if path.exists():
            state.loaded = torch.load(path, map_location="cpu", weights_only=True)
            if state.loaded["identity"] != state.identity:
                raise UsageError(
                    f"{out}: holds an interrupted run of another configuration; finish that one, "
                    "take another --out, or --restart"
                )
            for name in ("commit", "epoch", "best_epoch", "best_score", "history"):
                setattr(state, name, state.loaded[name])
            print(f"going on after epoch {state.epoch}")
        state.folder.mkdir(parents=True, exist_ok=True)
        return state

    def restore(self, model: TrainingDMD, adam: Any, schedule: Any) -> None:
        """Load what was saved, if anything was."""
        if self.loaded is not None:
            model.load_state_dict(self.loaded["model"])
            adam.load_state_dict(self.loaded["adam"])
            schedule.load_state_dict(self.loaded["schedule"])
            self.loaded = None

    def finish_epoch(
        self,
        epoch: int,
        score: float,
        record: dict[str, Any],
        model: TrainingDMD,
        adam: Any,
        schedule: Any,
    ) -> None:
        """Save the end of an epoch; `last.pt` is renamed last, so that it vouches for the rest."""
        assert self.history is not None
        self.history.append({"epoch": epoch + 1, "score": score, **record})
        self.epoch = epoch + 1
        if score > self.best_score:
            self.best_epoch, self.best_score = epoch, score
            weights = {name: t.contiguous() for name, t in model.dmd.state_dict().items()}
            save_file(weights, self.folder / f"best-{epoch}.safetensors")
        partial = self.folder / "last.pt.partial"
        torch.save(
            {
                "identity": self.identity,
                "commit": self.commit,
                "epoch": self.epoch,
                "best_epoch": self.best_epoch,
                "best_score": self.best_score,
                "history": self.history,
                "model": model.state_dict(),
                "adam": adam.state_dict(),
                "schedule": schedule.state_dict(),
            },
            partial,
        )
        os.replace(partial, self.folder / "last.pt")
        for old in self.folder.glob("best-*.safetensors"):
            if old.name != f"best-{self.best_epoch}.safetensors":
                old.unlink()

    def restore_best(self, dmd: DMD) -> None:
        """Load the weights of the best epoch."""
        dmd.load_state_dict(load_file(self.folder / f"best-{self.best_epoch}.safetensors"))

    def close(self) -> None:
        """The checkpoint is written: the state is no longer needed."""
        shutil.rmtree(self.folder)


def _training_batches(composer: Composer, epoch: int, n: int, size: int) -> Iterator[Batch]:
    for k in range(n):
        yield collate([composer.training(epoch, k * size + i) for i in range(size)])


def _batches(utterances: list[Utterance]) -> Iterator[Batch]:
    return (collate(part) for part in batched(utterances, 64))


def _validate(dmd: DMD, utterances: list[Utterance]) -> tuple[float, dict[str, float]]:
    """Mean macro-F1 of the full input and of each modality alone, and the four values."""
    subsets = [MODALITIES, *((m,) for m in MODALITIES)]
    scores = {"+".join(s): _score(dmd, utterances, s)["macro_f1"] for s in subsets}
    return float(np.mean(list(scores.values()))), scores


def _calibrate(dmd: DMD, utterances: list[Utterance]) -> None:
    """One temperature for all seven subsets of modalities: a device meets any of them."""
    probabilities = [
        predict(dmd, (keep(batch, subset) for batch in _batches(utterances)))["emotion"]
        for subset in SUBSETS
    ]
    labels = np.array([u.emotion for u in utterances] * len(SUBSETS))
    dmd.temperature.fill_(fit_temperature(np.concatenate(probabilities), labels))


def _table(dmd: DMD, utterances: list[Utterance]) -> dict[str, dict[str, float]]:
    """Metrics of all seven subsets of modalities, by name such as text+vision."""
    return {"+".join(s): _score(dmd, utterances, s) for s in SUBSETS}


def _score(
    dmd: DMD, utterances: list[Utterance], subset: tuple[str, ...] = MODALITIES
) -> dict[str, float]:
    predictions = predict(dmd, (keep(batch, subset) for batch in _batches(utterances)))
    emotion = np.array([u.emotion for u in utterances])
    return evaluate(predictions, emotion, np.array([u.sentiment for u in utterances]))


def _print_table(rows: dict[str, dict[str, float]]) -> None:
    names = ("accuracy", "uar", "macro_f1", "weighted_f1", "ece", "mae", "corr")
    print(f"\n{'test split':<20}" + "".join(f"{name:>13}" for name in names))
    for subset, values in rows.items():
        cells = (f"{values[n]:13.3f}" if n in values else f"{'':>13}" for n in names)
        print(f"{subset:<20}" + "".join(cells))


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"--device {name} cannot be used here ({reason}); try cpu") from error
    return device


def _download_tokenizer(name: str, out: Path) -> Path:
    """`tokenizer.json` of a Hugging Face model, or one made from a folder's slow tokenizer."""
    from transformers import AutoTokenizer

    folder = out / "state" / "tokenizer"
    AutoTokenizer.from_pretrained(name, use_fast=True).save_pretrained(folder)
    return folder / "tokenizer.json"


if __name__ == "__main__":
    sys.exit(main())
