"""Vision rows: blendshapes, head pose, appearance and a face-present flag of one picture.

MediaPipe's three face networks run here on LiteRT, without the mediapipe package: that package
reports its use to its maker over the network, which a private runtime must not do. The steps
between the networks follow MediaPipe's published graphs (face_detector_graph.cc,
face_landmarks_detector_graph.cc, face_blendshapes_graph.cc, v1.0); a golden test compares the
result with MediaPipe's own. Each picture is treated on its own; `tracking.py` follows a face.
"""

import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import FeatureError, ModelError
from .appearance import Appearance
from .boxes import merge_overlapping
from .litert import Network
from .spec import SPEC

__all__ = ["APPEARANCE", "Face", "VisionFeatures"]

Float = NDArray[np.float32]

APPEARANCE = Path(__file__).parent.parent / "assets" / "appearance.onnx"
_DETECTOR_SIZE = 128
_LANDMARK_SIZE = 256
_ROI_SCALE = 1.5
# The detector wants surroundings: a second look has a margin of this share of the picture.
_MARGIN = 0.375
# A picture up to this size may be nothing but a face, tighter than the detector finds any. The
# landmark network then looks at all of it, at these shares of its longer side; what it is less
# sure of is believed, for somebody has cut the face out. FER+ loses 1.4 % of its faces so, not 10.
_CROP_SIZE, _CROP_SCALES, _CROP_SCORE = 224, (1.0, 1.4, 1.2), 0.1
# face_blendshapes_graph.cc, kLandmarksSubsetIdxs: the landmarks that the blendshape net reads.
# fmt: off
_BLENDSHAPE_LANDMARKS = np.array([
    0, 1, 4, 5, 6, 7, 8, 10, 13, 14, 17, 21, 33, 37, 39, 40, 46, 52, 53, 54, 55, 58, 61, 63, 65, 66,
    67, 70, 78, 80, 81, 82, 84, 87, 88, 91, 93, 95, 103, 105, 107, 109, 127, 132, 133, 136, 144,
    145, 146, 148, 149, 150, 152, 153, 154, 155, 157, 158, 159, 160, 161, 162, 163, 168, 172, 173,
    176, 178, 181, 185, 191, 195, 197, 234, 246, 249, 251, 263, 267, 269, 270, 276, 282, 283, 284,
    285, 288, 291, 293, 295, 296, 297, 300, 308, 310, 311, 312, 314, 317, 318, 321, 323, 324, 332,
    334, 336, 338, 356, 361, 362, 365, 373, 374, 375, 377, 378, 379, 380, 381, 382, 384, 385, 386,
    387, 388, 389, 390, 397, 398, 400, 402, 405, 409, 415, 454, 466, 468, 469, 470, 471, 472, 473,
    474, 475, 476, 477,
], np.int64)
# fmt: on
# Face-mesh vertices: outer eye corners (image left, image right), top of forehead, chin.
_EYE_LEFT, _EYE_RIGHT, _FOREHEAD, _CHIN = 33, 263, 10, 152


@dataclass(frozen=True, kw_only=True)
class Face:
    """One face: `landmarks` (478, 3) float32 in pixels (z grows away from the camera, same unit),
    `blendshapes` (52,) float32 in [0, 1], `appearance` (SPEC.appearance_dim,) float32."""

    landmarks: Float
    blendshapes: Float
    appearance: Float


class VisionFeatures:
    """The face networks. `model`: path of `face_landmarker.task` (see `models.py`); `appearance`:
    path of the appearance network, None to leave its columns 0 (while it is being trained)."""

    def __init__(self, model: Path, appearance: Path | None = APPEARANCE) -> None:
        self._appearance = None if appearance is None else Appearance(appearance)
        try:
            with zipfile.ZipFile(model) as task:
                self._detector, self._mesh, self._blendshapes = (
                    Network(task.read(f"{name}.tflite"))
                    for name in ("face_detector", "face_landmarks_detector", "face_blendshapes")
                )
        except (zipfile.BadZipFile, KeyError, OSError) as error:
            raise ModelError(f"{model}: not a face landmarker task file ({error})") from error

    def row(self, rgb: NDArray[np.uint8]) -> Float:
        """(SPEC.vision_dim,) float32 row of the largest face in an (H, W, 3) uint8 RGB picture.

        52 blendshapes in [0, 1]; yaw, pitch, roll in radians; x, y of the face's centre in
        [-0.5, 0.5] of the picture; face height over picture height; the appearance; 1.0. All zeros
        without a face.
        """
        return self.row_of(self.largest_face(rgb), rgb)

    @staticmethod
    def row_of(face: Face | None, rgb: NDArray[np.uint8]) -> Float:
        """The (SPEC.vision_dim,) row of a face that was found in this picture, or of none."""
        if face is None:
            return np.zeros(SPEC.vision_dim, np.float32)
        pose = _head_pose(face.landmarks, rgb.shape[1], rgb.shape[0])
        return np.concatenate([face.blendshapes, pose, face.appearance, [1.0]]).astype(np.float32)

    def largest_face(self, rgb: NDArray[np.uint8]) -> Face | None:
        """The face with the largest detection box, or None. `rgb`: (H, W, 3) uint8.

        Raises FeatureError for any other shape or type.
        """
        return next((face for _, face in self.faces(rgb, self.boxes(rgb))), None)

    def faces(self, rgb: NDArray[np.uint8], boxes: Iterable[Float]) -> Iterator[tuple[Float, Face]]:
        """The boxes in which there really is a face, in their order, and the faces.

        A small picture without any is looked at as if it were nothing but a face.
        """
        found = False
        for box in boxes:
            landmarks, score = self._landmarks(rgb, box)
            if score >= SPEC.min_face_score:
                found = True
                yield box, self._face(rgb, landmarks)
        if not found and max(rgb.shape[:2]) <= _CROP_SIZE:
            yield from self._crop(rgb)

    def _crop(self, rgb: NDArray[np.uint8]) -> Iterator[tuple[Float, Face]]:
        """The face of a picture that is nothing but one: where the landmark network is surest."""
        for places in (_whole(rgb), self._detect(rgb, 0.0, _CROP_SCORE) + self._detect(rgb)):
            looks = [(*self._landmarks(rgb, box), box) for box in places]
            if looks:
                landmarks, score, box = max(looks, key=lambda look: look[1])
                if score >= _CROP_SCORE:
                    yield box, self._face(rgb, landmarks)
                    return

    def boxes(self, rgb: NDArray[np.uint8]) -> list[Float]:
        """Where faces seem to be in an (H, W, 3) uint8 picture, the largest first.

        Boxes are (16,): x, y of the centre, width, height and 6 key points (x, y), all in pixels.
        Raises FeatureError for any other shape or type of picture.
        """
        if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or 0 in rgb.shape:
            raise FeatureError(f"a picture must be (H, W, 3) uint8, got {rgb.shape} {rgb.dtype}")
        return self._detect(rgb, 0.0) or self._detect(rgb)

    def surest(self, rgb: NDArray[np.uint8]) -> float:
        """The detector's logit where it is surest of a face in an (H, W, 3) uint8 picture."""
        return float(self._detector(_letterboxed(rgb, 0.0)[0])[1].max())

    def fits(self, rgb: NDArray[np.uint8]) -> float:
        """How likely, in [0, 1], the landmark network finds a face in the largest box; 0 without
        one."""
        boxes = self.boxes(rgb)
        return self._landmarks(rgb, boxes[0])[1] if boxes else 0.0

    def _detect(
        self,
        rgb: NDArray[np.uint8],
        margin: float = _MARGIN,
        min_score: float = SPEC.min_face_score,
    ) -> list[Float]:
        """`boxes` of the picture with its edges drawn out by that share of its longer side."""
        picture, (scale, dx, dy) = _letterboxed(rgb, margin)
        regressors, logits = self._detector(picture)
        clipped = np.clip(logits.reshape(-1).astype(np.float64), -100.0, 100.0)
        scores = 1.0 / (1.0 + np.exp(-clipped))
        keep = np.flatnonzero(scores >= min_score)
        found = regressors.reshape(-1, 16)[keep].astype(np.float64)
        found[:, :2] += _anchors()[keep]
        found[:, 4:] += np.tile(_anchors()[keep], 6)
        found = merge_overlapping(found, scores[keep])
        found[:, [0, *range(4, 16, 2)]] -= dx
        found[:, [1, *range(5, 16, 2)]] -= dy
        return sorted((found / scale).astype(np.float32), key=lambda box: -box[2] * box[3])

    def _face(self, rgb: NDArray[np.uint8], landmarks: Float) -> Face:
        (blendshapes,) = self._blendshapes(landmarks[_BLENDSHAPE_LANDMARKS, :2][None])
        return Face(
            landmarks=landmarks,
            blendshapes=blendshapes.reshape(-1),
            appearance=np.zeros(SPEC.appearance_dim, np.float32)
            if self._appearance is None
            else self._appearance(rgb, landmarks),
        )

    def _landmarks(self, rgb: NDArray[np.uint8], box: Float) -> tuple[Float, float]:
        """(478, 3) float32 landmarks in pixels of the face in `box`, and how likely, in [0, 1],
        there is one."""
        import cv2

        x, y, w, h = box[:4]
        (x0, y0), (x1, y1) = box[4:6], box[6:8]  # the eyes: the crop is turned to level them
        angle = np.arctan2(y1 - y0, x1 - x0)
        unit = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        size = _ROI_SCALE * np.array([w, h])
        to_picture = unit * (size / _LANDMARK_SIZE)
        centre = np.array([x, y]) - to_picture @ np.full(2, _LANDMARK_SIZE / 2)
        crop = cv2.warpAffine(
            rgb,
            np.column_stack([to_picture, centre]),
            (_LANDMARK_SIZE, _LANDMARK_SIZE),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        mesh, presence, _ = self._mesh(crop[None].astype(np.float32) / 255.0)
        score = 1.0 / (1.0 + np.exp(-float(presence.reshape(-1)[0])))
        points = mesh.reshape(-1, 3)
        xy = points[:, :2] @ to_picture.T + centre
        landmarks = np.column_stack([xy, points[:, 2] * size[0] / _LANDMARK_SIZE])
        return landmarks.astype(np.float32), score


@cache
def _anchors() -> NDArray[np.float64]:
    """(896, 2) anchor centres in detector pixels: 2 a cell at stride 8, 6 a cell at stride 16."""
    centres = []
    for stride, per_cell in ((8, 2), (16, 6)):
        grid = (np.arange(_DETECTOR_SIZE // stride) + 0.5) * stride
        y, x = np.meshgrid(grid, grid, indexing="ij")
        centres.append(np.repeat(np.column_stack([x.ravel(), y.ravel()]), per_cell, axis=0))
    return np.concatenate(centres)


def _letterboxed(rgb: NDArray[np.uint8], margin: float) -> tuple[Float, tuple[float, float, float]]:
    """(1, 128, 128, 3) float32 in [-1, 1] for the detector, and scale and offsets in it."""
    import cv2

    height, width = rgb.shape[:2]
    scale = _DETECTOR_SIZE / (max(height, width) * (1.0 + 2.0 * margin))
    dx, dy = (_DETECTOR_SIZE - width * scale) / 2, (_DETECTOR_SIZE - height * scale) / 2
    crop = cv2.warpAffine(
        rgb,
        np.array([[scale, 0, dx], [0, scale, dy]]),
        (_DETECTOR_SIZE, _DETECTOR_SIZE),
        borderMode=cv2.BORDER_REPLICATE if margin else cv2.BORDER_CONSTANT,
    )
    return crop[None].astype(np.float32) / 127.5 - 1.0, (scale, dx, dy)


def _whole(rgb: NDArray[np.uint8]) -> list[Float]:
    """Boxes (16,) as of a detector that takes the whole picture for an upright face."""
    height, width = rgb.shape[:2]
    boxes = []
    for scale in _CROP_SCALES:
        box = np.zeros(16, np.float32)
        box[:4] = width / 2, height / 2, *([scale * max(height, width) / _ROI_SCALE] * 2)
        box[4:8] = 0.3 * width, 0.4 * height, 0.7 * width, 0.4 * height
        boxes.append(box)
    return boxes


def _head_pose(landmarks: Float, width: int, height: int) -> Float:
    """(6,): yaw, pitch, roll in radians, x, y in [-0.5, 0.5] of the picture, face height share.

    The head's axes are the line through the outer eye corners and, made orthogonal to it, the
    line from forehead to chin.
    """
    right = landmarks[_EYE_RIGHT] - landmarks[_EYE_LEFT]
    down = landmarks[_CHIN] - landmarks[_FOREHEAD]
    right = right / max(float(np.linalg.norm(right)), 1e-6)
    forward = np.cross(right, down)
    forward = forward / max(float(np.linalg.norm(forward)), 1e-6)
    down_unit = np.cross(forward, right)
    yaw = np.arcsin(np.clip(-right[2], -1.0, 1.0))
    pitch = np.arctan2(down_unit[2], forward[2])
    roll = np.arctan2(right[1], right[0])
    x, y = landmarks[:, :2].mean(axis=0) / (width, height) - 0.5
    return np.array([yaw, pitch, roll, x, y, np.linalg.norm(down) / height], np.float32)
