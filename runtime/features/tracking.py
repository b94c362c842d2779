"""One face through the pictures of a stream."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .vision import VisionFeatures

__all__ = ["FaceTracker", "Seen"]

Float = NDArray[np.float32]

_LOST_S = 1.0  # a face that is not seen for longer is no longer followed


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """A picture and the face that is followed in it.

    `rgb`: (H, W, 3) uint8; `row`: (Dv,) float32 (see `VisionFeatures.row`); `box`: x, y of the
    centre, width, height in pixels, None without a face; `n_faces`: in view, followed or not;
    `landmarks`: (478, 3) float32 of the face, see `vision.Face`, None without one.
    """

    rgb: NDArray[np.uint8]
    row: Float
    box: tuple[float, float, float, float] | None
    n_faces: int
    landmarks: Float | None = None


class FaceTracker:
    """Follows one face through the pictures of a stream.

    It begins with the largest one and stays with the face nearest to where it last was. When that
    one is hidden while others are in view, for up to 1 s nobody is seen rather than somebody else;
    then the largest is followed. With one face in view the rows are those of `VisionFeatures.row`.
    """

    def __init__(self, networks: VisionFeatures) -> None:
        self._networks = networks
        self._last: Float | None = None  # box of the face that is followed
        self._last_s = self._several_s = -np.inf  # when it, and when several faces, were seen

    def look(self, rgb: NDArray[np.uint8], time_s: float) -> Seen:
        """Take the (H, W, 3) uint8 picture of `time_s`; raises FeatureError for any other."""
        boxes = self._networks.boxes(rgb)
        if len(boxes) > 1:
            self._several_s = time_s
        box, face = next(self._networks.faces(rgb, self._choose(boxes, time_s)), (None, None))
        if box is not None:
            self._last, self._last_s = box, time_s
        return Seen(
            rgb=rgb,
            row=VisionFeatures.row_of(face, rgb),
            box=None if box is None else (box[0], box[1], box[2], box[3]),
            n_faces=len(boxes),
            landmarks=None if face is None else face.landmarks,
        )

    def _choose(self, boxes: list[Float], time_s: float) -> list[Float]:
        """The boxes to look into, the first choice first."""
        last = self._last
        since_s = time_s - min(self._last_s, self._several_s)
        if last is None or not boxes or since_s > _LOST_S:
            return boxes
        nearest = min(boxes, key=lambda box: np.hypot(*(box[:2] - last[:2])))
        near = np.hypot(*(nearest[:2] - last[:2])) <= last[2]
        return [nearest] if near else []
