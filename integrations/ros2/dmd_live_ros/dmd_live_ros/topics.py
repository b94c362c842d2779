"""From the contents of sound and image messages to a stream's source. No ROS here."""

import time
from typing import Any

import numpy as np
from dmd_live.errors import UsageError
from dmd_live.sources.fed import FedSource
from numpy.typing import NDArray

__all__ = ["TopicSource", "compressed_rgb", "image_rgb", "sound_samples"]

_PLAIN = {  # channels of a pixel, and which of them are red, green, blue
    "rgb8": (3, (0, 1, 2)),
    "bgr8": (3, (2, 1, 0)),
    "rgba8": (4, (0, 1, 2)),
    "bgra8": (4, (2, 1, 0)),
    "mono8": (1, (0, 0, 0)),
    "8UC1": (1, (0, 0, 0)),
    "8UC3": (3, (2, 1, 0)),
}
_YUV = {"yuv422": "COLOR_YUV2RGB_UYVY", "uyvy": "COLOR_YUV2RGB_UYVY",
        "yuv422_yuy2": "COLOR_YUV2RGB_YUY2", "yuyv": "COLOR_YUV2RGB_YUY2"}  # fmt: skip
_OLDEST_S = 5.0
"""A stamp that is older, or of the future, is of another clock."""


class TopicSource(FedSource):
    """A source that callbacks of topics feed.

    Messages that cannot be used are counted in `n_refused`; `refused` has the newest reason.
    """

    def __init__(self, *, pictures: bool, rate_hz: int, channels: int) -> None:
        super().__init__(pictures=pictures)
        self._rate_hz_of_topic, self._channels = rate_hz, channels
        self.n_refused, self.refused = 0, ""
        self.n_messages = {"audio": 0, "vision": 0}
        self._heard_s = time.monotonic()

    @property
    def silent_s(self) -> float:
        """For how long no sound has come."""
        return time.monotonic() - self._heard_s

    def take_sound(self, data: Any, *, stamp_ns: int = 0, now_ns: int = 0) -> None:
        """The bytes of an AudioData message; `stamp_ns` of its header, 0 without one."""
        try:
            samples = sound_samples(data, self._channels)
            self.hear(samples, self._rate_hz_of_topic, end_s=_captured_s(stamp_ns, now_ns))
            self.n_messages["audio"] += 1
            self._heard_s = time.monotonic()
        except UsageError as error:
            self._refuse(error)

    def take_image(self, message: Any, *, now_ns: int = 0) -> None:
        """A sensor_msgs/Image or CompressedImage."""
        try:
            if hasattr(message, "encoding"):
                rgb = image_rgb(
                    message.encoding, message.height, message.width, message.step, message.data
                )
            else:
                rgb = compressed_rgb(message.data)
            stamp = message.header.stamp
            stamp_ns = stamp.sec * 1_000_000_000 + stamp.nanosec
            self.see(rgb, at_s=_captured_s(stamp_ns, now_ns))
            self.n_messages["vision"] += 1
        except UsageError as error:
            self._refuse(error)

    def _refuse(self, error: UsageError) -> None:
        self.n_refused += 1
        self.refused = str(error)


def sound_samples(data: Any, channels: int) -> NDArray[np.int16]:
    """(n, channels) int16 from the bytes of S16LE sound. Raises UsageError for half a sample."""
    raw = np.frombuffer(bytes(data), np.uint8)
    if len(raw) % (2 * channels):
        raise UsageError(
            f"{len(raw)} bytes are no S16LE sound of {channels} channels; "
            "audio_capture sends it with format:=wave"
        )
    return raw.view("<i2").astype(np.int16).reshape(-1, channels)


def image_rgb(encoding: str, height: int, width: int, step: int, data: Any) -> NDArray[np.uint8]:
    """(height, width, 3) uint8 of a sensor_msgs/Image; rows are `step` bytes apart.

    Raises UsageError for an encoding or a size that does not fit.
    """
    n_bytes = 2 if encoding in _YUV else _PLAIN.get(encoding, (0,))[0]
    if not n_bytes:
        known = ", ".join((*_PLAIN, *_YUV))
        raise UsageError(f"no pictures of encoding {encoding[:40]!r}; there are: {known}")
    raw = np.frombuffer(bytes(data), np.uint8)
    if not (height and width) or step < width * n_bytes or len(raw) < height * step:
        raise UsageError(f"{len(raw)} bytes are no {encoding} picture of {width} x {height}")
    rows = raw[: height * step].reshape(height, step)[:, : width * n_bytes]
    pixels = np.ascontiguousarray(rows).reshape(height, width, n_bytes)
    if encoding in _YUV:
        import cv2

        if width % 2:
            raise UsageError(f"a {encoding} picture has an even width, not {width}")
        return np.asarray(cv2.cvtColor(pixels, getattr(cv2, _YUV[encoding])), np.uint8)
    return np.ascontiguousarray(pixels[:, :, list(_PLAIN[encoding][1])])


def compressed_rgb(data: Any) -> NDArray[np.uint8]:
    """(height, width, 3) uint8 of a JPEG or PNG. Raises UsageError for anything else."""
    import cv2

    raw = np.frombuffer(bytes(data), np.uint8)
    bgr = cv2.imdecode(raw, cv2.IMREAD_COLOR) if raw.size else None
    if bgr is None:
        raise UsageError(f"{raw.size} bytes are no compressed picture")
    return np.ascontiguousarray(bgr[:, :, ::-1])


def _captured_s(stamp_ns: int, now_ns: int) -> float:
    """On the clock of `time.monotonic()`; now without a stamp, or when it is of another clock."""
    age_s = (now_ns - stamp_ns) / 1e9
    known = stamp_ns > 0 and 0.0 <= age_s <= _OLDEST_S
    return time.monotonic() - (age_s if known else 0.0)
