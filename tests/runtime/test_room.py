"""People and a robot in one room: who speaks, who must not be heard, what hangs askew."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.engines.ort import OrtEngine
from runtime.errors import UsageError
from runtime.features.text import TextFeatures
from runtime.judging.evidence import PRESENT, Evidence
from runtime.judging.judge import Judge
from runtime.live import EmotionStream
from runtime.schemas import EmotionEvent
from runtime.sources.base import AudioChunk, Packet, VideoFrame
from runtime.sources.channels import Channels
from runtime.sources.file import FileSource
from runtime.speech.base import Word
from runtime.store.bundle import Bundle
from runtime.utterances.muting import Muting
from runtime.utterances.speaker import who_speaks
from tests.runtime.script import PATIENT, Script, later, start_of

pytestmark = pytest.mark.usefixtures("remembering")

Picture = NDArray[np.uint8]


def played(
    packets: list[Packet],
    cues: Callable[[EmotionStream], dict[float, Callable[[], object]]] = lambda _: {},
    **options: object,
) -> tuple[list[EmotionEvent], EmotionStream]:
    """The final events of packets, with commands to the stream at times of the source."""
    source = Script(packets)
    stream = EmotionStream(source=source, stt_wait_ms=PATIENT, **options)
    source.cues |= cues(stream)
    with stream:
        return [event for event in stream if event.type == "final"], stream


def pictures_as(packets: list[Packet], change: Callable[[Picture, float], Picture]) -> list[Packet]:
    return [
        replace(p, rgb=np.ascontiguousarray(change(p.rgb, p.time_s)))
        if isinstance(p, VideoFrame)
        else p
        for p in packets
    ]


# Muting.


def test_what_is_open_when_the_robot_speaks_is_judged_as_far_as_it_went(
    packets: list[Packet], offline: list[EmotionEvent]
) -> None:
    down: list[dict[str, str]] = []
    seen: list[object] = []
    (first, second), stream = played(
        packets,
        lambda s: {
            3.0: s.mute,
            4.0: lambda: (down.append(s.stats["down"]), seen.append(s.seen)),
            5.0: lambda: seen.append(s.seen),
            6.5: s.unmute,
        },
    )
    assert first.quality[-1] == "muted before its end"
    assert first.end_s == pytest.approx(3.0, abs=0.3)
    assert first.modalities == dict.fromkeys(("text", "audio", "vision"), "present")
    assert offline[0].text.startswith(first.text.rstrip(".,")[:12])
    assert second.text == offline[1].text
    assert "muted before its end" not in second.quality
    assert down == [{"audio": "muted"}]
    assert seen[0] is not seen[1]  # the camera went on
    assert stream.stats["down"] == {}


def test_what_is_open_can_be_dropped(packets: list[Packet], offline: list[EmotionEvent]) -> None:
    events, stream = played(packets, lambda s: {3.0: lambda: s.mute(drop=True), 6.5: s.unmute})
    assert [event.text for event in events] == [offline[1].text]
    assert stream.stats["muted_away"] == 1


def test_muted_speech_enters_no_statistics(packets: list[Packet]) -> None:
    """What is said after it is judged as if nothing had been said before."""
    silent = [
        replace(p, samples=np.zeros_like(p.samples))
        if isinstance(p, AudioChunk) and p.start_s < 6.5
        else p
        for p in packets
    ]
    (alone,), _ = played(silent)
    (after,), _ = played(packets, lambda s: {0.0: s.mute, 6.5: s.unmute})
    assert after.text == alone.text
    assert after.probabilities == pytest.approx(alone.probabilities, abs=1e-6)


def test_blocks_may_nest_and_leave_a_tail() -> None:
    muting = Muting()
    muting.hold()
    muting.hold(drop=True)
    muting.release(0.0)
    assert muting.muted
    inside = muting._intervals[-1].from_s
    assert muting.at(inside - 1.0) is None
    assert muting.at(inside) is True  # one of the blocks drops what is open
    muting.release(10.0)
    assert muting.muted  # the room's echo
    muting.mute()
    muting.unmute()
    assert not muting.muted  # an explicit unmute ends the tail too
    threads = [threading.Thread(target=muting.hold) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _ in range(7):
        muting.release(0.0)
    assert muting.muted
    muting.release(0.0)
    assert not muting.muted


def test_commands(packets: list[Packet]) -> None:
    with EmotionStream(source=Script([])) as stream:
        stream.command("mute\n")
        assert stream.stats["down"]["audio"] == "muted"
        stream.command(" Unmute ")
        assert "audio" not in stream.stats["down"]
        stream.command("reset")
        with pytest.raises(UsageError, match="no command 'rm -rf /'; there are: mute, unmute"):
            stream.command("rm -rf /")


# Channels.


def stereo(demo: Path, path: Path, *gains: tuple[float, float]) -> Path:
    """The demo's sound with channels of a gain each, by sentence."""
    with FileSource(demo) as source:
        sound = np.concatenate([p.samples for p in source.packets() if isinstance(p, AudioChunk)])
    cut = round(6.6 * 16_000)
    parts = np.stack([np.concatenate([a * sound[:cut], b * sound[cut:]]) for a, b in gains])
    parts += np.random.default_rng(0).normal(0.0, 1e-4, parts.shape)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16_000, layout="stereo")
        pcm = np.clip(parts * 32_767, -32_768, 32_767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(pcm.T.reshape(1, -1), format="s16", layout="stereo")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("gains", "choice"),
    [
        (((1.0, 1.0), (-1.0, -1.0)), "first"),  # inverted: a sum is silence
        (((1.0, 1.0), (-1.0, -1.0)), "mix"),
        (((0.0, 0.0), (1.0, 1.0)), "first"),  # a dead microphone
        (((1.0, 0.0), (0.0, 1.0)), "first"),  # a microphone for each of two people
        (((0.1, 0.1), (1.0, 1.0)), "loudest"),
        (((0.0, 0.0), (1.0, 1.0)), "1"),
    ],
)
def test_the_channel_that_speaks(
    demo: Path,
    tmp_path: Path,
    offline: list[EmotionEvent],
    gains: tuple[tuple[float, float], ...],
    choice: str,
) -> None:
    path = stereo(demo, tmp_path / "two.wav", *gains)
    with EmotionStream(file=path, mic_channel=choice) as stream:
        assert [event.text for event in stream] == [event.text for event in offline]


def test_a_channel_that_is_not_there(demo: Path) -> None:
    with (
        EmotionStream(file=demo, mic_channel="4") as stream,
        pytest.raises(UsageError, match=r"no channel 4: the sound has 1, from 0"),
    ):
        list(stream)
    with pytest.raises(UsageError, match="no channel 'left': give a number from 0, or one of"):
        EmotionStream(file=demo, mic_channel="left")


def test_channels_keep_their_length_and_type() -> None:
    rng = np.random.default_rng(0)
    samples = rng.normal(0.0, 0.1, (800, 6)).astype(np.float32)
    for choice in ("first", "mix", "loudest", "5"):
        mono = Channels(choice, 16_000).mono(samples)
        assert (mono.shape, mono.dtype) == ((800,), np.float32)
    np.testing.assert_array_equal(Channels("5", 16_000).mono(samples), samples[:, 5])


# Which way is up.


@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_camera_that_hangs_askew(
    packets: list[Packet], offline: list[EmotionEvent], k: int
) -> None:
    askew = pictures_as(packets, lambda rgb, _: np.rot90(rgb, -k))
    events, _ = played(askew)
    for event in events:
        assert "faces are not upright" in event.quality
        assert event.modalities["vision"] == "faces are not upright"
        assert event.person is None
        assert event.modality_weight["vision"] == 0.0
    for rotate in (str(90 * k), "auto"):
        events, stream = played(askew, rotate=rotate)
        assert [event.emotion for event in events] == [event.emotion for event in offline]
        assert all(event.modalities["vision"] == "present" for event in events)
        assert all(event.quality == () for event in events)
        assert stream.seen is not None
        assert stream.seen.rgb.shape == next(
            p.rgb.shape for p in packets if isinstance(p, VideoFrame)
        )


def test_a_camera_that_is_turned_while_it_runs(packets: list[Packet]) -> None:
    turned = pictures_as(packets, lambda rgb, t: np.rot90(rgb, 2) if t > 6.5 else rgb)
    (_, second), _ = played(turned, rotate="auto")
    assert second.modalities["vision"] == "present"


def test_a_mirror_changes_nothing(packets: list[Packet], offline: list[EmotionEvent]) -> None:
    events, _ = played(pictures_as(packets, lambda rgb, _: rgb[:, ::-1]))
    for event, straight in zip(events, offline, strict=True):
        assert event.emotion == straight.emotion
        assert event.modalities == straight.modalities
        assert event.confidence == pytest.approx(straight.confidence, abs=0.1)


# Who speaks.


def beside(left: Picture, right: Picture) -> Picture:
    return np.hstack([left, right])


def faces_of(packets: list[Packet]) -> list[VideoFrame]:
    return [p for p in packets if isinstance(p, VideoFrame)]


@pytest.mark.parametrize("speaker", ["left", "right"])
@pytest.mark.parametrize("other", ["listens", "talks"])
def test_two_people_of_whom_one_speaks(
    packets: list[Packet], offline: list[EmotionEvent], speaker: str, other: str
) -> None:
    """The other one is larger, keeps still, or says something else 3.7 s apart."""
    frames = faces_of(packets)
    rng = np.random.default_rng(0)

    def companion(time_s: float) -> Picture:
        k = 0 if other == "listens" else (round(time_s * 15) + 56) % len(frames)
        noise = rng.normal(0.0, 3.0, frames[k].rgb.shape)
        return np.clip(frames[k].rgb + noise, 0, 255).astype(np.uint8)

    def both(rgb: Picture, time_s: float) -> Picture:
        small = cv2.resize(rgb, None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA)
        canvas = np.zeros_like(rgb)
        canvas[: len(small), : small.shape[1]] = small
        pair = (canvas, companion(time_s))
        return beside(*(pair if speaker == "left" else pair[::-1]))

    events, _ = played(pictures_as(packets, both))
    assert len(events) == len(offline)
    for event in events:
        assert event.person is not None
        left, _, width, _ = event.person.box
        assert (left + width / 2 < 0.5) == (speaker == "left")
        assert event.person.n_in_view == 2
        assert event.person.confidence > 0.6
        assert "2 people in view" in event.quality
        assert event.modalities["vision"] == "present"
    assert len({event.person.id for event in events if event.person}) == 1


def test_a_listener_is_not_taken_for_the_voice_of_a_radio(packets: list[Packet]) -> None:
    """One still face, in a camera's noise, and a voice from elsewhere."""
    rng = np.random.default_rng(0)
    still = faces_of(packets)[0].rgb

    def listener(rgb: Picture, _: float) -> Picture:
        return np.clip(still + rng.normal(0.0, 3.0, still.shape), 0, 255).astype(np.uint8)

    events, _ = played(pictures_as(packets, listener))
    for event in events:
        assert event.modalities["vision"] == "nobody in view speaks"
        assert event.person is None
        assert event.modality_weight["vision"] == 0.0
        assert not any(reason.startswith("face") for reason in event.reasons)


def test_lips_with_the_voice_beat_lips_without_it() -> None:
    rng = np.random.default_rng(0)
    at_s = np.arange(0.0, 4.0, 0.04)
    loudness = np.repeat(rng.normal(size=20), 5) * 2.0
    times = np.arange(0.0, 4.0, 1 / 15)
    voice = np.interp(times, at_s, loudness)
    with_voice = 0.05 + 0.01 * voice + rng.normal(0.0, 0.004, len(times))
    without = 0.05 + 0.02 * np.sin(9 * times)
    still = 0.05 + rng.normal(0.0, 0.004, len(times))
    found = who_speaks(
        {1: (times, without), 2: (times, with_voice), 3: (times, still)}, at_s, loudness, 1
    )
    assert found.id == 2
    assert found.confidence > 0.6
    assert who_speaks({3: (times, still)}, at_s, loudness, None).id is None
    assert who_speaks({}, at_s, loudness, None).id is None
    # Too few pictures prove nothing: who spoke before is believed.
    few = {n: (times[:3], still[:3]) for n in (1, 2)}
    assert who_speaks(few, at_s, loudness, 2) == (2, 0.25)


def test_voices_can_be_kept_apart(packets: list[Packet]) -> None:
    """A second person, at another place, begins without the first one's habits."""

    def moved(rgb: Picture, time_s: float) -> Picture:
        pair = (rgb, np.zeros_like(rgb))
        return beside(*(pair if time_s < 6.5 else pair[::-1]))

    softly = [
        replace(p, samples=0.1 * p.samples) if isinstance(p, AudioChunk) and p.start_s < 6.5 else p
        for p in pictures_as(packets, moved)
    ]
    (_, together), _ = played(softly)
    (_, apart), _ = played(softly, per_person=True)
    assert apart.person is not None
    assert apart.person.id == 2
    assert any("dB louder" in reason for reason in together.reasons)
    assert not any("voice" in reason for reason in apart.reasons)


# Turns.


def test_a_sentence_that_was_broken_is_judged_together(
    packets: list[Packet], offline: list[EmotionEvent]
) -> None:
    (first, joined), _ = played(packets, join_ms=2_000)
    assert (first.utterance, first.revision, first.replaces) == (1, 0, None)
    assert (joined.utterance, joined.revision, joined.replaces) == (1, 1, 0)
    assert (joined.start_s, joined.end_s) == (offline[0].start_s, offline[1].end_s)
    assert joined.text == f"{offline[0].text} {offline[1].text}"
    events, _ = played(packets, join_ms=500)
    assert [event.utterance for event in events] == [1, 2]
    assert all(event.replaces is None for event in events)


def test_three_parts_are_joined_even_when_their_words_come_late(packets: list[Packet]) -> None:
    """All three have ended before the words of the first are known, for no picture takes time."""
    heard = [p for p in packets if isinstance(p, AudioChunk)]
    sentence = [later(p, -6.4) for p in heard if 6.4 <= start_of(p) < 11.0]
    three = [later(p, n * 4.6) for n in range(3) for p in sentence]
    events, _ = played(three, join_ms=2_000)
    assert [(e.utterance, e.revision, e.replaces) for e in events] == [
        (1, 0, None), (1, 1, 0), (1, 2, 1)
    ]  # fmt: skip
    assert events[2].text == " ".join([events[0].text] * 3)


def test_early_estimates_of_a_joined_utterance_have_its_number(packets: list[Packet]) -> None:
    # In real time, so that the words of the first sentence are there when the second begins.
    source = Script(packets, paced=True)
    with EmotionStream(
        source=source, stt_wait_ms=PATIENT, join_ms=2_000, provisional=True
    ) as stream:
        events = list(stream)
    assert {event.utterance for event in events} == {1}


def test_a_longer_pause_and_a_shorter_limit(
    packets: list[Packet], offline: list[EmotionEvent]
) -> None:
    events, _ = played(packets, pause_ms=2_000)
    assert len(events) == 1
    assert events[0].end_s == pytest.approx(offline[1].end_s, abs=0.1)
    events, _ = played(packets, max_utterance_s=3.0)
    assert len(events) > 2
    assert all(event.end_s - event.start_s <= 3.0 for event in events)
    # The first sentence is cut short by a mute, after about a second of voice.
    cues = lambda s: {2.0: s.mute, 6.5: s.unmute}  # noqa: E731
    assert len(played(packets, cues)[0]) == 2
    assert len(played(packets, cues, min_speech_ms=2_000)[0]) == 1
    with pytest.raises(UsageError, match="pause_ms is 100 to 5000"):
        EmotionStream(source=Script([]), pause_ms=50)
    with pytest.raises(UsageError, match="max_utterance_s is 2 to 15"):
        EmotionStream(source=Script([]), max_utterance_s=20.0)


# Why.


def judged(said: str, vision: NDArray[np.float32], *, explain: bool = False) -> EmotionEvent:
    bundle = Bundle.load()
    text = TextFeatures(bundle.tokenizer_json)
    judge = Judge(bundle, OrtEngine(bundle.model), text, explain=explain)
    words = [Word(text=w, start_s=k / 4, end_s=k / 4 + 0.2) for k, w in enumerate(said.split())]
    evidence = Evidence(
        type="final",
        utterance=1,
        start_s=0.0,
        end_s=3.0,
        words=tuple(words),
        audio=np.zeros((0, vision.shape[1] * 0 + 43), np.float32),
        vision=vision,
        modalities={
            "text": PRESENT if words else "no words recognised",
            "audio": "no sound",
            "vision": PRESENT if len(vision) else "no camera",
        },
        quality=(),
    )
    return judge.event(evidence)


@pytest.fixture(scope="module")
def smile(packets: list[Packet]) -> NDArray[np.float32]:
    """Rows of the demo's second sentence, said with a smile."""
    from runtime.features.vision import VisionFeatures
    from runtime.store import models

    networks = VisionFeatures(models.resolve("face-landmarker"))
    frames = [frame for frame in faces_of(packets) if 8.0 < frame.time_s < 10.0]
    return np.stack([networks.row(frame.rgb) for frame in frames])


def test_a_smile_is_named_by_its_action_unit(smile: NDArray[np.float32]) -> None:
    event = judged("", smile)
    assert event.reasons[0].startswith("face: AU12 lip corner puller 0.")
    assert (event.mixed, event.disagree) == (False, ())


def test_words_that_count_are_named(smile: NDArray[np.float32]) -> None:
    event = judged("well I am so very angry about this", smile[:0], explain=True)
    assert event.emotion == "anger"
    (reason,) = event.reasons
    assert '"angry"' in reason
    assert judged("well I am so very angry about this", smile[:0]).reasons == ()


def test_senses_that_disagree_are_told(smile: NDArray[np.float32]) -> None:
    event = judged("I hate this it is a terrible awful disgusting mess", smile)
    assert event.mixed
    assert event.disagree == ("text", "vision")
    event = judged("I love this it is a wonderful beautiful day", smile)
    assert (event.mixed, event.disagree) == (False, ())


def test_no_reason_names_what_was_not_used(packets: list[Packet], demo: Path) -> None:
    with EmotionStream(source=Script(packets), stt_wait_ms=PATIENT, explain=True) as stream:
        events = list(stream)
    deaf = [p for p in packets if isinstance(p, AudioChunk)]
    with EmotionStream(source=Script(deaf), stt="none", explain=True) as stream:
        events += list(stream)
    names = {"face": "vision", "voice": "audio", "words": "text"}
    for event in events:
        assert len(event.reasons) <= 3
        for reason in event.reasons:
            assert event.modalities[names[reason.split(":")[0]]] == "present"
