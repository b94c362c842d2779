"""Which training batch holds what: one modality alone or all of them, and which sentences."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from runtime.features.spec import MODALITIES
from train.config import DataConfig

from .sentences import Sentence

__all__ = ["Schedule"]


class Schedule:
    """The batches of every epoch, a function of `seed`; `sentences`: of batches of text alone."""

    def __init__(
        self, config: DataConfig, sentences: Sequence[Sentence], seed: int, batch_size: int
    ) -> None:
        self._config, self._seed, self._batch_size = config, seed, batch_size
        self._sentences = sentences
        self._order: tuple[int, NDArray[np.int64]] | None = None

    def kind(self, epoch: int, batch: int) -> tuple[str, int]:
        """What training batch `batch` of an epoch holds: one modality alone or `whole`; and how
        many batches of that kind came before it, in all epochs."""
        kinds = self._kinds(epoch)
        kind = int(kinds[batch])
        n_before = epoch * int((kinds == kind).sum()) + int((kinds[:batch] == kind).sum())
        return (*MODALITIES, "whole")[kind], n_before

    def _kinds(self, epoch: int) -> NDArray[np.int64]:
        """(n_batches,) kinds, the same number of each in every epoch."""
        n = -(-self._config.utterances_per_epoch // self._batch_size)
        config = self._config
        shares = (config.text_share, config.audio_share, config.vision_share)
        counts = [int(share * n) for share in shares]
        kinds = np.repeat(np.arange(4), [*counts, n - sum(counts)])
        return np.random.default_rng((self._seed, epoch, 0, 1)).permutation(kinds)

    def sentence(self, batch: int, place: int) -> Sentence:
        """The sentence at a place of the text batch of that number, counted over all epochs.

        Each comes once before any comes again, and a batch holds sentences of about the same
        length, because padding costs time too.
        """
        cycle, k = divmod(batch, max(1, len(self._sentences) // self._batch_size))
        if self._order is None or self._order[0] != cycle:
            rng = np.random.default_rng((self._seed, cycle, 0, 2))
            lengths = np.array([len(s.ids) for s in self._sentences])
            near = np.argsort(lengths + rng.uniform(0.0, 6.0, len(lengths)))
            batches = near[: len(near) // self._batch_size * self._batch_size]
            order = rng.permutation(batches.reshape(-1, self._batch_size)).ravel()
            self._order = cycle, order
        return self._sentences[int(self._order[1][k * self._batch_size + place])]
