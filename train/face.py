"""Train the appearance network: `python -m train.face --data DATA`.

Aligned faces of FER+, with the votes of ten people, and of CK+'s training people teach a small
network from scratch; its targets are the votes, not their majority (Barsoum et al. 2016, section
3.4). Run the same command again after an interruption: it goes on after the last finished epoch and
ends the same. Writes `appearance.onnx`, which the runtime ships, and beside it `appearance.json`:
configuration, data, commit, seed, metrics.
"""

import hashlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from runtime.config import option, parse
from runtime.errors import DmdLiveError, UsageError
from runtime.features.appearance import normalised
from runtime.features.spec import SPEC
from runtime.system.files import write_file

from .data import corpora
from .data.crops import centre, find_faces
from .data.labels import EMOTIONS, UNKNOWN, VOTES, Recording
from .data.photographs import vary
from .metrics import emotion_metrics
from .models.appearance import AppearanceNet, to_onnx
from .provenance import commit, write_json

__all__ = ["Options", "main", "targets", "train"]

_CORPORA = ("ferplus", "ckplus48")
# Columns of the votes in the order of EMOTIONS; contempt, unknown and "not a face" are left over.
_SEVEN = [VOTES.index(name) for name in EMOTIONS]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train the small network that sees what a face looks like, from FER+ and CK+."""

    data: str = option(metavar="DIR", help="folder of the corpora (train/data/corpora.py)")
    out: str = option("face", metavar="DIR", help="where appearance.onnx and its JSON go")
    cache: str = option("build/features", metavar="DIR", help="where the faces found are kept")
    epochs: int = option(16, metavar="N", help="passes over the pictures")
    batch_size: int = option(64, metavar="N", help="pictures in each step")
    learning_rate: float = option(
        2e-3, metavar="X", help="highest learning rate; it warms up and decays"
    )
    balance: float = option(
        0.6,
        metavar="P",
        help="a class of n pictures is drawn in proportion to n ** P; 1: as often as it occurs",
    )
    seed: int = option(1, metavar="N", help="seed of weights, order and variations")
    threads: int = option(1, metavar="N", help="threads of torch; results depend on their number")
    restart: bool = option(False, help="discard an interrupted run in --out")


def main() -> int:
    """Run the command; returns the exit code."""
    options = parse(Options, None, prog="python -m train.face")
    try:
        train(options)
    except DmdLiveError as error:
        print(f"train.face: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ntrain.face: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def train(options: Options) -> None:
    """Train, measure and write the network. Raises DmdLiveError for a user's mistake."""
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    data = Path(options.data)
    people = list(corpora.ferplus(data))
    if (data / corpora.CORPORA["ckplus48"]).is_dir():
        people += corpora.faces(data, ["ckplus48"])
    if not any(p.corpus == "ferplus" and p.split == "train" for p in people):
        raise UsageError(f"{data}: no FER+ found (ferplus/FER2013Train/label.csv)")
    crops = find_faces([p.path for p in people], Path(options.cache))
    part = {
        split: np.array([k for k, p in enumerate(people) if p.split == split and crops.found[k]])
        for split in ("train", "valid")
    }
    wanted = targets(people)
    run = _Run(options, out, n_steps=-(-len(part["train"]) // options.batch_size))
    for epoch in range(run.epoch, options.epochs):
        batches = _batches(crops.grey, wanted, part["train"], options, epoch)
        loss = run.descend(tqdm(batches, f"epoch {epoch + 1} of {options.epochs}", run.n_steps))
        scores = {
            corpus: measure(run.average, crops.grey[chosen], [people[k] for k in chosen])
            for corpus in _CORPORA
            if len(chosen := np.array([k for k in part["valid"] if people[k].corpus == corpus]))
        }
        run.finish_epoch({"loss": loss, "valid": scores})
        shown = " ".join(f"{m} {scores['ferplus'][m]:.3f}" for m in ("accuracy", "uar", "ece"))
        print(f"  loss {loss:.3f}, FER+ validation: {shown}", flush=True)
    found = {
        corpus: float(np.mean([crops.found[k] for k, p in enumerate(people) if p.corpus == corpus]))
        for corpus in _CORPORA
        if any(p.corpus == corpus for p in people)
    }
    _write(run, out, {"n_training": len(part["train"]), "share_with_a_face": found})


def targets(people: Sequence[Recording]) -> NDArray[np.float32]:
    """(n, 10) shares of the votes. A single vote among ten is taken for a slip, as in FER+'s own
    code; a picture without votes has one label, which counts like ten."""
    rows = np.zeros((len(people), len(VOTES)), np.float32)
    for row, person in zip(rows, people, strict=True):
        if person.votes:
            row[:] = person.votes
            row[row <= 1.0] = 0.0
            if not row.any():
                row[:] = person.votes
        else:
            row[_SEVEN[person.emotion]] = 1.0
    return rows / rows.sum(axis=1, keepdims=True)


def measure(
    net: AppearanceNet, grey: NDArray[np.uint8], people: Sequence[Recording]
) -> dict[str, float]:
    """Metrics of the seven emotions on crops (n, 60, 60), against label or most frequent vote;
    pictures of anything else are left out."""
    known = [k for k, p in enumerate(people) if p.emotion != UNKNOWN]
    net.eval()
    with torch.no_grad():
        faces = torch.from_numpy(normalised(centre(grey[known])))[:, None]
        logits = torch.cat([net(part) for part in faces.split(256)]).numpy()
    probabilities = softmax(logits[:, _SEVEN], axis=1)
    return emotion_metrics(probabilities, np.array([people[k].emotion for k in known]))


def _batches(
    grey: NDArray[np.uint8],
    wanted: NDArray[np.float32],
    chosen: NDArray[np.int64],
    options: Options,
    epoch: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """As many pictures as there are, drawn so that rare classes come more often."""
    rng = np.random.default_rng((options.seed, epoch))
    label = wanted[chosen].argmax(axis=1)
    counts = np.bincount(label, minlength=wanted.shape[1])
    share = np.where(counts > 0, counts, 1.0) ** (options.balance - 1.0)
    weight = share[label] / share[label].sum()
    drawn = rng.choice(chosen, len(chosen), p=weight)
    for start in range(0, len(drawn), options.batch_size):
        part = drawn[start : start + options.batch_size]
        faces = normalised(np.stack([vary(rng, grey[k]) for k in part]))
        yield torch.from_numpy(faces)[:, None], torch.from_numpy(wanted[part])


class _Run:
    """The network, its optimiser and the mean of its late weights; kept in `out/state.pt`."""

    def __init__(self, options: Options, out: Path, n_steps: int) -> None:
        torch.manual_seed(options.seed)
        self.options, self.n_steps, self.path = options, n_steps, out / "state.pt"
        self.net, self.average = AppearanceNet(len(VOTES)), AppearanceNet(len(VOTES))
        self.average.load_state_dict(self.net.state_dict())
        self.adam = torch.optim.AdamW(self.net.parameters(), options.learning_rate, (0.9, 0.99),
                                      weight_decay=0.05)  # fmt: skip
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.adam, options.learning_rate, total_steps=options.epochs * n_steps, pct_start=0.15
        )
        self.epoch, self.seconds, self.commit = 0, 0.0, commit()
        self.history: list[dict[str, Any]] = []
        asked = {**asdict(options), "restart": False, "out": "", "data": "", "cache": ""}
        self.identity = repr(sorted(asked.items()))
        if options.restart:
            self.path.unlink(missing_ok=True)
        if self.path.exists():
            self._restore()

    def descend(self, batches: Iterator[tuple[Tensor, Tensor]]) -> float:
        """One epoch; returns the mean loss."""
        began, losses = time.monotonic(), []
        torch.manual_seed(self.options.seed * 1_000 + self.epoch)  # of dropout
        self.net.train()
        for faces, wanted in batches:
            loss = F.cross_entropy(self.net(faces), wanted)
            self.adam.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.net.parameters(), 2.0)
            self.adam.step()
            self.schedule.step()
            self._follow()
            losses.append(float(loss.detach()))
        self.seconds += time.monotonic() - began
        return float(np.mean(losses))

    def _follow(self, rate: float = 0.995) -> None:
        """The running mean of the weights, which generalises better than the last ones."""
        with torch.no_grad():
            for mean, now in zip(
                self.average.state_dict().values(), self.net.state_dict().values(), strict=True
            ):
                if mean.is_floating_point():
                    mean.lerp_(now, 1.0 - rate)
                else:
                    mean.copy_(now)

    def finish_epoch(self, record: dict[str, Any]) -> None:
        """Keep what the next epoch needs."""
        self.epoch += 1
        self.history.append(record)
        state = {name: getattr(self, name).state_dict() for name in _KEPT}
        plain = {name: getattr(self, name) for name in _PLAIN}
        partial = self.path.with_suffix(".partial")
        torch.save({**state, **plain}, partial)
        os.replace(partial, self.path)

    def _restore(self) -> None:
        saved = torch.load(self.path, weights_only=True)
        if saved["identity"] != self.identity:
            raise UsageError(
                f"{self.path}: from a run with other options; pass another --out, or --restart"
            )
        for name in _KEPT:
            getattr(self, name).load_state_dict(saved[name])
        for name in _PLAIN:
            setattr(self, name, saved[name])


_KEPT = ("net", "average", "adam", "schedule")
_PLAIN = ("epoch", "seconds", "commit", "history", "identity")


def _write(run: _Run, out: Path, about: dict[str, Any]) -> None:
    """appearance.onnx (weights stored in half precision) and appearance.json."""
    model = to_onnx(run.average)
    write_file(out / "appearance.onnx", model)
    sha256 = hashlib.sha256(model).hexdigest()
    options = asdict(run.options)
    config = {k: v for k, v in options.items() if k not in ("data", "out", "cache", "restart")}
    n_parameters = sum(p.numel() for p in run.average.parameters())
    write_json(
        out / "appearance.json",
        {
            "sha256": sha256,
            "config": config,
            "corpora": list(_CORPORA),
            "commit": run.commit,
            "n_parameters": n_parameters,
            "seconds": round(run.seconds, 1),
            **about,
            "valid": run.history[-1]["valid"] if run.history else {},
            "history": run.history,
        },
    )
    print(f"{out / 'appearance.onnx'}: {len(model) / 1e6:.2f} MB, SHA-256 {sha256}")
    if sha256 != SPEC.appearance_sha256:
        print(
            "train.face: to ship it, copy both files to runtime/assets and write its SHA-256 into "
            "runtime/features/spec.py (appearance_sha256); bundles made before no longer fit"
        )


if __name__ == "__main__":
    sys.exit(main())
