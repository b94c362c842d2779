"""Voices for utterances: who, through which channel, against which speech of theirs before."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.features.embedding import no_embedding
from runtime.features.normal import SpeechStatistics, voiced_sums
from runtime.features.spec import SPEC

from ..corpora import NEUTRAL, Recording
from ..utterance import labelled_part

__all__ = ["Voices", "vary_rows"]

Float = NDArray[np.float32]
Rng = np.random.Generator

_FIRST, _FEW = 0.35, 0.65  # share of utterances that are a session's first; up to its fourth
_MOST = 20  # utterances before one, at the most
# How often a corpus is drawn, against 1: those whose voices show nothing but neutral come less.
_SHARE = {"digits": 0.6, "plain": 0.3}
_FLAT = "plain"  # the corpus whose voices are flat by nature


@dataclass(frozen=True, eq=False)
class _Clip:
    """`versions`: raw rows (T, 43) and embedding (576,), clean first, then as through other
    channels; `sums`: of each, what `voiced_sums` gives; `intensity`: of the emotion."""

    versions: list[tuple[Float, Float]]
    sums: list[NDArray[np.float64]]
    intensity: float


class Voices:
    """Recorded voices by split and emotion. `voices`: (recording, versions) pairs, of which version
    k of all clips of a person has the same channel. `unheard_share`: of training voices, how many
    come without their embedding."""

    def __init__(
        self,
        voices: Sequence[tuple[Recording, list[tuple[Float, Float]]]],
        unheard_share: float = 1.0,
    ) -> None:
        self._unheard_share = unheard_share
        self._clips: dict[tuple[str, int], dict[str, list[tuple[str, _Clip]]]] = defaultdict(dict)
        self._of: dict[str, list[_Clip]] = defaultdict(list)
        for recording, versions in voices:
            sums = [voiced_sums(rows) for rows, _ in versions]
            clip = _Clip(versions, sums, recording.intensity)
            person = f"{recording.corpus}/{recording.person}"
            by_corpus = self._clips[recording.split, recording.emotion]
            by_corpus.setdefault(recording.corpus, []).append((person, clip))
            self._of[person].append(clip)

    def known(self, split: str) -> list[int]:
        """The emotions that somebody's voice shows in a split."""
        return sorted(emotion for part, emotion in self._clips if part == split)

    @property
    def some_flat(self) -> bool:
        """Whether training voices are there that are flat by nature."""
        return _FLAT in self._clips.get(("train", NEUTRAL), {})

    def draw(
        self,
        rng: Rng,
        split: str,
        emotion: int,
        *,
        augment: bool,
        labelled: bool | None = None,
        labelled_parts: float = 1.0,
        flat: bool = False,
    ) -> tuple[Float, Float, float]:
        """(T, 43) normalised rows of somebody who sounds like `emotion`, the embedding (576,) of
        that voice, and how strong the emotion is; (0, 43), zeros and 1 where nobody does.

        With `augment`, corpora come equally often (but for `_SHARE`), the channel is any, and
        statistics come from 0 to 20 other utterances of the same person through it; otherwise the
        clip is as recorded, and the first of its session. `labelled`: only of those that have
        labels, or of the others. `flat`: only of voices that are flat by nature.
        """
        by_corpus = self._clips.get((split, emotion))
        if flat and by_corpus:
            by_corpus = {_FLAT: by_corpus[_FLAT]}
        if not by_corpus:
            return np.zeros((0, SPEC.audio_dim), np.float32), no_embedding(), 1.0
        if augment:  # the smaller corpus is not drowned
            shares = np.array([_SHARE.get(corpus, 1.0) for corpus in by_corpus])
            chosen = rng.choice(len(shares), p=shares / shares.sum())
            found = list(by_corpus.values())[int(chosen)]
        else:
            found = [item for part in by_corpus.values() for item in part]
        some = labelled_part(len(found), labelled, labelled_parts)
        person, clip = found[some[int(rng.integers(len(some)))]]
        statistics = SpeechStatistics()
        if not augment:
            rows, embedding = clip.versions[0]
            return statistics.normalise(rows), embedding, clip.intensity
        version = int(rng.integers(len(clip.versions)))
        before = self._before(rng, person, clip, version)
        if before is not None:
            statistics.add(before)
        rows, embedding = clip.versions[version]
        rows = statistics.normalise(vary_rows(rng, rows) if rng.random() < 0.5 else rows)
        hidden = self._unheard_share == 1.0 or rng.random() < self._unheard_share
        return rows, no_embedding() if hidden else embedding, clip.intensity

    def _before(
        self, rng: Rng, person: str, clip: _Clip, version: int
    ) -> NDArray[np.float64] | None:
        """Sums of what the person said before `clip`, through the same channel."""
        others = [other for other in self._of[person] if other is not clip]
        kind = rng.random()
        if kind < _FIRST or not others:
            return None
        n = int(rng.integers(1, 4)) if kind < _FEW else int(rng.integers(4, _MOST + 1))
        said = [others[k].sums for k in rng.integers(len(others), size=n)]
        sums = [versions[min(version, len(versions) - 1)] for versions in said]
        return np.asarray(np.sum(sums, axis=0))


def vary_rows(rng: Rng, rows: Float) -> Float:
    """Raw rows (T, 43) of another reading: a part of it, tempo, pitch and vocal tract, a masked
    moment, masked bands."""
    n = len(rows)
    length = int(n * rng.uniform(0.6, 1.0)) if n > 25 else n
    start = int(rng.integers(n - length + 1))
    rows = _tempo(rows[start : start + length], rng.uniform(0.85, 1.15))
    rows = _pitch(rows, rng.uniform(-0.12, 0.12), rng.uniform(-1.5, 1.5))
    if rng.random() < 0.3:
        band = int(rng.integers(SPEC.n_mels - 6))
        rows[:, band : band + int(rng.integers(1, 7))] = rows[:, : SPEC.n_mels].mean()
    if len(rows) > 20:
        masked = int(rng.integers(len(rows) - 8))
        rows[masked : masked + int(rng.integers(1, 8))] = rows.mean(axis=0)
    return rows.astype(np.float32)


def _tempo(rows: Float, factor: float) -> Float:
    """Rows (T, 43) spoken `factor` times as fast: interpolated in time, F0 from the nearest row."""
    at = np.linspace(0.0, len(rows) - 1.0, max(8, int(len(rows) / factor)))
    out = _between(rows, at)
    out[:, SPEC.n_mels] = rows[np.rint(at).astype(int), SPEC.n_mels]
    return out


def _pitch(rows: Float, log_f0: float, bands: float) -> Float:
    """Rows (T, 43) of a speaker whose F0 differs by `log_f0` and whose formants by `bands`."""
    rows = rows.copy()
    mel, voiced = rows[:, : SPEC.n_mels], rows[:, SPEC.n_mels + 1] >= SPEC.voicing_threshold
    at = np.clip(np.arange(SPEC.n_mels) + bands, 0.0, SPEC.n_mels - 1.0)
    rows[:, : SPEC.n_mels] = _between(mel.T, at).T
    rows[voiced, SPEC.n_mels] += log_f0
    return rows


def _between(values: Float, at: NDArray[np.floating]) -> Float:
    """Linear interpolation of `values` (n, k) at fractional indices `at` along the first axis."""
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, len(values) - 1)
    share = (at - low)[:, None].astype(np.float32)
    return np.asarray(values[low] * (1.0 - share) + values[high] * share, np.float32)
