"""A source of your own: sound and pictures that something else captures, such as ROS topics.

Here a thread plays a file's packets into the source, as subscriber callbacks would.

python examples/frame_source.py talk.mp4
"""

import queue
import sys
import threading
from collections.abc import Iterator

from dmd_live import AudioChunk, EmotionStream, VideoFrame
from dmd_live.sources.file import FileSource


class Topics:
    """Callbacks put packets in; the stream takes them out. Time: one clock, in seconds."""

    modalities = frozenset({"audio", "vision"})

    def __init__(self) -> None:
        self._packets: queue.Queue[AudioChunk | VideoFrame | None] = queue.Queue(maxsize=1_000)

    def on_sound(self, start_s: float, samples) -> None:
        """`samples`: (n,) float32 in [-1, 1], 16 kHz mono, without gaps."""
        self._packets.put(AudioChunk(start_s=start_s, samples=samples))

    def on_image(self, stamp_s: float, rgb) -> None:
        """`rgb`: (H, W, 3) uint8."""
        self._packets.put(VideoFrame(time_s=stamp_s, rgb=rgb))

    def on_shutdown(self) -> None:
        """Nothing more will come."""
        self._packets.put(None)

    def __enter__(self) -> "Topics":
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def packets(self) -> Iterator[AudioChunk | VideoFrame]:
        """What the stream reads."""
        while (packet := self._packets.get()) is not None:
            yield packet


def play(path: str, topics: Topics) -> None:
    """Stands for the robot's middleware."""
    with FileSource(path, realtime=True) as file:
        for packet in file.packets():
            if isinstance(packet, AudioChunk):
                topics.on_sound(packet.start_s, packet.samples)
            else:
                topics.on_image(packet.time_s, packet.rgb)
    topics.on_shutdown()


def main() -> None:
    """Print one line per utterance."""
    topics = Topics()
    threading.Thread(target=play, args=(sys.argv[1], topics), daemon=True).start()
    with EmotionStream(source=topics) as stream:
        for event in stream:
            print(f"{event.emotion} {event.confidence:.0%}: {event.text}")


if __name__ == "__main__":
    main()
