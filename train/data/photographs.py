"""Aligned faces as other cameras, lights and crops would have shown them: training of the
appearance network."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.features.spec import SPEC

__all__ = ["vary"]

Grey = NDArray[np.uint8]


def vary(rng: np.random.Generator, crop: Grey) -> Grey:
    """One aligned face (60, 60) uint8 with its margin -> (48, 48) uint8, turned and shifted a
    little, mirrored or not; then lit, blurred, coarsened, compressed or covered by chance."""
    picture = _moved(rng, crop)
    for change, share in (
        (_lit, 0.6),
        (_blurred, 0.4),
        (_coarse, 0.2),
        (_noisy, 0.3),
        (_compressed, 0.15),
        (_covered, 0.2),
    ):
        if rng.random() < share:
            picture = change(rng, picture)
    return picture


def _moved(rng: np.random.Generator, crop: Grey) -> Grey:
    """Landmarks are a pixel or two off, on other pictures otherwise."""
    import cv2

    side, size = crop.shape[0], SPEC.appearance_size
    turn = cv2.getRotationMatrix2D(
        ((side - 1) / 2,) * 2, float(rng.normal(0.0, 5.0)), float(rng.uniform(0.92, 1.1))
    )
    turn[:, 2] += (size - side) / 2 + rng.normal(0.0, 1.2, 2)
    picture = cv2.warpAffine(crop, turn, (size, size), borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(picture[:, ::-1] if rng.random() < 0.5 else picture, np.uint8)


def _lit(rng: np.random.Generator, picture: Grey) -> Grey:
    """Light from one side, and another contrast curve."""
    size = picture.shape[0]
    y, x = np.mgrid[-1.0 : 1.0 : size * 1j, -1.0 : 1.0 : size * 1j]
    angle = rng.uniform(0.0, 2.0 * np.pi)
    light = 1.0 + rng.uniform(0.0, 0.8) * (np.cos(angle) * x + np.sin(angle) * y)
    value = (np.maximum(picture / 255.0, 0.0) ** rng.uniform(0.5, 1.8)) * np.maximum(light, 0.05)
    return _clipped(255.0 * value * rng.uniform(0.5, 1.3))


def _blurred(rng: np.random.Generator, picture: Grey) -> Grey:
    import cv2

    return np.asarray(cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.3, 1.2))), np.uint8)


def _coarse(rng: np.random.Generator, picture: Grey) -> Grey:
    """As of a face that was smaller than the crop."""
    import cv2

    side = int(rng.integers(20, 44))
    small = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(
        cv2.resize(small, picture.shape[::-1], interpolation=cv2.INTER_LINEAR), np.uint8
    )


def _noisy(rng: np.random.Generator, picture: Grey) -> Grey:
    return _clipped(picture + rng.normal(0.0, rng.uniform(1.0, 10.0), picture.shape))


def _compressed(rng: np.random.Generator, picture: Grey) -> Grey:
    import cv2

    quality = int(rng.integers(25, 90))
    _, encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE), np.uint8)


def _covered(rng: np.random.Generator, picture: Grey) -> Grey:
    """A hand, hair or a microphone: a rectangle of one grey."""
    size = picture.shape[0]
    height, width = rng.integers(size // 8, size // 3, 2)
    top, left = rng.integers(size - height), rng.integers(size - width)
    picture = picture.copy()
    picture[top : top + height, left : left + width] = rng.integers(256)
    return picture


def _clipped(values: NDArray[Any]) -> Grey:
    return np.clip(values, 0.0, 255.0).astype(np.uint8)
