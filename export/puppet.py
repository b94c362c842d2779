"""A portrait on a triangle mesh that speaks, smiles, blinks and turns its head.

The face networks' own landmarks are the mesh, so what is moved is what they measure.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.errors import SourceError
from runtime.features.vision import VisionFeatures

__all__ = ["FACE_MODEL", "SIZE", "Array", "Picture", "Pose", "Puppet"]

Array = NDArray[np.float64]
Picture = NDArray[np.uint8]

SIZE = 448  # pixels of the square picture
FACE_SHARE = 0.47  # face height, forehead to chin, over picture height
FACE_MODEL = Path(__file__).parents[1] / "runtime" / "assets" / "face_landmarker.task"

# Face-mesh vertices, image left to right. The k-th inner lip point lies behind the k-th outer one.
_UPPER_OUTER = [61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291]
_UPPER_INNER = [78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308]
_LOWER_OUTER = [61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291]
_LOWER_INNER = [78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308]
_INNER_LIPS = _UPPER_INNER + _LOWER_INNER[-2:0:-1]  # once around
_JAW = [150, 149, 176, 148, 152, 377, 400, 378, 379]
_STILL = [1, 2, 4, 6, 10, 33, 50, 93, 98, 116, 118, 132, 133, 168, 234, 263, 280, 323, 327, 345]
_STILL += [347, 361, 362, 454, 58, 288, 205, 425]
_UPPER_LID = [246, 161, 160, 159, 158, 157, 173, 466, 388, 387, 386, 385, 384, 398]
_LOWER_LID = [7, 163, 144, 145, 153, 154, 155, 249, 390, 373, 374, 380, 381, 382]
_EYE_CORNERS = [33, 133, 362, 263]
_LID_CREASE = [247, 30, 29, 27, 28, 56, 190, 467, 260, 259, 257, 258, 286, 414]
_FOREHEAD, _CHIN = 10, 152
_INSIDE_MOUTH = (62.0, 26.0, 24.0)  # RGB
_N_FACE = 468  # the mesh without the irises, which a closing lid covers


@dataclass(frozen=True, kw_only=True)
class Pose:
    """One frame's expression in [0, 1] and head pose: radians, shares of the face height."""

    open: float
    smile: float
    blink: float
    yaw: float
    pitch: float
    roll: float
    dx: float
    dy: float
    zoom: float


class Puppet:
    """A portrait on a triangle mesh: the face's landmarks and a grid over the rest."""

    def __init__(self, rgb: Picture) -> None:
        face = VisionFeatures(FACE_MODEL).largest_face(rgb)
        if face is None:
            raise SourceError("the face networks find no face in the portrait")
        self._rgb = rgb
        points = face.landmarks[:_N_FACE].astype(np.float64)
        # Beyond this depth the picture is flat, else the face's rim would slide over the hair.
        rim = float(np.median(points[:, 2]))
        points[:, 2] = np.minimum(points[:, 2], rim)
        self._height = float(np.linalg.norm(points[_CHIN, :2] - points[_FOREHEAD, :2]))
        self._centre = points[:, :2].mean(axis=0)
        oval = cv2.convexHull(points[:, :2].astype(np.float32))
        step = max(rgb.shape[:2]) / 18
        grid = [
            (x, y, rim)
            for x in np.linspace(-1, rgb.shape[1], 19)
            for y in np.linspace(-1, rgb.shape[0], 19)
            if cv2.pointPolygonTest(oval, (float(x), float(y)), True) < -step / 3
        ]
        self._points = np.concatenate([points, grid])  # (n, 3) portrait pixels
        self._triangles = _triangulate(self._points[:, :2])  # (t, 3)
        eyes = np.isin(self._triangles, _UPPER_LID + _LOWER_LID + _EYE_CORNERS).all(axis=1)
        # Drawn first, so that lids cover the eyes when they close over them.
        self._triangles = self._triangles[np.argsort(~eyes, kind="stable")]
        # The head moves as one body; the surroundings follow less the farther away they are.
        distance = np.linalg.norm(self._points[:, :2] - self._centre, axis=1) / self._height
        self._rigid = np.clip((1.35 - distance) / (1.35 - 0.85), 0.0, 1.0)[:, None]
        self._controls = _UPPER_OUTER + _UPPER_INNER + _LOWER_OUTER[1:-1] + _LOWER_INNER[1:-1]
        self._controls += _JAW + _STILL
        self._spread = _thin_plate(points[:, :2], points[self._controls, :2])
        self._mouth = self._mouth_interior()
        self._scale = FACE_SHARE * SIZE / self._height
        self._corner = self._centre - SIZE / 2 / self._scale

    def render(self, pose: Pose) -> Picture:
        """(SIZE, SIZE, 3) uint8 RGB picture of the portrait in this pose."""
        moved = self._points.copy()
        moved[:_N_FACE, :2] += self._expression(pose)
        target = (self._turn(moved, pose) - self._corner) * self._scale
        owner = np.zeros((SIZE, SIZE), np.int32)
        for index, triangle in enumerate(self._triangles):
            corners = np.round(target[triangle] * 16).astype(np.int32)
            cv2.fillConvexPoly(owner, corners, index, shift=4)
        to_portrait = _affines(target[self._triangles], self._points[self._triangles, :2])
        y, x = np.mgrid[:SIZE, :SIZE]
        here = np.stack([x, y, np.ones_like(x)], axis=-1)[..., None]  # (H, W, 3, 1)
        source = (to_portrait[owner] @ here)[..., 0].astype(np.float32)
        skin = cv2.remap(
            self._rgb,
            source[..., 0],
            source[..., 1],
            cv2.INTER_CUBIC,
            borderMode=cv2.BORDER_REPLICATE,
        )

        # Teeth belong to the skull: they turn with the head but do not stretch with the jaw.
        skull = (self._turn(self._points, pose)[_INNER_LIPS] - self._corner) * self._scale
        design = np.column_stack([skull, np.ones(len(skull))])
        back = np.linalg.lstsq(design, self._points[_INNER_LIPS, :2], rcond=None)[0].T
        teeth = cv2.warpAffine(
            self._mouth, back, (SIZE, SIZE), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        )
        shade = np.array(_INSIDE_MOUTH)
        teeth = shade + (teeth - shade) * min(pose.open / 0.3, 1.0)  # no light through closed lips
        lips = [np.round(target[_INNER_LIPS] * 16).astype(np.int32)]
        mask = np.zeros((SIZE, SIZE), np.float32)
        cv2.fillPoly(mask, lips, 1.0, shift=4)
        cv2.polylines(mask, lips, True, 1.0, 1, shift=4)  # closed lips keep a dark line
        alpha = cv2.GaussianBlur(mask, (0, 0), 0.9)[..., None]
        return np.asarray(np.clip(skin * (1 - alpha) + teeth * alpha, 0, 255), np.uint8)

    def _mouth_interior(self) -> Picture:
        """The portrait with all but the teeth dark."""
        lips = self._points[_INNER_LIPS, :2]
        mask = np.zeros(self._rgb.shape[:2], np.float32)
        cv2.fillPoly(mask, [np.round(lips * 16).astype(np.int32)], 1.0, shift=4)
        soft = cv2.GaussianBlur(mask, (0, 0), 0.6)[..., None]
        shade = np.array(_INSIDE_MOUTH)
        return np.asarray(self._rgb * 0.88 * soft + shade * (1 - soft), np.uint8)

    def _expression(self, pose: Pose) -> Array:
        """(468, 2) displacement of the face's landmarks in portrait pixels."""
        face = self._points[:_N_FACE, :2]
        middle = face[[61, 291], 0].mean()
        half = (face[291, 0] - face[61, 0]) / 2
        relax = 1.0 - pose.smile
        moved = face.copy()
        upper, lower = face[_UPPER_INNER], face[_LOWER_INNER]
        across = np.clip((upper[:, 0] - middle) / half, -1.0, 1.0)  # (11,) corner to corner
        gap = lower[:, 1] - upper[:, 1]
        line = upper[:, 1] + 0.5 * gap
        flatten = relax * 0.8 * (line[5] - line)
        meet = 0.45 * gap  # below the upper lip: where the lips touch
        rounded = np.sqrt(np.clip(1.0 - across**2, 0.0, None))
        opening = pose.open * 0.085 * self._height * rounded
        upper_dy = flatten + meet - 0.15 * opening
        lower_dy = flatten + meet - gap + 0.85 * opening
        for outer, inner, dy in (
            (_UPPER_OUTER, _UPPER_INNER, upper_dy),
            (_LOWER_OUTER, _LOWER_INNER, lower_dy),
        ):
            moved[inner, 1] = face[inner, 1] + dy
            moved[outer, 1] = face[outer, 1] + dy
        lips = sorted({*_UPPER_OUTER, *_UPPER_INNER, *_LOWER_OUTER, *_LOWER_INNER})
        narrower = 0.2 * relax + 0.05 * pose.open
        moved[lips, 0] -= narrower * (face[lips, 0] - middle)
        moved[_JAW, 1] += 0.75 * lower_dy[5]
        displacement = self._spread @ (moved - face)[self._controls]
        closed = pose.blink * (face[_LOWER_LID] - face[_UPPER_LID])
        displacement[_UPPER_LID] += closed
        displacement[_LID_CREASE] += 0.2 * closed
        return np.asarray(displacement)

    def _turn(self, points: Array, pose: Pose) -> Array:
        """(n, 2) portrait pixels of (n, 3) points after the head's motion."""
        cy, sy = math.cos(pose.yaw), math.sin(pose.yaw)
        cp, sp = math.cos(pose.pitch), math.sin(pose.pitch)
        cr, sr = math.cos(pose.roll), math.sin(pose.roll)
        yaw = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        pitch = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
        roll = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
        centre = np.array([*self._centre, np.median(self._points[:_N_FACE, 2])])
        turned = (1.0 + pose.zoom) * (points - centre) @ (roll @ pitch @ yaw).T + centre
        turned[:, :2] += np.array([pose.dx, pose.dy]) * self._height
        return np.asarray(points[:, :2] + self._rigid * (turned - points)[:, :2])


def _triangulate(points: Array) -> NDArray[np.int64]:
    """(t, 3) vertex numbers of the Delaunay triangles of (n, 2) points."""
    low, high = points.min(axis=0) - 2, points.max(axis=0) + 2
    division = cv2.Subdiv2D((*(int(v) for v in low), *(int(v) for v in np.ceil(high - low))))
    for x, y in points:
        division.insert((float(x), float(y)))
    corners = np.asarray(division.getTriangleList()).reshape(-1, 1, 2)
    distance = np.linalg.norm(corners - points, axis=2)  # (3t, n)
    vertices = distance.argmin(axis=1).reshape(-1, 3)
    # Triangles with the division's own far corners are not of the mesh.
    return np.asarray(vertices[(distance.min(axis=1) < 0.01).reshape(-1, 3).all(axis=1)])


def _affines(source: Array, target: Array) -> Array:
    """(t, 2, 3) maps of triangles (t, 3, 2) onto triangles (t, 3, 2); flat ones become zero."""
    design = np.concatenate([source, np.ones((*source.shape[:2], 1))], axis=2)  # (t, 3, 3)
    return np.swapaxes(np.linalg.pinv(design, rcond=1e-9) @ target, 1, 2)


def _thin_plate(points: Array, controls: Array) -> Array:
    """(n, c) matrix that spreads displacements at (c, 2) controls smoothly over (n, 2) points."""

    def kernel(a: Array) -> Array:
        squared = np.sum((a[:, None] - controls[None]) ** 2, axis=2)
        bending = squared * np.log(np.maximum(squared, 1e-12))
        return np.concatenate([bending, np.ones((len(a), 1)), a], axis=1)

    n = len(controls)
    system = np.zeros((n + 3, n + 3))
    system[:n] = kernel(controls)
    system[n:, :n] = system[:n, n:].T
    return np.asarray(kernel(points) @ np.linalg.inv(system)[:, :n])
