"""What finished runs say of validation data and of the test split, and how long a pass takes."""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from .. import checkpoint
from ..data.open import open_corpus
from ..data.utterance import Corpus, Utterance, collate
from ..judging import Judge
from .runs import Task

__all__ = ["about", "read_test", "validation"]

Table = dict[str, dict[str, float]]
_BATCH = 32
_PASSES = 15


def validation(task: Task) -> Table:
    """The metrics that training left, by subset of modalities."""
    info = json.loads((Path(task.options.out) / "checkpoint.json").read_text(encoding="utf-8"))
    table: Table = info["metrics"]["valid"]
    return table


def read_test(todo: Sequence[Task]) -> dict[str, list[Table]]:
    """The metrics of the test split, by model, in the order of the seeds. This is the look."""
    out: dict[str, list[Table]] = {}
    splits: dict[object, Iterable[Utterance]] = {}
    for task in tqdm(todo, "reads the test split", unit="run"):
        loaded = checkpoint.load_any(Path(task.options.out))
        judge = Judge(
            loaded.model.to(task.options.device),
            task.settings.optim.precision,
            scale=loaded.config.data.sentiment_scale,
        )
        if loaded.info["emotions"]:
            judge = replace(judge, calibration=loaded.calibration)
        model, tokenizer = task.settings.model, _tokenizer(task)
        asked = (
            task.settings.data,
            model.text_dim,
            model.masked,
            tokenizer and tokenizer.read_bytes(),
        )
        if asked not in splits:  # composed once for all that read the same
            splits[asked] = _corpus(task).held_out("test")
        out.setdefault(task.name, []).append(judge.table(splits[asked]))
    return out


@torch.no_grad()
def about(todo: Sequence[Task]) -> dict[str, dict[str, Any]]:
    """By model: its choice, parameters, and milliseconds of a forward pass, all measured one after
    another in this process on the same batch of validation utterances."""
    if todo[0].settings.optim.n_threads:
        torch.set_num_threads(todo[0].settings.optim.n_threads)
    first = {task.name: task for task in reversed(todo)}
    batch: Any = None
    out: dict[str, dict[str, Any]] = {}
    for task in todo:
        if first[task.name] is not task:
            continue
        if batch is None:
            batch = collate(list(islice(_corpus(task).held_out("valid"), _BATCH)))
        loaded = checkpoint.load_any(Path(task.options.out))
        seconds = []
        for _ in range(_PASSES):
            started = time.perf_counter()
            loaded.model.predict(batch)
            seconds.append(time.perf_counter() - started)
        threads = torch.get_num_threads()
        out[task.name] = {
            "choice": task.choice,
            "n_parameters": loaded.info["n_parameters"],
            "seconds": loaded.info["seconds"],
            "ms": 1e3 * float(np.median(seconds)),
            "ms_of": f"median of {_PASSES} forward passes over {len(batch['emotion'])} utterances "
            f"on the CPU, {threads} thread{'s' * (threads > 1)}",
        }
    return out


def _corpus(task: Task) -> Corpus:
    data, cache = Path(task.options.data), Path(task.options.cache)
    return open_corpus(data, task.options.data_format, task.settings, _tokenizer(task), cache)


def _tokenizer(task: Task) -> Path | None:
    path = Path(task.options.out) / "tokenizer.json"
    return path if path.exists() else None
