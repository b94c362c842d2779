"""The language branch, distilled, in three stages: `python -m train.run --teacher NAME`.

1. `OUT/teacher`: a DMD whose language branch is a large encoder.
2. `OUT/language`: a small encoder that learns from the teacher's (`train/distill.py`).
3. `OUT/student`: a DMD with the small encoder, which learns from the teacher DMD as well.

`OUT/plain` is the same student without any of this, for comparison. Each stage can be interrupted:
the same command goes on, and what is finished is kept.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runtime.errors import UsageError

from . import checkpoint, distill, run
from .config import Config
from .data import corpora
from .models.language import locate
from .provenance import commit, write_json
from .teacher import Teacher

__all__ = ["train_stages"]


def train_stages(settings: Config, options: run.Options) -> None:
    """Run the stages that are missing, then write and print the table. Raises DmdLiveError."""
    if options.data_format != "corpora" or options.teacher is None:
        raise UsageError("--teacher needs sentences: the corpora of --data-format corpora")
    out = Path(options.out)
    large = replace(settings.model, language=options.teacher, language_layers=0)
    _train("teacher", replace(settings, model=large), options, None)
    _distil(settings, options)
    small = replace(settings.model, language=str(out / "language"), language_layers=0)
    _train("student", replace(settings, model=small), options, str(out / "teacher"))
    _train("plain", settings, options, None)
    rows = {name: _row(out / name) for name in ("teacher", "student", "plain")}
    write_json(out / "stages.json", {"commit": commit(), "config": options.config, "rows": rows})
    _print_table(rows)


def _train(name: str, settings: Config, options: run.Options, teacher: str | None) -> None:
    folder = Path(options.out) / name
    print(f"\n== {name}")
    if (folder / "checkpoint.json").exists():
        print("finished already")
        return
    run.train(settings, replace(options, out=str(folder), teacher_checkpoint=teacher))


def _distil(settings: Config, options: run.Options) -> None:
    out = Path(options.out)
    print("\n== language")
    if (out / "language" / "config.json").exists():
        print("finished already")
        return
    teacher = checkpoint.load(out / "teacher")
    assert teacher.model.language is not None
    tokenizer = teacher.folder / "tokenizer.json"
    own = Path(locate(settings.model.language)) / "tokenizer.json"
    texts = [t.text for t in corpora.texts(Path(options.data)) if t.split == "train"]
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(settings.seed))
    chosen = [texts[int(k)] for k in order[: settings.distill.n_sentences]]
    sentences = distill.readable(chosen, (tokenizer, own))
    distill.distil(
        distill.Reader(teacher.model.language, tokenizer),
        _soft_targets(Teacher(out / "teacher", torch.device("cpu"))),
        distill.new_student(settings.model.language, sentences, settings.distill),
        sentences,
        settings.distill,
        out / "language",
        settings.seed,
    )


def _soft_targets(teacher: Teacher) -> Callable[[Sequence[str]], Tensor]:
    """What the teacher DMD says of sentences alone: emotion logits (B, n_emotions)."""
    return lambda sentences: teacher(teacher.read(sentences))[:, 1:]


def _row(folder: Path) -> dict[str, Any]:
    """Macro-F1 with all modalities and with text alone, parameters, milliseconds an utterance."""
    source = checkpoint.load(folder)
    test = source.info["metrics"]["test"]
    return {
        "macro_f1": test["text+audio+vision"]["macro_f1"],
        "macro_f1_text": test["text"]["macro_f1"],
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
    print(f"\n{'':<30}{'macro-F1':>10}{'text only':>11}{'parameters':>13}{'language':>12}{'ms':>8}")
    names = {"teacher": "teacher", "student": "student", "plain": "student, not distilled"}
    for name, row in rows.items():
        print(
            f"{names[name]:<30}{row['macro_f1']:10.3f}{row['macro_f1_text']:11.3f}"
            f"{row['n_parameters']:13,}{row['n_parameters_language']:12,}{row['ms']:8.1f}"
        )
    share = rows["student"]["n_parameters"] / rows["teacher"]["n_parameters"]
    print(f"the student has {share:.0%} of the teacher's parameters")
