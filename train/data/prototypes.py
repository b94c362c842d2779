"""Faces without photographs: the action units that the literature names for each emotion.

Prototypes and major variants after the FACS investigator's guide (Ekman, Friesen and Hager 2002)
and Lucey et al. 2010, table 1; the blendshapes are those of the device's face model. They contain
nobody's picture and so need no licence; how well they work is measured on photographs.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.features.spec import SPEC

from .corpora import EMOTIONS, SPLITS, Recording

__all__ = ["PROTOTYPES", "prototypes"]

PROTOTYPES = "prototypes"
_N_EACH = {"train": 150, "valid": 20, "test": 20}

# Action unit -> blendshapes (both sides where they come in pairs) and how far one of them goes at
# full intensity, as the device's face model reads it: it hardly moves cheeks and noses.
_UNITS: dict[int, dict[str, float]] = {
    1: {"browInnerUp": 0.8},
    2: {"browOuterUp": 0.7},
    4: {"browDown": 0.8},
    5: {"eyeWide": 0.5},
    6: {"cheekSquint": 0.05, "eyeSquint": 0.5},
    7: {"eyeSquint": 0.6, "eyeBlink": 0.2},
    9: {"noseSneer": 0.1, "mouthUpperUp": 0.3, "browDown": 0.5, "eyeSquint": 0.8, "eyeBlink": 0.4},
    10: {"mouthUpperUp": 0.6},
    12: {"mouthSmile": 0.9},
    15: {"mouthFrown": 0.4},
    16: {"mouthLowerDown": 0.5},
    17: {"mouthShrugLower": 0.7, "mouthShrugUpper": 0.3},
    20: {"mouthStretch": 0.5, "mouthLowerDown": 0.4},
    23: {"mouthPress": 0.4, "mouthRollLower": 0.4, "mouthRollUpper": 0.2},
    24: {"mouthPress": 0.5, "mouthPucker": 0.2},
    25: {"mouthLowerDown": 0.4, "mouthUpperUp": 0.4},
    26: {"jawOpen": 0.4},
    27: {"jawOpen": 0.7, "mouthFunnel": 0.3},
}
# Alternatives for each emotion, all of them equally often.
_EMOTIONS: dict[str, tuple[tuple[int, ...], ...]] = {
    "anger": ((4, 5, 7, 23), (4, 5, 7, 24), (4, 7, 10, 25), (4, 7, 17, 23), (4, 7, 17, 24)),
    "disgust": ((9,), (9, 16, 25), (9, 17), (10, 16, 25), (9, 10, 17)),
    "fear": ((1, 2, 4, 5, 20, 25), (1, 2, 4, 5, 20, 26), (1, 2, 4, 5), (1, 4, 20, 25), (1, 4, 5)),
    "happiness": ((6, 12), (12,), (6, 12, 25)),
    "sadness": ((1, 4), (1, 4, 15), (1, 4, 15, 17), (1, 15, 17), (1, 4, 17)),
    "surprise": ((1, 2, 5, 26), (1, 2, 5, 27), (1, 2, 26), (1, 2, 27)),
}  # fmt: skip


def prototypes() -> list[tuple[Recording, NDArray[np.float32]]]:
    """Rows (91,) of made-up faces, as `train.prepare` makes them of photographs; always the same.

    Intensities vary by action unit and by side; pose is 0 and the face is there.
    """
    rng = np.random.default_rng(0)
    out = []
    for split in SPLITS:
        for emotion, alternatives in _EMOTIONS.items():
            for k in range(_N_EACH[split]):
                units = alternatives[int(rng.integers(len(alternatives)))]
                person = f"{split}-{emotion}-{k}"
                recording = Recording(
                    path=Path(person),
                    emotion=EMOTIONS.index(emotion),
                    person=person,
                    split=split,
                    corpus=PROTOTYPES,
                )
                out.append((recording, _face(rng, units)))
    return out


def _face(rng: np.random.Generator, units: tuple[int, ...]) -> NDArray[np.float32]:
    row = np.zeros(SPEC.vision_dim, np.float32)
    shapes = row[: len(SPEC.blendshapes)]
    # A face at rest is not all zeros: lids, gaze and mouth differ between people.
    shapes += np.abs(rng.normal(0.0, 0.06, len(shapes)))
    overall = rng.uniform(0.5, 1.0)
    for unit in units:
        strength = overall * rng.uniform(0.4, 1.2)
        for name, reach in _UNITS[unit].items():
            for k, shape in enumerate(SPEC.blendshapes):
                if shape in (name, f"{name}Left", f"{name}Right"):
                    shapes[k] = max(shapes[k], strength * reach * rng.uniform(0.8, 1.1))
    np.clip(shapes, 0.0, 1.0, out=shapes)
    row[-1] = 1.0
    return row
