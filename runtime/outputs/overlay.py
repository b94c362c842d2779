"""What the camera sees, the face that is followed and what was made of it, in a window."""

import os
import sys
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..features.spec import MODALITIES
from ..features.tracking import Seen
from ..schemas import EmotionEvent

if TYPE_CHECKING:
    from ..live import EmotionStream

__all__ = ["check", "draw", "show"]

Picture = NDArray[np.uint8]

_HEIGHT = 480  # pixels of the camera's part; text and bars keep their size on any picture
_PANEL = 300  # pixels of width for the bars
_WHITE, _GREY, _GREEN, _RED = (235, 235, 235), (120, 120, 120), (90, 200, 90), (220, 80, 80)
_TITLE, _FRAME_MS = "DMD Live (q closes)", 30


def check() -> None:
    """Raises UsageError, with what to do, when this machine cannot open a window."""
    import cv2

    if any("GUI:" in line and "NONE" in line for line in cv2.getBuildInformation().splitlines()):
        raise UsageError(
            "--overlay: this OpenCV was built without windows; run: pip uninstall "
            "opencv-python-headless && pip install opencv-python"
        )
    # Its window library would end the process.
    if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
        raise UsageError("--overlay: no screen here (neither DISPLAY nor WAYLAND_DISPLAY is set)")


def show(stream: "EmotionStream") -> None:
    """Show an open stream's pictures, from the main thread, until it ends or is closed."""
    import cv2

    shown = None
    try:
        while not stream.ended:
            seen, event = stream.seen, stream.latest()
            if seen is not None and (seen, event) != shown:
                shown = seen, event
                cv2.imshow(_TITLE, draw(seen, event)[:, :, ::-1])
            if cv2.waitKey(_FRAME_MS) & 0xFF == ord("q"):
                return
            if shown and cv2.getWindowProperty(_TITLE, cv2.WND_PROP_VISIBLE) < 1:
                return
    finally:
        cv2.destroyAllWindows()


def draw(seen: Seen, event: EmotionEvent | None) -> Picture:
    """(480, W + 300, 3) uint8 RGB: the picture with the faces' boxes, the speaker's in green, and
    beside it the event."""
    import cv2

    scale = _HEIGHT / seen.rgb.shape[0]
    left = cv2.resize(seen.rgb, (round(seen.rgb.shape[1] * scale), _HEIGHT))
    speaker = event.person.id if event is not None and event.person is not None else None
    for k, face in enumerate(seen.faces):
        x, y, w, h = (scale * value for value in face.box)
        low, high = ((round(x + side * w / 2), round(y + side * h / 2)) for side in (-1, 1))
        speaks = face.id == speaker if speaker is not None else k == 0
        cv2.rectangle(left, low, high, _GREEN if speaks else _GREY, 2)
    panel = np.full((_HEIGHT, _PANEL, 3), 30, np.uint8)
    if event is None:
        _write(panel, "listening ...", 30, _GREY)
    else:
        _describe(panel, event)
    return np.hstack([left, panel])


def _describe(panel: Picture, event: EmotionEvent) -> None:
    import cv2

    y = 30
    for name, p in event.probabilities.items():
        chosen = name == event.emotion
        colour = _GREEN if chosen and not event.uncertain else _GREY
        _write(panel, f"{name} {p:.0%}", y, _WHITE if chosen else _GREY)
        cv2.rectangle(panel, (150, y - 12), (150 + round(p * (_PANEL - 165)), y), colour, -1)
        y += 26
    scales = f"sentiment {event.sentiment:+.1f}   arousal {event.arousal:+.1f}"
    _write(panel, scales, y + 10, _WHITE)
    y += 44
    for modality in MODALITIES:
        state = event.modalities[modality]
        here = state == "present"
        cv2.circle(panel, (18, y - 5), 6, _GREEN if here else _RED, -1)
        _write(panel, modality if here else f"{modality}: {state}", y, _WHITE, x=32)
        y += 26
    for note in event.quality:
        _write(panel, note, y, _RED)
        y += 26
    # The newest words, in lines of what fits beside each other.
    lines = [""]
    for word in event.text.split():
        if len(lines[-1]) + len(word) > 30:
            lines.append("")
        lines[-1] += word + " "
    for line in lines[-4:]:
        _write(panel, line, y + 10, _WHITE)
        y += 22


def _write(panel: Picture, text: str, y: int, colour: tuple[int, int, int], *, x: int = 12) -> None:
    import cv2

    # OpenCV's fonts know ASCII only.
    text = text.encode("ascii", "replace").decode()
    cv2.putText(panel, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, 1, cv2.LINE_AA)
