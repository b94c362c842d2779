"""One training run: data, model, epochs with early stopping, calibration, test, checkpoint.

After an interruption at any moment, the same call goes on after the last finished epoch and ends
with the same result.
"""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from runtime.config import option
from runtime.errors import UsageError

from . import analysis, checkpoint, parallel
from .board import Board
from .config import Config, ModelConfig
from .data import corpora
from .data.compose import Composer
from .data.open import FORMATS, VECTORS, classes, fit, open_corpus
from .data.utterance import Corpus, Utterance, collate
from .judging import Judge, calibrate, selecting, validate
from .loop import Batch, hide, optimiser, train_epoch
from .losses import TrainingDMD
from .models.inputs import Inputs
from .models.language import LanguageEncoder, load_frozen, load_pretrained
from .models.others import CORRKD, new_model
from .models.tokenizer import pruned, tokenizer_of
from .models.vocabulary import kept, shrink
from .others import training_model
from .provenance import inputs
from .state import RunState
from .teacher import Taught, Teacher

__all__ = ["Options", "train"]

_N_STATISTICS = 2_000  # utterances that the input statistics are taken from


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train a DMD model: composed corpora, feature files, or your own recordings."""

    data: str = option(metavar="PATH", help="the data set: a folder, or a feature file")
    data_format: str = option(
        "corpora",
        choices=FORMATS,
        help="corpora: as in train/data/corpora.py; mmsa, mult, dialogues, ur-funny: feature files "
        "as in docs/from-mmsa.md; shards: what train.prepare --manifest wrote",
    )
    config: str = option("configs/quick.toml", metavar="FILE", help="TOML file with all options")
    out: str = option("checkpoint", metavar="DIR", help="where the checkpoint goes")
    cache: str = option("build/features", metavar="DIR", help="where extracted features are kept")
    seed: int | None = option(None, metavar="N", help="replaces the configuration's seed")
    seeds: int = option(1, metavar="N", help="train N seeds into DIR/seed-K; mean and deviation")
    device: str = option("cpu", help="cpu, cuda or cuda:N")
    set: str | None = option(
        None,
        metavar="K=V;K=V",
        joined_by=";",
        help="override options, such as optim.epochs=2;model.dim=32; may be repeated",
    )
    teacher: str | None = option(
        None,
        metavar="NAME",
        help="a large encoder (Hugging Face name or folder), such as bert-base-uncased: train a "
        "teacher with it, distil the small encoder, train the student (train/stages.py)",
    )
    teacher_checkpoint: str | None = option(
        None, metavar="DIR", help="checkpoint of an existing teacher DMD, for soft targets only"
    )
    taught: str | None = option(
        None, metavar="FILE", help="sentiments of a teacher, as train.teacher writes them"
    )
    start: str | None = option(
        None, metavar="DIR", help="begin with the weights of this checkpoint, of the same model"
    )
    tensorboard: bool = option(False, help="log every epoch to DIR/tensorboard as well")
    no_test: bool = option(
        False, help="do not read the test split: metrics and pictures are of validation"
    )
    restart: bool = option(False, help="discard an interrupted or finished run in --out")

    def inputs(self) -> dict[str, str]:
        """What the run reads besides its configuration: `provenance.inputs`."""
        start, teacher = self.start, self.teacher_checkpoint
        files = {"start": start and f"{start}/model.safetensors", "taught": self.taught,
                 "teacher": teacher and f"{teacher}/model.safetensors"}  # fmt: skip
        return inputs(self.data, self.data_format, files)


def train(settings: Config, options: Options) -> None:
    """Train, calibrate, test and write the checkpoint. Raises DmdLiveError for a user's mistake."""
    out, target = Path(options.out), parallel.device(options.device)
    torch.use_deterministic_algorithms(True)
    if settings.optim.n_threads > 0:
        torch.set_num_threads(settings.optim.n_threads)
    corpus, tokenizer = _open_data(settings, options)
    asked, settings = settings.sha256(), fit(settings, corpus)
    state = RunState.open(out, settings, options.inputs(), options.restart)
    teacher = _open_teacher(settings, options, corpus, state)
    splits = _splits(corpus, options)
    valid = splits["valid"]
    emotions = classes(corpus) if any(u.emotion >= 0 for u in valid) else ()
    dmd = _new_model(settings, corpus, len(emotions), tokenizer)
    if options.start is not None:
        _begin_with(dmd, Path(options.start))
    model = training_model(dmd, settings, options.teacher_checkpoint).to(target)
    wanted = options.tensorboard and parallel.is_first()
    with Board(out, wanted=wanted, n_done=state.epoch) as board:
        _run_epochs(model, corpus, valid, settings, state, teacher, board)
    state.restore_best(model)
    judge = Judge(dmd, settings.optim.precision, scale=settings.data.sentiment_scale)
    if emotions:
        told = corpus.told("valid") if isinstance(corpus, Composer) else []
        judge = replace(judge, calibration=calibrate(judge, valid, emotions, told))
    metrics = {"valid": judge.table(valid)}
    if "test" in splits:
        metrics["test"] = judge.table(splits["test"]) | _of_sentences(judge, corpus)
    info = {
        "emotions": list(emotions),
        "commit": state.commit,
        "asked_sha256": asked,
        "inputs": state.inputs,
        "metrics": metrics,
        "calibration": judge.calibration.to_dict() if judge.calibration else {},
        "best_epoch": state.best_epoch + 1,
        "history": state.history,
        "data": corpus.about() if isinstance(corpus, Composer) else {"name": options.data_format},
        "n_parameters": sum(p.numel() for p in dmd.parameters()),
        "seconds": round(state.seconds, 1),
    }
    if parallel.is_first():
        out.mkdir(parents=True, exist_ok=True)
        if isinstance(model, TrainingDMD):  # the pictures are of its spaces and edges
            analysis.keep(out, model, splits.get("test", valid), tokenizer, judge.calibration)
        checkpoint.save(out, dmd, settings, tokenizer, info)
        _print_table(*list(metrics.items())[-1])
        print(f"{out} written after {info['seconds']:.0f} s (best epoch {info['best_epoch']})")
    state.close()


def _splits(corpus: Corpus, options: Options) -> dict[str, Iterable[Utterance]]:
    """The splits that are read besides the training one, by name. Raises UsageError, before any
    epoch, for a split without utterances."""
    if not corpus.n_training:
        raise UsageError(f"{options.data}: no training utterances")
    names = ("valid",) if options.no_test else ("valid", "test")
    found = {name: corpus.held_out(name) for name in names}
    for name, utterances in found.items():
        if next(iter(utterances), None) is None:
            way_out = "add some" if name == "valid" else "add some, or pass --no-test"
            raise UsageError(f"{options.data}: no utterances in the split {name}; {way_out}")
    return found


def _open_data(settings: Config, options: Options) -> tuple[Corpus, Path | None]:
    """The data set, and the tokenizer of the language branch if there is one."""
    data, cache = Path(options.data), Path(options.cache)
    tokenizer = None if options.data_format in VECTORS else tokenizer_of(settings)
    if options.data_format == "corpora":
        if settings.model.vocabulary:
            tokenizer = pruned(settings, data, cache)
        for line in corpora.missing(data, settings.data.corpora.split()):
            if parallel.is_first():
                print(f"train.run: warning: {line}", file=sys.stderr)
    return open_corpus(data, options.data_format, settings, tokenizer, cache), tokenizer


def _open_teacher(
    settings: Config, options: Options, corpus: Corpus, state: RunState
) -> Teacher | Taught | None:
    if settings.model.kind == CORRKD:  # which has a teacher of its own kind
        return None
    if options.teacher_checkpoint is None:
        return None if options.taught is None else Taught(Path(options.taught))
    folder, target = Path(options.teacher_checkpoint), parallel.device(options.device)
    teacher = Teacher(folder, target, settings.optim.precision)
    if isinstance(corpus, Composer) and settings.data.text_share:
        teacher.remember(corpus.sentences(), state.folder / "taught.safetensors")
    return teacher


def _of_sentences(judge: Judge, corpus: Corpus) -> dict[str, dict[str, float]]:
    """Metrics of the test sentences that stand alone, where the data set has some."""
    if not isinstance(corpus, Composer):
        return {}
    found = {"all text": judge.score(corpus.told("test"))}
    if rated := corpus.rated("test"):
        found["rated text"] = judge.score(rated)
    return found


def _new_model(settings: Config, corpus: Corpus, n_emotions: int, tokenizer: Path | None) -> Inputs:
    """The untrained model; weights and input statistics follow from the seed."""
    torch.manual_seed(settings.seed)
    language = _language(settings.model)
    whole = tokenizer_of(settings)
    if language is not None and tokenizer is not None and whole is not None:
        pieces = kept(whole, tokenizer)
        if len(pieces) < language.encoder.get_input_embeddings().num_embeddings:
            shrink(language.encoder, pieces)
    dmd = new_model(settings.model, language, n_emotions)
    # Spread over the epoch, for batches differ in what they hold.
    chosen = np.linspace(0, corpus.n_training - 1, min(_N_STATISTICS, corpus.n_training))
    dmd.fit_normalisation(collate([corpus.training(0, int(k)) for k in chosen]))
    return dmd


def _begin_with(dmd: Inputs, folder: Path) -> None:
    """Load a checkpoint's weights; raises UsageError when they are not of such a model."""
    try:
        dmd.load_state_dict(load_file(folder / "model.safetensors"))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"--start {folder}: no weights of such a model ({reason})") from error


def _language(config: ModelConfig) -> LanguageEncoder | None:
    if config.text_dim:
        return None
    if config.train_language_layers == 0:
        return load_frozen(config.language, config.language_layers)
    return load_pretrained(
        config.language,
        config.language_layers,
        freeze_words=config.freeze_word_embeddings,
        n_trained=config.train_language_layers,
    )


def _run_epochs(
    model: Any,
    corpus: Corpus,
    valid: Iterable[Utterance],
    settings: Config,
    state: RunState,
    teacher: Teacher | Taught | None,
    board: Board,
) -> None:
    """The epochs that `state` lacks, until the validation score stops rising."""
    optim = settings.optim
    n_batches = corpus.n_training // optim.batch_size
    if n_batches < optim.accumulate:
        raise UsageError(f"{corpus.n_training} training utterances do not fill one training step")
    adam, schedule = optimiser(model, optim, optim.epochs * (n_batches // optim.accumulate))
    state.restore(model, adam, schedule)
    parallel_model = parallel.wrap(model)
    judge = Judge(model.dmd, optim.precision, scale=settings.data.sentiment_scale)
    valid = selecting(corpus, valid, words_alone=settings.data.text_share == 1.0)
    for epoch in range(state.epoch, optim.epochs):
        if epoch - state.best_epoch > optim.patience or epoch == optim.stop_after > 0:
            break
        # Dropout follows from the epoch alone, so that a resumed run is the same run.
        torch.manual_seed(settings.seed * 1_000 + epoch)
        batches = tqdm(
            _training_batches(corpus, epoch, n_batches, settings, teacher),
            desc=f"epoch {epoch + 1} of {optim.epochs}",
            total=n_batches,
            unit="batch",
            disable=not parallel.is_first(),
        )
        losses = train_epoch(parallel_model, batches, adam, schedule, optim)
        score, scores = validate(judge, valid)
        state.finish_epoch(epoch, score, {"losses": losses, "valid": scores}, model, adam, schedule)
        board.epoch(epoch + 1, losses, scores)
        if parallel.is_first():
            print("  losses: " + " ".join(f"{name} {value:.3f}" for name, value in losses.items()))
            shown = " ".join(f"{name} {value:.3f}" for name, value in scores.items())
            print(f"  on validation: {shown}", flush=True)


def _training_batches(
    corpus: Corpus, epoch: int, n: int, settings: Config, teacher: Teacher | Taught | None
) -> Iterator[tuple[Batch, Tensor | None]]:
    """Batches with some modalities hidden, and what the teacher says of them whole."""
    size = settings.optim.batch_size
    for k in range(n):
        utterances = [corpus.training(epoch, k * size + i) for i in range(size)]
        rng = np.random.default_rng((settings.seed, epoch, k, 1))
        batch = hide(collate(utterances), settings.data.modality_dropout, rng)
        yield batch, None if teacher is None else teacher(utterances)


def _print_table(split: str, rows: dict[str, dict[str, float]]) -> None:
    known = ("accuracy", "uar", "macro_f1", "weighted_f1", "ece", "mae", "corr", "acc2", "acc3",
             "acc5", "f1")  # fmt: skip
    names = [name for name in known if any(name in values for values in rows.values())]
    print(f"\n{split + ' split':<20}" + "".join(f"{name:>13}" for name in names))
    for subset, values in rows.items():
        cells = (f"{values[n]:13.3f}" if n in values else f"{'':>13}" for n in names)
        print(f"{subset:<20}" + "".join(cells))
