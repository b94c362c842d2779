"""Stage 2 of three: a small language encoder learns from the teacher's.

Both read the same sentences; what they make of each *word* is compared (the mean of its pieces),
so that teacher and student may have different tokenizers.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from runtime.errors import ModelError, UsageError

from .config import Config, DistillConfig
from .models.language import LanguageEncoder, load_pretrained, locate
from .models.vocabulary import prune, shrink
from .provenance import commit, write_json
from .reader import Reader, Sight

__all__ = ["distil", "new_student", "relation_loss"]


class _Student(nn.Module):
    """A student with what only its lessons need: projections to the teacher's width, a head."""

    def __init__(self, reader: Reader, teacher_dim: int, n_outputs: int) -> None:
        super().__init__()
        self.reader = reader
        self.language = reader.language
        self.embeddings = nn.Linear(reader.language.dim, teacher_dim, bias=False)
        self.hidden = nn.Linear(reader.language.dim, teacher_dim, bias=False)
        self.head = nn.Linear(reader.language.dim, n_outputs)

    def losses(
        self, sentences: Sequence[str], taught: Sight, config: DistillConfig
    ) -> dict[str, Tensor]:
        """Every term by name, unweighted."""
        own = self.reader(sentences)
        both = own.mask & taught.mask
        return {
            "relations": sum(
                (
                    relation_loss(s, t, both, config.relation_heads)
                    for s, t in zip(own.relations, taught.relations, strict=True)
                ),
                own.hidden.new_zeros(()),
            ),
            "hidden": _gap(self.hidden(own.hidden), taught.hidden, both),
            "embeddings": _gap(self.embeddings(own.embeddings), taught.embeddings, both),
            "soft": F.kl_div(
                F.log_softmax(self.head(own.sentence) / config.temperature, dim=-1),
                F.softmax(taught.soft / config.temperature, dim=-1),
                reduction="batchmean",
            )
            * config.temperature**2,
        }


def relation_loss(student: Tensor, teacher: Tensor, mask: Tensor, n_heads: int) -> Tensor:
    """KL divergence of self-attention relations (MiniLMv2, Wang et al. 2021, eq. 1 to 4).

    `student` (B, W, ds) and `teacher` (B, W, dt) are both queries, both keys or both values; each
    is cut into `n_heads` relation heads, so that the widths may differ. `mask` (B, W) bool.
    """
    logs = []
    for vectors in (student, teacher):
        heads = vectors.unflatten(-1, (n_heads, -1)).transpose(1, 2)  # (B, heads, W, d / heads)
        scores = heads @ heads.transpose(2, 3) / heads.shape[-1] ** 0.5
        logs.append(scores.masked_fill(~mask[:, None, None], -1e9).log_softmax(dim=-1))
    divergence = (logs[1].exp() * (logs[1] - logs[0])).sum(dim=-1)  # (B, heads, W)
    weight = mask[:, None].expand_as(divergence)
    return (divergence * weight).sum() / weight.sum().clamp(min=1)


def new_student(
    name: str, sentences: Sequence[str], config: DistillConfig
) -> tuple[LanguageEncoder, str]:
    """A student from a pretrained small encoder: fewer layers, a narrower one, fewer pieces.

    Returns it with its tokenizer.json's content. Raises ModelError when it cannot be made.
    """
    language = load_pretrained(name, config.student_layers, freeze_words=False)
    path = Path(locate(name)) / "tokenizer.json"
    if not path.exists():
        raise ModelError(f"{name}: no tokenizer.json beside the student's weights")
    tokenizer = path.read_text(encoding="utf-8")
    if config.vocabulary:
        tokenizer, pieces = prune(path, sentences, config.vocabulary)
        shrink(language.encoder, pieces)
    if config.student_width and config.student_width != language.dim:
        language = _narrower(language, config.student_width)
    return language, tokenizer


def _narrower(language: LanguageEncoder, width: int) -> LanguageEncoder:
    """A new encoder of another width; its word embeddings are the old ones' main components."""
    described = language.architecture()
    described |= {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_attention_heads": max(1, width // 32),
    }
    narrow = LanguageEncoder.from_config(described)
    table = language.encoder.get_input_embeddings().weight.detach()
    centred = table - table.mean(dim=0)
    _, _, axes = torch.linalg.svd(centred, full_matrices=False)
    narrow.encoder.get_input_embeddings().weight.data.copy_(centred @ axes[:width].T)
    return narrow


def distil(
    teacher: Reader,
    student: tuple[LanguageEncoder, str],
    sentences: Sequence[str],
    settings: Config,
    out: Path,
) -> list[dict[str, float]]:
    """Teach `student` (encoder, tokenizer) on `sentences`; writes a folder that `model.language`
    accepts, and returns the mean of every loss term per epoch.

    `teacher` reads with a DMD, whose emotion logits are the soft targets. After every epoch the
    state is saved below `out`; killed and started again, it goes on there and ends the same.
    Raises UsageError when `out` is of another configuration, teacher or text.
    """
    config, seed = settings.distill, settings.seed
    identity = _identity(teacher, sentences, settings)
    if is_done(out, identity):
        return []
    out.mkdir(parents=True, exist_ok=True)
    (out / "tokenizer.json").write_text(student[1], encoding="utf-8")
    torch.manual_seed(seed)
    reader = Reader(student[0], out / "tokenizer.json", precision=settings.optim.precision)
    n_outputs = teacher(sentences[:1]).soft.shape[1]
    device = next(teacher.language.parameters()).device
    pupil = _Student(reader, teacher.language.dim, n_outputs).to(device)
    adam = torch.optim.AdamW(pupil.parameters(), config.learning_rate, fused=True)
    state, history, begin = out / "state.pt", [], 0
    if state.exists():
        saved = torch.load(state, map_location="cpu", weights_only=True)
        _check(out, saved["identity"], identity)
        pupil.load_state_dict(saved["pupil"])
        adam.load_state_dict(saved["adam"])
        history, begin = saved["history"], len(saved["history"])
    for epoch in range(begin, config.epochs):
        torch.manual_seed(seed * 1_000 + epoch)
        history.append(_epoch(pupil, teacher, sentences, config, adam, epoch, seed))
        print("  " + " ".join(f"{name} {value:.4f}" for name, value in history[-1].items()))
        saved = {"pupil": pupil.state_dict(), "adam": adam.state_dict(), "history": history}
        torch.save(saved | {"identity": identity}, out / "state.pt.partial")
        os.replace(out / "state.pt.partial", state)
    _write(reader.language, out)
    about = {"identity": identity, "commit": commit(), "seed": seed, "config": asdict(config)}
    write_json(out / "distillation.json", {**about, "history": history})
    state.unlink(missing_ok=True)
    return history


def _identity(teacher: Reader, sentences: Sequence[str], settings: Config) -> str:
    """What the result follows from, as a hash."""
    found = hashlib.sha256(json.dumps([settings.sha256(), list(sentences)]).encode())
    for tensor in teacher.source.state_dict().values():
        found.update(tensor.detach().cpu().contiguous().view(-1).numpy().tobytes())
    return found.hexdigest()


def is_done(out: Path, identity: str) -> bool:
    """Whether `out` holds the finished result; raises UsageError when it holds another's."""
    if not (out / "distillation.json").exists():
        return False
    found = json.loads((out / "distillation.json").read_text(encoding="utf-8"))
    _check(out, found["identity"], identity)
    return True


def _check(out: Path, found: str, identity: str) -> None:
    if found != identity:
        raise UsageError(
            f"{out}: distilled with another configuration or from another teacher; "
            "take another --out"
        )


def _epoch(
    pupil: _Student,
    teacher: Reader,
    sentences: Sequence[str],
    config: DistillConfig,
    adam: Any,
    epoch: int,
    seed: int,
) -> dict[str, float]:
    starts = _batches(sentences, config.batch_size, np.random.default_rng((seed, epoch)))
    weights = {"relations": config.relations, "hidden": config.hidden,
               "embeddings": config.embeddings, "soft": config.soft}  # fmt: skip
    sums = dict.fromkeys(weights, 0.0)
    teacher.source.eval()
    pupil.train()
    for batch in tqdm(starts, desc=f"distillation, epoch {epoch + 1}", unit="batch"):
        with torch.no_grad():
            taught = teacher(batch)
        terms = pupil.losses(batch, taught, config)
        total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        adam.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(pupil.parameters(), 1.0)
        adam.step()
        for name, term in terms.items():
            sums[name] += float(term.detach())
    return {name: value / max(1, len(starts)) for name, value in sums.items()}


def _batches(sentences: Sequence[str], size: int, rng: np.random.Generator) -> list[list[str]]:
    """Whole batches of sentences of about the same length, for padding is computed too."""
    lengths = np.array([len(text) for text in sentences]) * rng.uniform(0.8, 1.2, len(sentences))
    near = np.argsort(lengths)[: len(sentences) // size * size].reshape(-1, size)
    return [[sentences[k] for k in rows] for rows in rng.permutation(near)]


def _write(language: LanguageEncoder, out: Path) -> None:
    """`model.safetensors` and, last, `config.json`, as transformers reads them."""
    tensors = {name: t.contiguous() for name, t in language.encoder.state_dict().items()}
    save_file(tensors, out / "model.safetensors.partial", metadata={"format": "pt"})
    os.replace(out / "model.safetensors.partial", out / "model.safetensors")
    write_json(out / "config.json", language.architecture())


def _gap(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean squared difference over words (TinyBERT, Jiao et al. 2020, eq. 8 and 9)."""
    squared = ((student - teacher.detach()) ** 2).mean(dim=-1)
    return (squared * mask).sum() / mask.sum().clamp(min=1)
