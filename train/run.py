"""Train a DMD model: `python -m train.run --config configs/quick.toml --data DIR`.

Reads top to bottom: features once, utterances composed anew every epoch, early stopping on the
validation split, calibration, one look at the test split, a checkpoint. Interrupted at any moment,
the same command goes on after the last finished epoch and ends with the same result.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from runtime.config import option, parse
from runtime.errors import DmdLiveError, UsageError
from runtime.features.spec import MODALITIES

from . import checkpoint, config
from .config import Config
from .data import corpora
from .data.compose import Composer
from .data.utterance import Utterance, collate
from .loop import SUBSETS, Batch, batched, evaluate, keep, optimiser, predict, train_epoch
from .losses import TrainingDMD
from .metrics import fit_temperature
from .models.dmd import DMD
from .models.language import load_pretrained, locate
from .prepare import Features, prepare
from .state import RunState

__all__ = ["Options", "main", "train"]

_N_STATISTICS = 400  # utterances that the input statistics are taken from


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
    out, device = Path(options.out), _device(options.device)
    state = RunState.open(out, settings, options.restart)
    torch.use_deterministic_algorithms(True)

    for line in corpora.missing(Path(options.data)):
        print(f"train.run: warning: {line}", file=sys.stderr)
    texts = corpora.texts(Path(options.data))
    features = prepare(Path(options.data), Path(options.cache))
    tokenizer = Path(locate(settings.model.language)) / "tokenizer.json"
    if not tokenizer.exists():
        tokenizer = _download_tokenizer(settings.model.language, state.folder / "tokenizer")
    composer = Composer(texts, features, tokenizer, settings.data, settings.seed)
    valid = composer.held_out("valid")

    dmd = _new_model(settings, composer)
    _run_epochs(TrainingDMD(dmd, settings).to(device), composer, valid, settings, state)
    state.restore_best(dmd)
    _calibrate(dmd, valid)

    test = composer.held_out("test")
    metrics = {"valid": _table(dmd, valid), "test": _table(dmd, test)}
    if rated := composer.rated("test"):
        metrics["test"]["rated text"] = _score(dmd, rated)
    info = {
        "emotions": list(corpora.EMOTIONS),
        "commit": state.commit,
        "metrics": metrics,
        "best_epoch": state.best_epoch + 1,
        "history": state.history,
        "data": _about_data(texts, features, composer),
        "n_parameters": sum(p.numel() for p in dmd.parameters()),
        "seconds": round(state.seconds, 1),
    }
    checkpoint.save(out, dmd, settings, tokenizer, info)
    state.close()
    _print_table(metrics["test"])
    print(f"{out} written after {info['seconds']:.0f} s (best epoch {info['best_epoch']})")


def _new_model(settings: Config, composer: Composer) -> DMD:
    """The untrained model; weights and input statistics follow from the seed."""
    torch.manual_seed(settings.seed)
    language = load_pretrained(
        settings.model.language,
        settings.model.language_layers,
        freeze_words=settings.model.freeze_word_embeddings,
    )
    dmd = DMD(settings.model, language, len(corpora.EMOTIONS))
    dmd.fit_normalisation(collate([composer.training(0, k) for k in range(_N_STATISTICS)]))
    return dmd


def _run_epochs(
    model: TrainingDMD,
    composer: Composer,
    valid: list[Utterance],
    settings: Config,
    state: RunState,
) -> None:
    """The epochs that `state` lacks, until the validation score stops rising."""
    optim = settings.optim
    n_batches = settings.data.utterances_per_epoch // optim.batch_size
    adam, schedule = optimiser(model, optim, optim.epochs * n_batches)
    state.restore(model, adam, schedule)
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
        score, scores = _validate(model.dmd, valid)
        state.finish_epoch(epoch, score, {"losses": losses, "valid": scores}, model, adam, schedule)
        print("  losses: " + " ".join(f"{name} {value:.3f}" for name, value in losses.items()))
        shown = " ".join(f"{name} {value:.3f}" for name, value in scores.items())
        print(f"  macro-F1 on validation: {shown}", flush=True)


def _about_data(
    texts: list[corpora.Text], features: Features, composer: Composer
) -> dict[str, object]:
    recordings = [recording for recording, _ in (*features.voices, *features.faces)]
    return {
        "corpora": sorted({t.corpus for t in texts} | {r.corpus for r in recordings}),
        "weak_sentiment": composer.sentiment_of.tolist(),
        "n_texts_too_long": composer.n_too_long,
        "n_texts_without_words": composer.n_wordless,
        "n_pictures_without_face": features.n_faceless,
    }


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


def _download_tokenizer(name: str, folder: Path) -> Path:
    """`tokenizer.json` of a Hugging Face model, or one made from a folder's slow tokenizer."""
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(name, use_fast=True).save_pretrained(folder)
    return folder / "tokenizer.json"


if __name__ == "__main__":
    sys.exit(main())
