"""Faces in motion, made from photographs: a face leaves rest, shows something, talks and blinks.

Rest and expression are photographs of different people with the same code of blendshapes and
appearance; a row moves between them in a straight line. A talking mouth is not an emotion: it
changes the appearance in the way that open mouths of neutral faces differ from closed ones.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from runtime.features.spec import SPEC

from ..corpora import EMOTIONS, NEUTRAL, Recording
from ..utterance import labelled_part

__all__ = ["Faces", "moving_face"]

Float = NDArray[np.float32]
Rng = np.random.Generator

_COLUMN = {name: k for k, name in enumerate(SPEC.blendshapes)}
_N_SHAPES, _FLAG = len(SPEC.blendshapes), -1
_POSE = slice(_N_SHAPES, _N_SHAPES + len(SPEC.head_pose))
_LOOKS = slice(_POSE.stop, _POSE.stop + SPEC.appearance_dim)
_OPEN = 0.15  # jawOpen above which a mouth is open
_STILL = 0.4  # share of utterances whose face shows the same from beginning to end
# Jaw and lips of somebody who speaks, against the opening of the jaw.
_SYLLABLE = {"jawOpen": 1.0, "mouthLowerDownLeft": 0.6, "mouthLowerDownRight": 0.6,
             "mouthUpperUpLeft": 0.3, "mouthUpperUpRight": 0.3,
             "mouthFunnel": 0.4, "mouthPucker": 0.4}  # fmt: skip


class Faces:
    """Photographs by split and emotion. `faces`: (recording, row (Dv,)) pairs.

    Without any neutral photograph (CK+ has none), a face at rest is the lowest tenth of every
    blendshape over the training faces, and faces that hardly move stand for neutral.
    """

    def __init__(self, faces: Sequence[tuple[Recording, Float]]) -> None:
        self._by: dict[tuple[str, int], dict[str, list[tuple[Float, float]]]] = defaultdict(dict)
        for recording, row in faces:
            by_corpus = self._by[recording.split, recording.emotion]
            by_corpus.setdefault(recording.corpus, []).append((row, recording.intensity))
        seen = np.array([row for r, row in faces if r.split == "train"], np.float32)
        seen = seen.reshape(-1, SPEC.vision_dim)
        rest = [row for rows in self._by["train", NEUTRAL].values() for row, _ in rows]
        self._has_neutral = bool(rest)
        self._rest = np.array(rest or [_lowest(seen)], np.float32)
        self._spread = seen.std(axis=0) if len(seen) else np.zeros(SPEC.vision_dim, np.float32)
        self._opening = self._talk_direction()

    def known(self, split: str) -> list[int]:
        """The emotions that somebody shows in a split."""
        found = [e for e in range(len(EMOTIONS)) if self._by.get((split, e))]
        return sorted({*found, NEUTRAL}) if found else []

    def counts(self, split: str) -> NDArray[np.int64]:
        """(7,) photographs of each emotion."""
        return np.array(
            [sum(map(len, self._by.get((split, e), {}).values())) for e in range(len(EMOTIONS))]
        )

    def draw(
        self,
        rng: Rng,
        split: str,
        emotion: int,
        n_rows: int,
        *,
        augment: bool,
        labelled: bool | None = None,
        labelled_parts: float = 1.0,
    ) -> tuple[Float, float]:
        """(n_rows, Dv) rows of somebody who shows `emotion`, and how strong it is; (0, Dv) and 1
        where nobody does.

        With `augment`, corpora are drawn in proportion to the root of their size, and some frames
        are without a face. `labelled`: only of the photographs that have labels, or of the others.
        """
        known = self.known(split)
        if emotion not in known:
            return np.zeros((0, SPEC.vision_dim), np.float32), 1.0
        calm = emotion == NEUTRAL and not self._by.get((split, NEUTRAL))
        shown = int(rng.choice([e for e in known if e != NEUTRAL])) if calm else emotion
        by_corpus = list(self._by[split, shown].values())
        if augment:
            sizes = np.sqrt([len(rows) for rows in by_corpus])
            rows = by_corpus[int(rng.choice(len(by_corpus), p=sizes / sizes.sum()))]
        else:
            rows = [row for rows in by_corpus for row in rows]
        some = labelled_part(len(rows), labelled, labelled_parts)
        peak, strength = rows[some[int(rng.integers(len(some)))]]
        rest = self._rest[int(rng.integers(len(self._rest)))]
        reach = float(rng.uniform(0.0, 0.2) if calm else rng.uniform(0.8, 1.05))
        shown_rows = moving_face(
            rng,
            rest,
            peak,
            reach,
            n_rows,
            spread=self._spread,
            opening=self._opening,
            drop=augment,
        )
        return shown_rows, strength * reach

    def _talk_direction(self) -> Float:
        """(appearance_dim,) what an open mouth adds to a neutral face's appearance, for a jaw that
        is open by 1."""
        jaw = self._rest[:, _COLUMN["jawOpen"]]
        open_, closed = self._rest[jaw > _OPEN], self._rest[jaw <= _OPEN]
        if not (len(open_) and len(closed)):
            return np.zeros(SPEC.appearance_dim, np.float32)
        gap = open_.mean(axis=0) - closed.mean(axis=0)
        return np.asarray(gap[_LOOKS] / gap[_COLUMN["jawOpen"]], np.float32)


def moving_face(
    rng: Rng,
    rest: Float,
    peak: Float,
    intensity: float,
    n_rows: int,
    *,
    spread: Float,
    opening: Float,
    drop: bool,
) -> Float:
    """A sequence (n_rows, Dv): the face leaves `rest` (Dv,), holds `intensity` times the way to
    `peak` (Dv,) and may let go; it talks, blinks and moves its head.

    `spread` (Dv,) is the deviation of training rows, which noise is measured by; `opening`
    (appearance_dim,) what an open mouth looks like. With `drop`, some frames have no face. Pose is
    drawn at random: crops of faces do not carry it.
    """
    n_rows = min(n_rows, round(SPEC.max_utterance_s * SPEC.vision_rate_hz))
    level = _level(rng, n_rows)
    rows = (rest + intensity * level[:, None] * (peak - rest)).astype(np.float32)
    habit = rng.normal(0.0, 0.15, SPEC.vision_dim) * spread
    rows += habit + rng.normal(0.0, 0.12, rows.shape) * spread
    if rng.random() < 0.7:
        _talk(rng, rows, opening)
    _blink(rng, rows)
    rows[:, :_N_SHAPES] = np.clip(rows[:, :_N_SHAPES], 0.0, 1.0)
    centre = rng.normal(0.0, (0.2, 0.15, 0.1, 0.12, 0.12, 0.0))
    centre[-1] = rng.uniform(0.15, 0.9)
    sway = np.cumsum(rng.normal(0.0, (0.02, 0.02, 0.01, 0.003, 0.003, 0.003), (n_rows, 6)), axis=0)
    rows[:, _POSE] = centre + sway
    rows[:, _FLAG] = 1.0
    if drop and rng.random() < 0.3:
        lost = rng.random(n_rows) < rng.uniform(0.05, 0.6)
        lost[int(rng.integers(n_rows))] = False  # one face at least: else vision were absent
        rows[lost] = 0.0
    return rows


def _level(rng: Rng, n_rows: int) -> Float:
    """(n_rows,) in [0, 1]: how much of the expression is there."""
    if rng.random() < _STILL:
        return np.ones(n_rows, np.float32)
    t = np.arange(n_rows, dtype=np.float32)
    onset, rise = rng.uniform(-0.5, 0.3) * n_rows, rng.uniform(2, 8)
    level = np.clip((t - onset) / rise, 0.0, 1.0)
    if rng.random() < 0.3:
        level = np.minimum(level, np.clip((rng.uniform(0.7, 1.1) * n_rows - t) / rise, 0.0, 1.0))
    return np.asarray(level, np.float32)


def _talk(rng: Rng, rows: Float, opening: Float) -> None:
    """Add the mouth of someone who speaks: syllables at 3 to 6 a second."""
    t = np.arange(len(rows)) / SPEC.vision_rate_hz
    syllables = np.abs(np.sin(np.pi * rng.uniform(3.0, 6.0) * t + rng.uniform(0.0, np.pi)))
    jaw = rng.uniform(0.0, 0.35) * syllables * rng.uniform(0.3, 1.0, len(rows))
    for name, share in _SYLLABLE.items():
        rows[:, _COLUMN[name]] += share * jaw
    rows[:, _LOOKS] += (jaw[:, None] * opening).astype(np.float32)


def _blink(rng: Rng, rows: Float) -> None:
    """Close the eyes for one or two frames, every 2 to 6 s."""
    at = rng.uniform(0.0, 4.0)
    while (frame := int(at * SPEC.vision_rate_hz)) < len(rows):
        closed = slice(frame, frame + int(rng.integers(1, 3)))
        for name in ("eyeBlinkLeft", "eyeBlinkRight"):
            rows[closed, _COLUMN[name]] = np.maximum(
                rows[closed, _COLUMN[name]], rng.uniform(0.4, 0.9)
            )
        at += rng.uniform(2.0, 6.0)


def _lowest(seen: Float) -> Float:
    """(Dv,) a face at rest where no photograph is neutral."""
    if not len(seen):
        return np.zeros(SPEC.vision_dim, np.float32)
    rest = seen.mean(axis=0)
    rest[:_N_SHAPES] = np.quantile(seen[:, :_N_SHAPES], 0.1, axis=0)
    return rest
