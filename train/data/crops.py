"""Faces of photographs, found and aligned once, for `train.face` and `train.prepare`."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from tqdm import tqdm

from runtime.features.appearance import aligned
from runtime.features.spec import SPEC
from runtime.features.vision import VisionFeatures
from runtime.store import models

from .. import workers
from .corpora import DataError

__all__ = ["MARGIN", "Crops", "cached", "centre", "content_key", "find_faces"]

Arrays = dict[str, NDArray[Any]]

MARGIN = 0.125  # of the side, around the aligned face: room to turn and shift it in training
# Part of the cache's key: raise it when this file, or the way to a face, makes other crops.
_VERSION = 1


@dataclass(frozen=True)
class Crops:
    """`grey` (n, 60, 60) uint8 aligned faces with a margin; `rows` (n, Dv) float32 vision rows
    whose appearance columns are 0; all zeros where no face was found."""

    grey: NDArray[np.uint8]
    rows: NDArray[np.float32]

    @property
    def found(self) -> NDArray[np.bool_]:
        """(n,) whether there is a face."""
        return np.asarray(self.rows[:, -1] > 0)


def find_faces(pictures: Sequence[Path], cache_folder: Path) -> Crops:
    """The largest face of every picture, from the cache or found now.

    The cache is keyed by the face model and by name and content of the pictures. Raises DataError
    for a file that is not a picture.
    """
    contract = [_VERSION, SPEC.face_model_sha256, SPEC.appearance_size, SPEC.vision_dim]
    key = content_key(contract, ((f"{path.parent.name}/{path.name}", path) for path in pictures))
    stored = cached(cache_folder / f"faces-{key}.safetensors", partial(_look, pictures))
    return Crops(stored["grey"], stored["rows"])


def content_key(contract: Sequence[object], files: Iterable[tuple[str, Path]]) -> str:
    """16 digits that stand for `contract` and for names and contents of files, not their dates.
    Raises DataError for a file that cannot be read."""
    digest = hashlib.sha256(json.dumps(contract).encode())
    for name, path in files:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from error
        digest.update(name.encode() + hashlib.sha256(content).digest())
    return digest.hexdigest()[:16]


def cached(path: Path, make: Callable[[], Arrays]) -> Arrays:
    """Arrays by name, from a safetensors file or made now and stored there; a damaged file is made
    anew."""
    try:
        return load_file(path)
    except (OSError, SafetensorError):
        arrays = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}.partial")
        save_file(arrays, unfinished)
        os.replace(unfinished, path)
        return arrays


def centre(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(..., 60, 60) crops with a margin -> (..., 48, 48), what the device looks at."""
    edge = round(MARGIN * SPEC.appearance_size)
    return grey[..., edge : edge + SPEC.appearance_size, edge : edge + SPEC.appearance_size]


def _look(pictures: Sequence[Path]) -> Arrays:
    with workers.pool() as pool:
        results = pool.map(_face, pictures, chunksize=16)
        found = list(tqdm(results, desc="faces", total=len(pictures), unit="picture"))
    side = round(SPEC.appearance_size * (1 + 2 * MARGIN))
    grey = np.array([crop for crop, _ in found], np.uint8).reshape(-1, side, side)
    rows = np.array([row for _, row in found], np.float32).reshape(-1, SPEC.vision_dim)
    return {"grey": grey, "rows": rows}


def _face(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    import cv2

    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise DataError(f"{path}: not a picture; replace or remove it")
    rgb = np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)
    networks = _networks()
    face = networks.largest_face(rgb)
    row = networks.row_of(face, rgb)
    if face is None:
        side = round(SPEC.appearance_size * (1 + 2 * MARGIN))
        return np.zeros((side, side), np.uint8), row
    return aligned(rgb, face.landmarks, MARGIN), row


@cache
def _networks() -> VisionFeatures:
    import cv2

    cv2.setNumThreads(1)  # the processes share the cores
    return VisionFeatures(models.resolve("face-landmarker"), appearance=None)
