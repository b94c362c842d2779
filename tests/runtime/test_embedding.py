"""`poll`: a stream in an application with a loop of its own."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from runtime.errors import SourceError, UsageError
from runtime.live import EmotionStream
from runtime.schemas import EmotionEvent
from runtime.sources.base import AudioChunk, Packet
from runtime.sources.file import FileSource

pytestmark = pytest.mark.usefixtures("remembering")


class Silence:
    """A live source in which nobody speaks, until it is told to break."""

    modalities = frozenset({"audio"})

    def __init__(self) -> None:
        self.broken = False

    def __enter__(self) -> "Silence":
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def packets(self) -> Iterator[Packet]:
        for number in range(10_000):
            if self.broken:
                raise SourceError("the cable is cut")
            time.sleep(0.02)
            yield AudioChunk(start_s=number * 0.02, samples=np.zeros(320, np.float32))


def test_poll_gives_each_event_once(clip: Path) -> None:
    stream = EmotionStream(file=clip, provisional=True)
    with pytest.raises(UsageError, match="open the stream first"):
        stream.poll()
    with stream:
        polled: list[EmotionEvent] = []
        assert stream.poll() is None or polled
        while not stream.exhausted:
            event = stream.poll(0.02)
            if event is not None:
                polled.append(event)
        assert polled == list(stream)  # which has a place of its own
        assert stream.ended
        assert stream.poll() is None
        assert stream.poll(None) is None  # it has ended: nothing to wait for
    assert stream.exhausted


def test_poll_from_several_threads_gives_each_event_to_one(clip: Path) -> None:
    got: list[EmotionEvent] = []

    def work() -> None:
        while not stream.exhausted:
            event = stream.poll(0.01)
            if event is not None:
                got.append(event)

    with EmotionStream(file=clip, provisional=True) as stream:
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(got, key=id) == sorted(stream, key=id)


def test_poll_waits_no_longer_than_asked_and_raises_what_broke() -> None:
    source = Silence()
    with EmotionStream(source=source, stt="none") as stream:
        begun = time.monotonic()
        assert stream.poll() is None
        assert stream.poll(-1.0) is None
        assert time.monotonic() - begun < 0.2
        assert stream.poll(0.3) is None
        assert 0.3 <= time.monotonic() - begun < 1.5
        assert not stream.exhausted
        source.broken = True
        with pytest.raises(SourceError, match="the cable is cut"):
            stream.poll(10.0)
        assert stream.exhausted


def test_poll_gets_finals_that_came_while_nobody_polled(clip: Path) -> None:
    class Live:
        def __init__(self) -> None:
            with FileSource(clip) as source:
                self._packets = list(source.packets())
            self.modalities = frozenset({"audio", "vision"})

        def __enter__(self) -> "Live":
            return self

        def __exit__(self, *exc: object) -> None:
            pass

        def packets(self) -> Iterator[Packet]:
            yield from self._packets

    with EmotionStream(source=Live(), provisional=True, stt_wait_ms=60_000) as stream:
        while not stream.ended:
            time.sleep(0.05)
        found = []
        while (event := stream.poll()) is not None:
            found.append(event)
    assert [event.utterance for event in found if event.type == "final"] == [1, 2]
