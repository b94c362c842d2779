"""A checkpoint to export, and its bundle."""

from pathlib import Path

import pytest
import torch

from export import graph
from tests.conftest import Once
from train import checkpoint
from train.config import Config, ModelConfig
from train.data.corpora import EMOTIONS
from train.models.dmd import DMD
from train.models.language import LanguageEncoder

CALIBRATION = {
    "temperature": {"text": 0.5, "text+audio": 1.5},
    "uncertain_below": {"text+audio+vision": 0.5},
}


@pytest.fixture(scope="session")
def saved(once: Once, tokenizer_json: Path) -> Path:
    """A checkpoint folder of a small model with random weights."""

    def make(folder: Path) -> None:
        torch.manual_seed(0)
        settings = Config(
            model=ModelConfig(dim=16, n_heads=2, n_layers=1, gd_hidden=8, front_audio=12)
        )
        language = LanguageEncoder.from_config(
            {
                "model_type": "bert",
                "vocab_size": 30_522,
                "hidden_size": 24,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "intermediate_size": 32,
            }
        )
        dmd = DMD(settings.model, language, len(EMOTIONS))
        info = {"emotions": list(EMOTIONS), "commit": "test", "calibration": CALIBRATION}
        checkpoint.save(folder, dmd, settings, tokenizer_json, info)

    return once("saved", make)


@pytest.fixture(scope="session")
def traced(once: Once, saved: Path) -> Path:
    """The checkpoint's bundle with fp32 alone, which takes long to trace."""

    def make(folder: Path) -> None:
        graph.write_bundle(checkpoint.load(saved), folder / "bundle")

    return once("traced", make) / "bundle"
