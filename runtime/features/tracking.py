"""The faces of a stream's pictures, each with a number that stays while it is in view."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .spec import SPEC
from .turning import Turning
from .vision import Face, VisionFeatures

__all__ = ["FaceTracker", "Seen", "SeenFace"]

Float = NDArray[np.float32]

_MOST_FACES = 4  # so many are followed, the largest first
_LOST_S = 1.0  # a face that is not seen for longer is no longer followed
_ROLL = len(SPEC.blendshapes) + SPEC.head_pose.index("roll")
_TILTED = np.pi / 3  # a head that lies further on its side is not believed
# Face-mesh vertices: pairs of inner lip points, one above the other; forehead and chin.
_LIPS = ((13, 14), (82, 87), (312, 317))
_FOREHEAD, _CHIN = 10, 152


@dataclass(frozen=True, kw_only=True, eq=False)
class SeenFace:
    """A face in a picture.

    `id` counts from 1 and stays while the face is in view; `row`: (Dv,) float32 (see
    `VisionFeatures.row`); `box`: x, y of the centre, width, height in pixels; `lips`: how far they
    are apart, over the height of the face; `landmarks`: (478, 3) float32 in pixels.
    """

    id: int
    row: Float
    box: tuple[float, float, float, float]
    lips: float
    landmarks: Float


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """A picture, turned upright, and the faces that are followed in it.

    `rgb`: (H, W, 3) uint8; `n_faces`: in view, followed or not; `upright`: whether faces stand
    upright in it, so that they can be believed. `faces` has those that have been followed longest
    first.
    """

    rgb: NDArray[np.uint8]
    faces: tuple[SeenFace, ...]
    n_faces: int
    upright: bool = True

    @property
    def row(self) -> Float:
        """(Dv,) float32 of the first face, zeros without one."""
        return self.faces[0].row if self.faces else np.zeros(SPEC.vision_dim, np.float32)

    @property
    def box(self) -> tuple[float, float, float, float] | None:
        """The first face's box, None without one."""
        return self.faces[0].box if self.faces else None

    @property
    def landmarks(self) -> Float | None:
        """(478, 3) of the first face (see `vision.Face`), None without one."""
        return self.faces[0].landmarks if self.faces else None


@dataclass
class _Track:
    id: int
    box: Float
    seen_s: float


class FaceTracker:
    """Follows up to four faces through the pictures of a stream.

    A face keeps its number while one is found no further than its own width from where it last
    was. One that is hidden for 1 s is forgotten. `turning` turns the pictures upright.
    """

    def __init__(self, networks: VisionFeatures, turning: Turning | None = None) -> None:
        self._networks = networks
        self._turning = Turning(networks) if turning is None else turning
        self._tracks: list[_Track] = []
        self._n_ids = 0

    def look(self, rgb: NDArray[np.uint8], time_s: float) -> Seen:
        """Take the (H, W, 3) uint8 picture of `time_s`; raises FeatureError for any other."""
        rgb = self._turning.upright(rgb, time_s)
        boxes = self._networks.boxes(rgb)
        found = list(self._networks.faces(rgb, boxes[:_MOST_FACES]))
        self._turning.told(n_faces=len(found))
        self._tracks = [track for track in self._tracks if 0 <= time_s - track.seen_s <= _LOST_S]
        tracks = self._assign([box for box, _ in found], time_s)
        faces, upright = [], not self._turning.askew
        for (box, face), track in zip(found, tracks, strict=True):
            row = VisionFeatures.row_of(face, rgb)
            if self._turning.askew or abs(row[_ROLL]) > _TILTED:
                upright = False
                continue
            x, y, width, height = (float(value) for value in box[:4])
            faces.append(
                SeenFace(
                    id=track.id,
                    row=row,
                    box=(x, y, width, height),
                    lips=_lips(face),
                    landmarks=face.landmarks,
                )
            )
        return Seen(
            rgb=rgb,
            faces=tuple(sorted(faces, key=lambda face: face.id)),
            n_faces=len(found) + max(0, len(boxes) - _MOST_FACES),
            upright=upright,
        )

    def _assign(self, boxes: list[Float], time_s: float) -> list[_Track]:
        """The track of each box: pairs that are nearest first, then new ones."""
        far = [
            (float(np.hypot(*(box[:2] - track.box[:2]))), k, track)
            for k, box in enumerate(boxes)
            for track in self._tracks
        ]
        taken: dict[int, _Track] = {}
        for distance, k, track in sorted(far, key=lambda pair: pair[0]):
            if distance <= track.box[2] and k not in taken and track not in taken.values():
                taken[k] = track
        for k, box in enumerate(boxes):
            if k not in taken:
                self._n_ids += 1
                taken[k] = _Track(self._n_ids, box, time_s)
                self._tracks.append(taken[k])
            taken[k].box, taken[k].seen_s = box, time_s
        return [taken[k] for k in range(len(boxes))]


def _lips(face: Face) -> float:
    points = face.landmarks
    gap = np.mean([np.linalg.norm(points[a] - points[b]) for a, b in _LIPS])
    return float(gap / max(np.linalg.norm(points[_FOREHEAD] - points[_CHIN]), 1e-6))
