"""The language branch, distilled, in three stages: `python -m train.run --teacher NAME`.

1. `OUT/teacher`: a DMD whose language branch is a large encoder.
2. `OUT/language`: a small encoder that learns from the teacher's (`train/distill.py`).
3. `OUT/student`: a DMD with the small encoder, which also learns from the teacher DMD.

`OUT/plain` is the same student without any of this, for comparison. Each stage can be interrupted:
the same command goes on, and what is finished is kept.
"""

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from runtime.errors import UsageError

from . import checkpoint, distill, parallel, training
from .config import Config
from .data import corpora
from .models.language import locate
from .provenance import commit, write_json
from .reader import Reader, readable
from .state import finished
from .teacher import Teacher

__all__ = ["train_stages"]


def train_stages(settings: Config, options: training.Options) -> None:
    """Run the stages that are missing, then write and print the table. Raises DmdLiveError."""
    if options.data_format != "corpora" or options.teacher is None:
        raise UsageError("--teacher needs sentences: use --data-format corpora")
    out = Path(options.out)
    if options.restart and parallel.is_first():
        for name in ("teacher", "language", "student", "plain"):
            shutil.rmtree(out / name, ignore_errors=True)
    parallel.wait()
    _train("teacher", _large(settings, options.teacher), options, None)
    _distil(settings, options)
    small = replace(settings.model, language=str(out / "language"), language_layers=0)
    _train("student", replace(settings, model=small), options, str(out / "teacher"))
    _train("plain", settings, options, None)
    if not parallel.is_first():
        return
    rows = {name: _row(out / name) for name in ("teacher", "student", "plain")}
    write_json(out / "stages.json", {"commit": commit(), "config": options.config, "rows": rows})
    _print_table(rows)


def _large(settings: Config, name: str) -> Config:
    """The teacher's configuration: a large encoder, and what else is different for it."""
    own, optim = settings.distill, settings.optim
    return replace(
        settings,
        model=replace(
            settings.model,
            language=name,
            language_layers=0,
            train_language_layers=own.teacher_language_layers,
        ),
        optim=replace(
            optim,
            epochs=own.teacher_epochs or optim.epochs,
            language_learning_rate=own.teacher_learning_rate or optim.language_learning_rate,
        ),
    )


def _train(name: str, settings: Config, options: training.Options, teacher: str | None) -> None:
    folder = Path(options.out) / name
    _say(f"\n== {name}")
    if finished(folder, settings, options.inputs()):
        _say("finished already")
        return
    training.train(
        settings, replace(options, out=str(folder), teacher_checkpoint=teacher, restart=False)
    )


def _distil(settings: Config, options: training.Options) -> None:
    """By the first process alone; the others wait for it."""
    _say("\n== language")
    if parallel.is_first():
        out = Path(options.out)
        teacher = checkpoint.load(out / "teacher")
        tokenizer = teacher.folder / "tokenizer.json"
        own = Path(locate(settings.model.language)) / "tokenizer.json"
        names = settings.data.corpora.split()
        texts = [t.text for t in corpora.texts(Path(options.data), names) if t.split == "train"]
        texts = list(dict.fromkeys(texts))
        order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(settings.seed))
        chosen = [texts[int(k)] for k in order[: settings.distill.n_sentences]]
        sentences = readable(chosen, (tokenizer, own))
        model = teacher.model.to(parallel.device(options.device))
        torch.manual_seed(settings.seed)  # a narrower student begins with weights of its own
        done = distill.distil(
            Reader(model, tokenizer, precision=settings.optim.precision),
            distill.new_student(settings.model.language, sentences, settings.distill),
            sentences,
            settings,
            out / "language",
        )
        if not done:
            print("finished already")
    parallel.wait()


def _say(line: str) -> None:
    if parallel.is_first():
        print(line, flush=True)


def _row(folder: Path) -> dict[str, Any]:
    """Macro-F1, parameters and milliseconds an utterance.

    `macro_f1_text`: of all the test sentences alone, in their natural frequency; `macro_f1` and
    `macro_f1_composed_text`: of composed utterances, whole and text alone.
    """
    source = checkpoint.load(folder)
    test = source.info["metrics"]["test"]
    return {
        "macro_f1_text": test["all text"]["macro_f1"],
        "macro_f1": test["text+audio+vision"]["macro_f1"],
        "macro_f1_composed_text": test["text"]["macro_f1"],
        "n_parameters": source.info["n_parameters"],
        "n_parameters_language": sum(p.numel() for p in source.model.language.parameters())
        if source.model.language
        else 0,
        "ms": _milliseconds(folder),
    }


def _milliseconds(folder: Path) -> float:
    """Median time of one sentence of 20 words, in torch on the CPU."""
    teacher = Teacher(folder, torch.device("cpu"))
    utterances = teacher.read([" ".join(["word"] * 20)])
    seconds = []
    for _ in range(12):
        started = time.perf_counter()
        teacher(utterances)
        seconds.append(time.perf_counter() - started)
    return round(1e3 * sorted(seconds[2:])[5], 2)


def _print_table(rows: dict[str, dict[str, Any]]) -> None:
    print(
        f"\n{'macro-F1 on the test split':<28}{'sentences':>11}{'composed':>10}"
        f"{'parameters':>13}{'language':>12}{'ms':>8}"
    )
    names = {"teacher": "teacher", "student": "student", "plain": "student, not distilled"}
    for name, row in rows.items():
        print(
            f"{names[name]:<28}{row['macro_f1_text']:11.3f}{row['macro_f1']:10.3f}"
            f"{row['n_parameters']:13,}{row['n_parameters_language']:12,}{row['ms']:8.1f}"
        )
    share = rows["student"]["n_parameters"] / rows["teacher"]["n_parameters"]
    gap = 100 * (rows["teacher"]["macro_f1_text"] - rows["student"]["macro_f1_text"])
    print(
        f"on sentences the student is {abs(gap):.1f} points {'below' if gap > 0 else 'above'} the "
        f"teacher, with {share:.0%} of its parameters"
    )
