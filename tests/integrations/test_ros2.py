"""What of the ROS 2 package works without ROS: parameters, mapping, topics, status, the manifest.

`test_ros2_node.py` runs the node itself where ROS 2 is installed.
"""

import ast
import re
import threading
import time
import xml.etree.ElementTree as Tree
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from dmd_live import AudioChunk, EmotionEvent, EmotionStream, Person, __version__
from dmd_live.errors import UsageError
from dmd_live.sources.file import FileSource
from dmd_live.stream.options import StreamOptions
from dmd_live_ros import mapping, parameters, status, topics

PACKAGE = Path(topics.__file__).parents[1]
# hri_msgs 2.0.0 (branch humble-devel, which Jazzy's release is made from), msg/Expression.msg:
# the fields but for `header`, and the constants that `expression` may hold.
FIELDS = {"expression": str, "valence": float, "arousal": float, "confidence": float}
RANGES = {"valence": (-1.0, 1.0), "arousal": (-1.0, 1.0), "confidence": (0.0, 1.0)}
CONSTANTS = {
    "neutral", "angry", "sad", "happy", "surprised", "disgusted", "scared", "pleading",
    "vulnerable",
    "despaired", "guilty", "disappointed", "embarrassed", "horrified", "skeptical", "annoyed",
    "furious", "suspicious", "rejected", "bored", "tired", "asleep", "confused", "amazed",
    "excited",
}  # fmt: skip
# A name of a ROS 2 topic: tokens of letters, digits and underscores that begin with no digit.
TOPIC = re.compile(r"[A-Za-z_]\w*(/[A-Za-z_]\w*)*", re.ASCII)


@pytest.fixture(scope="module")
def events(demo: Path) -> list[EmotionEvent]:
    with EmotionStream(file=demo, provisional=True) as stream:
        return list(stream)


def check(found: mapping.Expression) -> None:
    assert {item.name for item in fields(found)} == {"topic", *FIELDS}
    for name, kind in FIELDS.items():
        assert type(getattr(found, name)) is kind
    for name, (low, high) in RANGES.items():
        assert low <= getattr(found, name) <= high
    assert found.expression in CONSTANTS
    assert TOPIC.fullmatch(found.topic)


def test_real_events_become_expressions(events: list[EmotionEvent]) -> None:
    assert {event.type for event in events} == {"provisional", "final"}
    for event in events:
        messages = mapping.expressions_of(event)
        assert [found.topic for found in messages] == [
            "humans/faces/face1/expression",
            "humans/voices/voice1/expression",
        ]
        for found in messages:
            check(found)
            assert found.expression == {"happiness": "happy", "neutral": "neutral"}[event.emotion]
            assert found.valence == pytest.approx(event.sentiment / 3.0)
            assert found.confidence == event.confidence


def test_every_emotion_and_the_ends_of_the_scales(events: list[EmotionEvent]) -> None:
    event = events[-1]
    assert set(mapping.EXPRESSIONS) == set(event.probabilities)
    assert len(set(mapping.EXPRESSIONS.values())) == 7
    for emotion in event.probabilities:
        for sign in (-1.0, 1.0):
            most = replace(event, emotion=emotion, sentiment=sign * 3.0000001, arousal=sign * 1.0)
            for found in mapping.expressions_of(most):
                check(found)


def test_uncertain_is_neutral_with_its_own_probability(events: list[EmotionEvent]) -> None:
    event = replace(events[-1], uncertain=True)
    assert event.emotion != "neutral"
    (found, _) = mapping.expressions_of(event)
    assert (found.expression, found.confidence) == ("neutral", event.probabilities["neutral"])


def test_ids_and_what_is_absent(events: list[EmotionEvent]) -> None:
    person = Person(id=12, confidence=0.8, n_in_view=2, box=(0.0, 0.0, 0.1, 0.1))
    event = replace(events[-1], person=person)
    assert [found.topic for found in mapping.expressions_of(event)] == [
        "humans/faces/face12/expression",
        "humans/voices/voice12/expression",
    ]
    modalities = {**event.modalities, "vision": "no camera"}
    blind = replace(events[-1], person=None, modalities=modalities)
    assert [found.topic for found in mapping.expressions_of(blind)] == [
        "humans/voices/voice/expression"
    ]


def test_an_emotion_without_a_word_in_ros4hri_gives_none(events: list[EmotionEvent]) -> None:
    own = replace(events[-1], emotion="calm", probabilities={"calm": 1.0}, uncertain=False)
    assert mapping.expressions_of(own) == []


def test_stamps_are_when_the_utterance_ended() -> None:
    assert mapping.stamp_ns(97.5, monotonic_s=100.0, ros_ns=10**18) == 10**18 - 2_500_000_000
    assert mapping.stamp_ns(101.0, monotonic_s=100.0, ros_ns=10**18) == 10**18
    assert mapping.stamp_ns(0.0, monotonic_s=100.0, ros_ns=10**9) == 0


def test_every_option_is_a_parameter() -> None:
    table = {p.name: p for p in parameters.table()}
    for item in fields(StreamOptions):
        parameter = table[item.name]
        assert parameter.help == item.metadata["help"]
        assert type(parameter.default) in (str, int, float, bool)
        if item.default is not None:
            assert parameter.default == item.default
    assert table["camera"].default == ""
    assert table["rate_hz"].default == 0.0
    assert "moonshine" in table["stt"].choices


def test_parameters_as_they_are_declared_need_a_choice_of_source() -> None:
    defaults = {p.name: p.default for p in parameters.table()}
    with pytest.raises(UsageError, match="exactly one of"):
        parameters.options_of(defaults)
    live = parameters.options_of({**defaults, "camera": "0", "microphone": "default"})
    assert live.for_stream() == vars_of(StreamOptions(camera="0", microphone="default"))
    heard = parameters.options_of({**defaults, "audio_topic": "/audio", "image_topic": "/image"})
    assert heard.topics
    assert heard.for_stream() == vars_of(StreamOptions())


def vars_of(options: StreamOptions) -> dict:
    return {item.name: getattr(options, item.name) for item in fields(options)}


@pytest.mark.parametrize(
    "given",
    [
        {"image_topic": "/image"},
        {"camera": "0"},
        {"audio_topic": "/audio", "microphone": "default"},
        {"audio_topic": "/audio", "audio_channels": 0},
        {"audio_topic": "/audio", "audio_rate_hz": 1},
        {"microphone": "default", "engine": "abacus"},
        {"microphone": "default", "hop_ms": 1},
    ],
)
def test_parameters_that_do_not_go_together(given: dict) -> None:
    with pytest.raises(UsageError) as told:
        parameters.options_of({p.name: p.default for p in parameters.table()} | given)
    assert len(str(told.value).splitlines()) == 1


def picture(encoding: str, rgb: np.ndarray, pad: int = 0) -> SimpleNamespace:
    """What a sensor_msgs/Image holds."""
    import cv2

    height, width, _ = rgb.shape
    pixels = {
        "rgb8": rgb,
        "bgr8": rgb[:, :, ::-1],
        "rgba8": np.dstack([rgb, np.full((height, width), 255, np.uint8)]),
        "bgra8": np.dstack([rgb[:, :, ::-1], np.full((height, width), 255, np.uint8)]),
        "mono8": rgb[:, :, :1],
        "yuv422_yuy2": cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_YUY2),
        "yuv422": cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_UYVY),
    }[encoding]
    rows = np.ascontiguousarray(pixels).reshape(height, -1)
    padded = np.pad(rows, ((0, 0), (0, pad)))
    header = SimpleNamespace(stamp=SimpleNamespace(sec=0, nanosec=0))
    return SimpleNamespace(header=header, encoding=encoding, height=height, width=width,
                           step=padded.shape[1], data=padded.tobytes())  # fmt: skip


@pytest.mark.parametrize(
    "encoding", ["rgb8", "bgr8", "rgba8", "bgra8", "mono8", "yuv422_yuy2", "yuv422"]
)
def test_pictures_of_every_encoding(encoding: str) -> None:
    rgb = np.zeros((6, 8, 3), np.uint8)
    rgb[:, :] = (200, 200, 200) if encoding == "mono8" else (200, 100, 50)
    message = picture(encoding, rgb, pad=5)
    found = topics.image_rgb(encoding, 6, 8, message.step, message.data)
    assert found.shape == rgb.shape
    assert np.abs(found.astype(int) - rgb).max() <= (4 if encoding.startswith("yuv") else 0)


def test_compressed_pictures() -> None:
    import cv2

    rgb = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    data = cv2.imencode(".png", rgb[:, :, ::-1])[1].tobytes()
    assert (topics.compressed_rgb(data) == rgb).all()


def test_messages_that_cannot_be_used_are_counted_and_told() -> None:
    source = topics.TopicSource(pictures=True, rate_hz=16_000, channels=2)
    source.take_sound(b"123")
    good = picture("rgb8", np.zeros((4, 4, 3), np.uint8))
    for change in ({"encoding": "16UC1"}, {"height": 9}, {"step": 3}, {"width": 0}):
        source.take_image(SimpleNamespace(**{**vars(good), **change}))
    source.take_image(SimpleNamespace(header=good.header, data=b"no picture"))
    assert source.n_refused == 6
    assert source.refused == "10 bytes are no compressed picture"
    assert source.n_messages == {"audio": 0, "vision": 0}
    source.take_image(good)
    assert source.n_messages["vision"] == 1
    assert source.silent_s > 0.0


def test_stamps_of_messages_are_put_on_the_streams_clock() -> None:
    source = topics.TopicSource(pictures=True, rate_hz=16_000, channels=1)
    message = picture("rgb8", np.zeros((4, 4, 3), np.uint8))
    for age_s, expected_s in ((0.4, 0.4), (-3.0, 0.0), (3600.0, 0.0)):
        message.header.stamp.sec = 1_000
        source.take_image(message, now_ns=1_000_000_000_000 + round(age_s * 1e9))
        now_s = time.monotonic()
        packet = next(source.packets())
        assert now_s - packet.time_s == pytest.approx(expected_s, abs=0.05)


def test_a_stream_from_topics(demo: Path) -> None:
    """The demo clip as messages of 48 kHz stereo sound and BGR pictures."""
    source = topics.TopicSource(pictures=True, rate_hz=48_000, channels=2)

    def play() -> None:
        with FileSource(str(demo), realtime=True) as file:
            for packet in file.packets():
                if isinstance(packet, AudioChunk):
                    sound = np.repeat(packet.samples, 6) * 32_767  # 3 times the rate, 2 channels
                    source.take_sound(sound.astype("<i2").tobytes())
                else:
                    source.take_image(picture("bgr8", packet.rgb))
        source.end()

    with EmotionStream(source=source, stt_wait_ms=20_000) as stream:  # the machine may be busy
        playing = threading.Thread(target=play)
        playing.start()
        events = list(stream)
        stats = stream.stats
        playing.join()
    assert len(events) == 2
    assert "amiable" in events[1].text
    for event in events:
        assert event.modalities == dict.fromkeys(event.modalities, "present")
    assert status.status_of(stats).level == status.OK
    assert source.n_refused == 0


def test_diagnostics_tell_what_is_wrong() -> None:
    stats = {"final": 2, "engine": None, "dropped": {"audio": 1}, "down": {}}
    good = status.status_of(stats)
    assert (good.level, good.message) == (status.OK, "listening")
    assert good.values == {"final": "2", "engine": "", "dropped.audio": "1"}
    down = status.status_of({**stats, "down": {"vision": "no such camera"}}, refused="bad sound")
    assert (down.level, down.message) == (
        status.WARN, "vision: no such camera; message refused: bad sound")  # fmt: skip
    quiet = status.status_of(stats, silent_s=4.4)
    assert (quiet.level, quiet.message) == (status.WARN, "no sound from audio_topic for 4 s")
    assert status.status_of(stats, error="the disk is gone").level == status.ERROR
    assert status.status_of(None) == status.Status(level=0, message="inactive", values={})
    assert status.status_of(None, error="no microphone").level == status.ERROR


def test_the_package_says_what_it_needs() -> None:
    manifest = Tree.parse(PACKAGE / "package.xml").getroot()
    assert manifest.findtext("export/build_type") == "ament_python"
    needs = {node.text for node in manifest.iter("exec_depend")}
    tree = ast.parse((PACKAGE / "dmd_live_ros" / "node.py").read_text())
    imported = {
        node.module.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module
    }
    ros = {n for n in imported if n.endswith(("_msgs", "_srvs")) or n == "rclpy"}
    assert ros - {"rcl_interfaces"} <= needs
    setup = (PACKAGE / "setup.py").read_text()
    assert manifest.findtext("version") == __version__
    assert f'version="{__version__}"' in setup
    for folder, name in re.findall(r'"(launch|config|resource)/([\w.]+)"', setup):
        assert (PACKAGE / folder / name).is_file()


def test_only_the_node_knows_ros() -> None:
    for path in sorted((PACKAGE / "dmd_live_ros").glob("*.py")):
        tree = ast.parse(path.read_text())
        names = {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        names |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        assert any("rclpy" in name for name in names) == (path.name == "node.py")
