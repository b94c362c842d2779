"""Cameras and network video by OpenCV."""

import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..errors import SourceError
from .base import FrameSampler, Packet, VideoFrame

__all__ = ["CameraSource"]

_TIMEOUT_MS = 5_000
_CLOSE_S = 0.4


class CameraSource:
    """A camera: an index (0 or "0"), a device path, an RTSP or HTTP address, or a GStreamer
    pipeline that ends in `appsink` (Jetson's CSI cameras), where OpenCV was built with GStreamer.

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
        self._wanted = {"WIDTH": width, "HEIGHT": height, "FPS": rate_hz}
        self._capture: Any = None
        self._in_use = threading.Lock()  # releasing a capture that another thread reads crashes
        self._closed = False

    def __enter__(self) -> "CameraSource":
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # read when OpenCV loads FFmpeg
        import cv2

        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        if isinstance(self._camera, int):
            self._capture = cv2.VideoCapture(self._camera)
        elif "!" in self._camera:
            self._capture = self._pipeline(cv2)
        else:
            timeouts = [
                cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
                _TIMEOUT_MS,
                cv2.CAP_PROP_READ_TIMEOUT_MSEC,
                _TIMEOUT_MS,
            ]
            self._capture = cv2.VideoCapture(self._camera, cv2.CAP_ANY, timeouts)
        if not self._capture.isOpened():
            raise SourceError(
                f"camera {self._camera}: cannot be opened; see `ls /dev/video*` for indices, check "
                "the address, or whether another program holds it"
            )
        for name, value in self._wanted.items():
            if value is not None:
                name = name if name == "FPS" else f"FRAME_{name}"
                self._capture.set(getattr(cv2, f"CAP_PROP_{name}"), float(value))
        self._closed = False
        return self

    def _pipeline(self, cv2: Any) -> Any:
        if not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
            raise SourceError(
                "camera: this OpenCV was built without GStreamer; on a Jetson install its own "
                "(apt install python3-opencv) into an environment made with --system-site-packages"
            )
        return cv2.VideoCapture(self._camera, cv2.CAP_GSTREAMER)

    def __exit__(self, *exc: object) -> None:
        self._closed = True
        # A reader that hangs keeps the device until it returns, and the caller does not wait.
        if self._in_use.acquire(timeout=_CLOSE_S):
            if self._capture is not None:
                self._capture.release()
                self._capture = None
            self._in_use.release()

    def packets(self) -> Iterator[Packet]:
        """Frames at most at the analysed rate, until the camera is closed."""
        import cv2

        sampler = FrameSampler()
        while True:
            with self._in_use:
                if self._closed or self._capture is None:
                    return
                grabbed = self._capture.grab()
                time_s = time.monotonic()
                if not grabbed:
                    raise SourceError(
                        f"camera {self._camera}: no more frames; check its connection"
                    )
                if not sampler.wants(time_s):
                    continue
                decoded, bgr = self._capture.retrieve()
            if decoded:
                rgb = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
                yield VideoFrame(time_s=time_s, rgb=np.asarray(rgb, np.uint8))
