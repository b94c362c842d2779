"""Boxes of a face detector that mean the same face."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["merge_overlapping"]

_NMS_IOU = 0.3


def merge_overlapping(
    boxes: NDArray[np.float64], scores: NDArray[np.floating[Any]]
) -> NDArray[np.float64]:
    """Weighted non-maximum suppression (non_max_suppression_calculator.cc, WEIGHTED):
    each cluster of overlapping boxes becomes its score-weighted mean. `boxes`: (n, 16)."""
    merged = []
    order = np.argsort(-scores, kind="stable")
    while len(order):
        overlap = _iou(boxes[order[0]], boxes[order]) > _NMS_IOU
        overlap[0] = True
        cluster = order[overlap]
        merged.append(np.average(boxes[cluster], axis=0, weights=scores[cluster]))
        order = order[~overlap]
    return np.array(merged).reshape(-1, 16)


def _iou(box: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of one (x, y, w, h, ...) box with (n, ...) others."""
    low = np.maximum(box[:2] - box[2:4] / 2, others[:, :2] - others[:, 2:4] / 2)
    high = np.minimum(box[:2] + box[2:4] / 2, others[:, :2] + others[:, 2:4] / 2)
    shared = np.prod(np.maximum(high - low, 0.0), axis=1)
    union = np.prod(box[2:4]) + np.prod(others[:, 2:4], axis=1) - shared
    return np.asarray(shared / np.maximum(union, 1e-9))
