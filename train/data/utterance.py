"""One training sample, batches of them, and what every data set offers to the trainer."""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from runtime.features.embedding import no_embedding

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Corpus", "Utterance", "collate", "labelled_part"]

Float = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """One sample; a modality of zero rows is absent. `audio` (Ta, Da), `vision` (Tv, Dv) float32.

    `text` is (Tt,) int64 word pieces, or (Tt, Dt) float32 where a data set brings ready vectors.
    `words` is what the pieces were made from, where it is known. `emotion` -1, `sentiment` NaN (in
    [-3, 3]) and `arousal` NaN (in [-1, 1]) mean unlabelled; `id` names the sample in its data set.
    `shown`: the emotion that text, audio and vision show, each by itself, where that differs from
    the whole; `own_sentiment`: their sentiments, where each is rated by itself. `log_prior`:
    logarithm of how common each emotion is where the sample was drawn, up to a constant; none where
    all are equally common. `audio_embedding` (576,): of the voice, zeros where it is not known.
    """

    text: NDArray[Any]
    audio: Float
    vision: Float
    emotion: int
    sentiment: float
    arousal: float = float("nan")
    words: str = ""
    id: str = ""
    shown: tuple[int, int, int] | None = None
    own_sentiment: tuple[float, float, float] | None = None
    log_prior: tuple[float, ...] | None = None
    audio_embedding: Float = field(default_factory=no_embedding)


class Corpus(Protocol):
    """A data set. Every utterance follows from (seed, epoch, index), so that runs can resume."""

    n_training: int

    def training(self, epoch: int, index: int) -> Utterance:
        """Utterance `index` (0 to `n_training` - 1) of an epoch, in that epoch's order."""
        ...

    def held_out(self, split: str) -> Iterable[Utterance]:
        """The fixed utterances of a split (train, valid or test), in order, nothing augmented."""
        ...


def collate(utterances: Sequence[Utterance]) -> "dict[str, Tensor]":
    """The model's inputs (padded, with masks) and the labels `emotion` (B,), `sentiment` (B,),
    `arousal` (B,) and, by modality, `shown` (B, 3) and, where anything is rated by itself,
    `own_sentiment` (B, 3).

    Text is `input_ids` (B, Tt) where it is word pieces, else `text` (B, Tt, Dt).
    """
    # Here, for the processes that only extract features need no torch, which is slow to load.
    import torch
    from torch.nn.utils.rnn import pad_sequence

    batch: dict[str, Tensor] = {}
    for m in ("text", "audio", "vision"):
        rows = [torch.from_numpy(np.asarray(getattr(u, m))) for u in utterances]
        lengths = torch.tensor([len(r) for r in rows])
        padded = pad_sequence(rows, batch_first=True)
        if padded.shape[1] == 0:  # absent in the whole batch: the graph still needs one row
            padded = padded.new_zeros((len(rows), 1, *padded.shape[2:]))
        batch["input_ids" if padded.ndim == 2 else m] = padded
        batch[f"{m}_mask"] = torch.arange(padded.shape[1]) < lengths[:, None]
    batch["audio_embedding"] = torch.from_numpy(np.stack([u.audio_embedding for u in utterances]))
    batch["emotion"] = torch.tensor([u.emotion for u in utterances])
    batch["shown"] = torch.tensor([u.shown or (u.emotion,) * 3 for u in utterances])
    batch["sentiment"] = torch.tensor([u.sentiment for u in utterances], dtype=torch.float32)
    if any(u.own_sentiment for u in utterances):
        own = [u.own_sentiment or (u.sentiment,) * 3 for u in utterances]
        batch["own_sentiment"] = torch.tensor(own, dtype=torch.float32)
    priors = [u.log_prior for u in utterances if u.log_prior is not None]
    if priors:
        none = (0.0,) * len(priors[0])
        batch["log_prior"] = torch.tensor([u.log_prior or none for u in utterances])
    batch["arousal"] = torch.tensor([u.arousal for u in utterances], dtype=torch.float32)
    return batch


@functools.lru_cache(maxsize=256)
def labelled_part(n: int, labelled: bool | None, share: float) -> NDArray[np.int64]:
    """Indices of the labelled (`share` of them) or the unlabelled of `n` items, spread evenly over
    them; of all for None.

    What is labelled never changes, so that the share of labels is one of the data set, not one of
    the batches.
    """
    everything = np.arange(n)
    if labelled is None:
        return everything
    counted = np.ceil(np.arange(n + 1) * share)
    chosen = np.flatnonzero((np.diff(counted) > 0) == labelled)
    return chosen if len(chosen) else everything
