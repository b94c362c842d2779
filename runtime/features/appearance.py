"""What a face looks like, as `SPEC.appearance_dim` numbers of a small network of our own.

Blendshapes say where lips and brows are; much of an expression is in wrinkles, teeth and shades.
The face is turned and scaled by its landmarks, made grey and small, so that a webcam's face and a
crop of 48 pixels look alike. `train.face` trains the network on the same pictures.
"""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError
from .spec import SPEC

__all__ = ["Appearance", "aligned", "normalised"]

Float = NDArray[np.float32]

# Face-mesh vertices: corners of the left and right eye of the picture, corners of the mouth.
_EYES, _MOUTH = ((33, 133), (362, 263)), (61, 291)
# Where they go, as shares of the side: brows and chin stay inside, hair and background do not.
_PLACES = np.array([[0.315, 0.38], [0.685, 0.38], [0.355, 0.77], [0.645, 0.77]])
_FINEST = 8  # a face up to this many times larger than the crop is averaged over all its pixels


def aligned(rgb: NDArray[np.uint8], landmarks: Float, margin: float = 0.0) -> NDArray[np.uint8]:
    """(side, side) uint8 grey picture of the face, upright and of fixed size.

    `rgb`: (H, W, 3) uint8; `landmarks`: (478, 3) in pixels. `margin` adds that share of
    `SPEC.appearance_size` on every side, which training needs to turn and shift the face.
    """
    import cv2

    points = [landmarks[list(eye), :2].mean(axis=0) for eye in _EYES]
    points += [landmarks[corner, :2] for corner in _MOUTH]
    size = SPEC.appearance_size
    to_crop = _similarity(np.array(points, np.float64), (_PLACES + margin) * size)
    scale = float(np.hypot(*to_crop[0, :2]))
    fine = int(np.clip(np.ceil(1.0 / max(scale, 1e-6)), 1, _FINEST))
    side = round(size * (1 + 2 * margin))
    # The picture is sampled finely, then averaged by area: no pixel of it is skipped. Pixel centres
    # are at whole numbers: scaling about a corner moves them by half a pixel.
    finer = to_crop * fine
    finer[:, 2] += (fine - 1) / 2
    crop = cv2.warpAffine(
        cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY),
        finer,
        (side * fine, side * fine),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    small = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA) if fine > 1 else crop
    return np.asarray(small, np.uint8)


def normalised(grey: NDArray[np.uint8]) -> Float:
    """(..., H, W) uint8 -> float32 with mean 0 and deviation 1 over each picture, within +-3:
    how bright the light is and how strong its contrast is not part of a face."""
    picture = grey.astype(np.float32)
    mean = picture.mean(axis=(-2, -1), keepdims=True)
    deviation = picture.std(axis=(-2, -1), keepdims=True)
    standard = np.clip((picture - mean) / np.maximum(deviation, 4.0), -3.0, 3.0)
    return np.asarray(standard, np.float32)


class Appearance:
    """The network. `model`: path of the ONNX file that `train.face` wrote.

    Raises ModelError when it is not there, or not the one of the feature contract.
    """

    def __init__(self, model: Path) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        try:
            content = model.read_bytes()
        except OSError as error:
            raise ModelError(f"{model}: not the appearance network ({error.strerror})") from error
        if hashlib.sha256(content).hexdigest() != SPEC.appearance_sha256:
            raise ModelError(
                f"{model}: not the appearance network of this feature contract (SHA-256 differs); "
                "install the package again"
            )
        self._session = ort.InferenceSession(content, options, ["CPUExecutionProvider"])

    def __call__(self, rgb: NDArray[np.uint8], landmarks: Float) -> Float:
        """(SPEC.appearance_dim,) float32 of the face with these (478, 3) landmarks in pixels."""
        return np.asarray(self.embeddings(aligned(rgb, landmarks)[None])[0])

    def embeddings(self, grey: NDArray[np.uint8]) -> Float:
        """(n, SPEC.appearance_dim) float32 of n aligned faces (n, 48, 48) uint8."""
        (found,) = self._session.run(["embedding"], {"face": normalised(grey)[:, None]})
        return np.asarray(found, np.float32)


def _similarity(source: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """(2, 3) rotation, scale and shift that take `source` (n, 2) closest to `target` (n, 2).

    Least squares in the complex plane: target = a * source + b (Umeyama 1991, without mirroring).
    """
    z, w = source @ [1.0, 1.0j], target @ [1.0, 1.0j]
    centred = z - z.mean()
    a = np.vdot(centred, w - w.mean()) / max(float(np.vdot(centred, centred).real), 1e-9)
    b = w.mean() - a * z.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])
