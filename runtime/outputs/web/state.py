"""What the page shows besides events: who is in view now, devices, counts."""

import base64
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...features.tracking import Seen
from ...schemas import EmotionEvent

__all__ = ["CONTOURS", "Watched", "devices", "face"]

_STALE_S = 2.0  # a picture that is older is no longer called now
_PICTURE_WIDTH, _JPEG_QUALITY = 320, 70
_OFF = ("speech-to-text off", "no speech recogniser installed")

# Face-mesh vertices, joined in this order (MediaPipe, face_mesh_connections.py).
# fmt: off
CONTOURS: dict[str, list[list[int]]] = {
    "oval": [[
        10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
        152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109]],
    "brows": [[276, 283, 282, 295, 285, 336, 296, 334, 293, 300],
              [46, 53, 52, 65, 55, 107, 66, 105, 63, 70]],
    "eyes": [[263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466],
             [33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246]],
    "irises": [[474, 475, 476, 477], [469, 470, 471, 472]],
    "nose": [[168, 6, 197, 195, 5, 4], [98, 97, 2, 326, 327]],
    "lips": [[
        61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185]],
    "mouth": [[
        78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191]],
}
# fmt: on


class Watched(Protocol):
    """What the server asks of a stream; `EmotionStream` is one."""

    @property
    def stats(self) -> dict[str, Any]:
        """Counts and what is down."""
        ...

    @property
    def seen(self) -> Seen | None:
        """The newest picture and face."""
        ...

    @property
    def ended(self) -> bool:
        """Whether no event will come."""
        ...

    def latest(self) -> EmotionEvent | None:
        """The newest event."""
        ...

    def command(self, line: str) -> None:
        """Obey; raises UsageError."""
        ...


def face(seen: Seen | None, *, age_s: float, picture: bool) -> dict[str, Any] | None:
    """Who is in view, None without a picture or with one that is old.

    `lines`: by part of the face, its contours as x, y, x, y ... in shares of the picture.
    """
    if seen is None or age_s > _STALE_S:
        return None
    height, width = seen.rgb.shape[:2]
    lines = None
    if seen.landmarks is not None:
        points = np.round(seen.landmarks[:, :2] / (width, height), 4)
        lines = {
            part: [points[contour].reshape(-1).tolist() for contour in contours]
            for part, contours in CONTOURS.items()
        }
    return {
        "n_faces": seen.n_faces,
        "aspect": round(width / height, 4),
        "lines": lines,
        "picture": _data_url(seen.rgb) if picture else None,
    }


def devices(stats: dict[str, Any], latest: EmotionEvent | None) -> dict[str, dict[str, str]]:
    """By part: `state` (on, off, muted, down) and `note`."""
    down, delivers = stats["down"], stats["source"]["delivers"]
    found = {}
    for name, modality in (("camera", "vision"), ("microphone", "audio")):
        if reason := down.get(modality):
            state = "muted" if reason == "muted" else "down"
            found[name] = {"state": state, "note": "" if state == "muted" else reason}
        else:
            found[name] = {"state": "on" if modality in delivers else "off", "note": ""}
    words = "" if latest is None else latest.modalities["text"]
    n_again = stats["speech_restarts"]
    found["words"] = {
        "state": "off" if words in _OFF else "on",
        "note": words if words in _OFF else f"restarted {n_again}x" if n_again else "",
    }
    engine = stats["engine"]
    found["model"] = {
        "state": "on" if engine else "off",
        "note": f"{engine['engine']}, {engine['precision']}" if engine else "",
    }
    return found


def _data_url(rgb: NDArray[np.uint8]) -> str:
    """The picture, small, as a JPEG."""
    import cv2

    height = round(rgb.shape[0] * _PICTURE_WIDTH / rgb.shape[1])
    small = cv2.resize(rgb, (_PICTURE_WIDTH, max(1, height)), interpolation=cv2.INTER_AREA)
    options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    _, encoded = cv2.imencode(".jpg", small[:, :, ::-1], options)
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()
