"""Cameras, network video and files in their place, by OpenCV."""

import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import SourceError
from .base import FrameSampler, Packet, VideoFrame

__all__ = ["CameraSource", "without_password"]

_TIMEOUT_MS = 5_000
_CLOSE_S = 0.3


def without_password(camera: str) -> str:
    """The camera as messages name it: they go into events and logs, where no user and no password
    of its address has a place."""
    return re.sub(r"//[^/\s]*@", "//", camera)  # up to the last @: a password may hold others


class CameraSource:
    """A camera: an index (0 or "0"), a device path, an RTSP or HTTP address, a GStreamer pipeline
    that ends in `appsink` (Jetson's CSI cameras), where OpenCV was built with GStreamer, or a video
    file, which plays once at its own rate.

    `width`, `height` in pixels and `rate_hz` are asked of a local camera, which takes what is
    nearest; None leaves its own.

    Frames are stamped with `time.monotonic()` when they are grabbed, before they are decoded; those
    that are not analysed are never decoded. Iterating blocks until the next frame, so a live
    stream runs it in a thread of `MergedSource`. Raises SourceError when the camera cannot be
    opened or stops delivering.
    """

    modalities = frozenset({"vision"})

    def __init__(
        self,
        camera: int | str,
        *,
        width: int | None = None,
        height: int | None = None,
        rate_hz: float | None = None,
    ) -> None:
        self._camera = int(camera) if str(camera).isdigit() else str(camera)
        self._name = without_password(str(camera))
        self._wanted = {"WIDTH": width, "HEIGHT": height, "FPS": rate_hz}
        self._capture: Any = None
        self._in_use = threading.Lock()  # releasing a capture that another thread reads crashes
        self._closed = threading.Event()
        self._is_file = Path(str(camera)).is_file()

    def __enter__(self) -> "CameraSource":
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # read when OpenCV loads FFmpeg
        import cv2

        # OpenCV 4, as Debian and JetPack have it, and OpenCV 5; 0 is silence.
        (cv2 if hasattr(cv2, "setLogLevel") else cv2.utils.logging).setLogLevel(0)
        self._capture = self._open(cv2)
        if not self._capture.isOpened():
            what_to_do = "see `ls /dev/video*` for indices, and whether another program holds it"
            if "://" in self._name:
                what_to_do = "check the address, and whether the camera is on"
            raise SourceError(f"camera {self._name}: cannot be opened; {what_to_do}")
        for name, value in self._wanted.items():
            if value is not None:
                name = name if name == "FPS" else f"FRAME_{name}"
                self._capture.set(getattr(cv2, f"CAP_PROP_{name}"), float(value))
        self._closed.clear()
        return self

    def _open(self, cv2: Any) -> Any:
        camera = self._camera
        if isinstance(camera, int):
            return cv2.VideoCapture(camera)
        if "!" in camera:
            return self._pipeline(cv2)
        if "://" in camera:
            names = ("CAP_PROP_OPEN_TIMEOUT_MSEC", "CAP_PROP_READ_TIMEOUT_MSEC")
            timeouts = [value for name in names for value in (getattr(cv2, name), _TIMEOUT_MS)]
            return cv2.VideoCapture(camera, cv2.CAP_ANY, timeouts)
        # A device would be tried as a file first, and refuse the time-outs that FFmpeg takes.
        is_device = Path(camera).is_char_device()
        return cv2.VideoCapture(camera, cv2.CAP_V4L2 if is_device else cv2.CAP_ANY)

    def _pipeline(self, cv2: Any) -> Any:
        if not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
            raise SourceError(
                "camera: this OpenCV was built without GStreamer; on a Jetson install its own "
                "(apt install python3-opencv) into an environment made with --system-site-packages"
            )
        return cv2.VideoCapture(self._camera, cv2.CAP_GSTREAMER)

    def __exit__(self, *exc: object) -> None:
        self._closed.set()
        # A reader that hangs keeps the device until it returns, and the caller does not wait.
        if self._in_use.acquire(timeout=_CLOSE_S):
            if self._capture is not None:
                self._capture.release()
                self._capture = None
            self._in_use.release()

    def packets(self) -> Iterator[Packet]:
        """Frames at most at the analysed rate, until the camera is closed or the file ends."""
        import cv2

        sampler = FrameSampler()
        begun_s = time.monotonic()
        while True:
            with self._in_use:
                if self._closed.is_set() or self._capture is None:
                    return
                grabbed = self._capture.grab()
                time_s = time.monotonic()
                if not grabbed and self._is_file:
                    return
                if not grabbed:
                    raise SourceError(f"camera {self._name}: no more frames; check its connection")
                if self._is_file:
                    due_s = begun_s + self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3
                    self._closed.wait(max(0.0, due_s - time_s))
                    time_s = max(time_s, due_s)
                if not sampler.wants(time_s):
                    continue
                decoded, bgr = self._capture.retrieve()
            if decoded:
                rgb = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
                yield VideoFrame(time_s=time_s, rgb=np.asarray(rgb, np.uint8))
