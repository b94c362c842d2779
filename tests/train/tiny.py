"""A DMD small enough to train in a test, random utterances for it, and a finished run of it."""

from pathlib import Path

import numpy as np
import torch

from runtime.features.spec import SPEC
from runtime.features.text import TextFeatures
from train import analysis, checkpoint
from train.config import Config, ModelConfig
from train.data.corpora import EMOTIONS
from train.data.utterance import Utterance, collate
from train.loop import SUBSETS, evaluate, keep, optimiser, predict, train_epoch
from train.losses import TrainingDMD
from train.models.dmd import DMD
from train.models.language import LanguageEncoder

CONFIG = Config(model=ModelConfig(dim=16, n_heads=2, n_layers=2, gd_hidden=8))
_WORDS = ("we", "could", "not", "believe", "that", "they'd", "take", "our", "$", "money")


def utterances(n: int, tokenizer_json: Path) -> list[Utterance]:
    """Random rows whose level follows the emotion; every ninth lacks a modality."""
    rng, text = np.random.default_rng(0), TextFeatures(tokenizer_json)
    out = []
    for k in range(n):
        emotion = k % len(EMOTIONS)
        n_rows = rng.integers(6, 40, 2) * (k % 9 != 8, 1)
        vision = rng.random((n_rows[1], SPEC.vision_dim)) + emotion / 4
        vision[:, -1] = 1.0
        out.append(
            Utterance(
                text=text.ids(" ".join(rng.choice(_WORDS, rng.integers(1, 12)))),
                audio=rng.normal(emotion, 1, (n_rows[0], SPEC.audio_dim)).astype(np.float32),
                vision=vision.astype(np.float32),
                emotion=emotion,
                sentiment=float("nan") if k % 5 == 4 else (emotion - 3.0),
                id=f"clip <{k}>" if k % 2 else "",
            )
        )
    return out


def model(data: list[Utterance]) -> TrainingDMD:
    """Untrained, in evaluation mode."""
    torch.manual_seed(0)
    size = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    architecture = {"model_type": "bert", "vocab_size": 30_522, "intermediate_size": 32, **size}
    dmd = DMD(CONFIG.model, LanguageEncoder.from_config(architecture), len(EMOTIONS))
    dmd.fit_normalisation(collate(data))
    return TrainingDMD(dmd, CONFIG).eval()


def finished_run(folder: Path, tokenizer_json: Path) -> None:
    """A checkpoint and an analysis, as a run leaves them, after two short epochs."""
    data = utterances(56, tokenizer_json)
    trained = model(data)
    adam, schedule = optimiser(trained, CONFIG.optim, 8)
    history = []
    for epoch in (1, 2):
        batches = ((collate(data[k : k + 14]), None) for k in range(0, 56, 14))
        losses = train_epoch(trained, batches, adam, schedule, CONFIG.optim)
        scores = {"+".join(s): _scores(trained.dmd, data, s)["macro_f1"] for s in SUBSETS}
        history.append({"epoch": epoch, "score": 0.1, "losses": losses, "valid": scores})
    info = {
        "emotions": list(EMOTIONS),
        "commit": "0123abc",
        "metrics": {"test": {"+".join(s): _scores(trained.dmd, data, s) for s in SUBSETS}},
        "best_epoch": 2,
        "history": history,
        "data": {"corpora": ["<made up>"], "n_texts_too_long": 0},
        "n_parameters": sum(p.numel() for p in trained.dmd.parameters()),
        "seconds": 1.5,
    }
    checkpoint.save(folder, trained.dmd, CONFIG, tokenizer_json, info)
    analysis.save(folder, analysis.collect(trained, data, tokenizer_json))


def _scores(dmd: DMD, data: list[Utterance], subset: tuple[str, ...]) -> dict[str, float]:
    predictions = predict(dmd, [keep(collate(data), subset)])
    emotion = np.array([u.emotion for u in data])
    return evaluate(predictions, emotion, np.array([u.sentiment for u in data]))
