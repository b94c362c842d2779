"""The node `emotions` between topics, services and life-cycle states; a program for ROS 2's Python.

python tests/integrations/ros2_run.py talk.mp4 [stamped]      (needs hri_msgs, audio_common_msgs)
"""

import json
import sys
import threading
import time
from collections.abc import Callable

import numpy as np
import rclpy
from audio_common_msgs.msg import AudioData, AudioDataStamped
from diagnostic_msgs.msg import DiagnosticArray
from dmd_live import AudioChunk
from dmd_live.sources.file import FileSource
from dmd_live_ros.node import EmotionNode
from hri_msgs.msg import Expression
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
from std_msgs.msg import String
from std_srvs.srv import Trigger

DONE, FAILED = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class Tester(Node):
    """Plays a file as topics, and keeps what the node publishes."""

    def __init__(self, stamped: bool) -> None:
        super().__init__("tester")
        self._kind = AudioDataStamped if stamped else AudioData
        self._sound = self.create_publisher(self._kind, "audio", 100)
        self._image = self.create_publisher(Image, "image", qos_profile_sensor_data)
        self.events: list[dict] = []
        self.faces: list[Expression] = []
        self.voices: list[Expression] = []
        self.told: list[DiagnosticArray] = []
        for kind, topic, take in (
            (String, "emotions/events", lambda m: self.events.append(json.loads(m.data))),
            (Expression, "humans/faces/face/expression", self.faces.append),
            (Expression, "humans/voices/voice/expression", self.voices.append),
            (DiagnosticArray, "/diagnostics", self.told.append),
        ):
            self.create_subscription(kind, topic, take, 10)

    def play(self, path: str) -> None:
        """Sound and pictures in real time, then silence."""
        with FileSource(path, realtime=True) as file:
            for packet in file.packets():
                if isinstance(packet, AudioChunk):
                    self.say(packet.samples)
                else:
                    self.show(packet.rgb)
        for _ in range(30):
            self.say(np.zeros(1_600, np.float32))
            time.sleep(0.1)

    def say(self, samples: np.ndarray) -> None:
        """S16LE."""
        data = (samples * 32_767).astype("<i2").tobytes()
        message = self._kind()
        if isinstance(message, AudioDataStamped):
            message.header.stamp = self.get_clock().now().to_msg()
            message.audio.data = data
        else:
            message.data = data
        self._sound.publish(message)

    def show(self, rgb: np.ndarray) -> None:
        """bgr8."""
        height, width, _ = rgb.shape
        message = Image(encoding="bgr8", height=height, width=width, step=3 * width)
        message.header.stamp = self.get_clock().now().to_msg()
        message.data = rgb[:, :, ::-1].tobytes()
        self._image.publish(message)


def wait(true: Callable[[], object], what: str) -> None:
    """Raises AssertionError when it is not so within 25 s."""
    until_s = time.monotonic() + 25.0
    while not true():
        assert time.monotonic() < until_s, what
        time.sleep(0.05)


def call(node: Tester, name: str) -> Trigger.Response:
    """A service of the node."""
    client = node.create_client(Trigger, f"emotions/{name}")
    assert client.wait_for_service(10.0), name
    future = client.call_async(Trigger.Request())
    wait(future.done, name)
    return future.result()


def main() -> None:
    """Raises AssertionError where the node does not what it should."""
    stamped = sys.argv[2:] == ["stamped"]
    rclpy.init()
    tester = Tester(stamped)
    overrides = {"image_topic": "image", "stt_wait_ms": 20_000}  # the machine may be busy
    node = EmotionNode(parameter_overrides=[Parameter(n, value=v) for n, v in overrides.items()])
    executor = SingleThreadedExecutor()
    executor.add_node(tester)
    executor.add_node(node)
    spinning = threading.Thread(target=executor.spin, daemon=True)
    spinning.start()

    # An image topic alone is a mistake; the node can be configured again.
    assert node.trigger_configure() == FAILED
    node.set_parameters(
        [Parameter("audio_topic", value="audio"), Parameter("audio_stamped", value=stamped)]
    )
    assert node.trigger_configure() == DONE
    assert not call(tester, "mute").success  # not active yet
    assert node.trigger_activate() == DONE
    wait(lambda: tester.count_subscribers("audio") == 1, "no subscription")
    assert call(tester, "mute").success
    assert call(tester, "unmute").success
    assert call(tester, "reset").success

    tester.play(sys.argv[1])
    wait(lambda: len(tester.events) == 2, f"{len(tester.events)} events")
    assert "amiable" in tester.events[1]["text"]
    assert set(tester.events[0]["modalities"].values()) == {"present"}, tester.events[0]
    wait(lambda: len(tester.faces) == len(tester.voices) == 2, "expressions")
    now_s = tester.get_clock().now().nanoseconds / 1e9
    for event, face, voice in zip(tester.events, tester.faces, tester.voices, strict=True):
        assert face == voice
        assert face.expression in ("happy", "neutral"), face.expression
        assert abs(face.valence - event["sentiment"] / 3.0) < 1e-3
        assert abs(face.confidence - event["probabilities"][event["emotion"]]) < 1e-3
        age_s = now_s - face.header.stamp.sec - face.header.stamp.nanosec / 1e9
        assert 0.0 < age_s < 30.0, age_s
    wait(lambda: tester.told[-1].status[0].message == "listening", "diagnostics")
    values = {item.key: item.value for item in tester.told[-1].status[0].values}
    assert values["final"] == "2", values
    assert int(values["messages.vision"]) > 50, values

    tester.say(np.zeros(0, np.float32))
    tester._image.publish(Image(encoding="16UC1", height=1, width=1, step=2, data=b"12"))
    wait(lambda: "16UC1" in tester.told[-1].status[0].message, "refused picture is not told")

    assert node.trigger_deactivate() == DONE
    assert tester.count_subscribers("audio") == 0
    assert node.trigger_activate() == DONE  # again
    assert node.trigger_deactivate() == DONE
    assert node.trigger_cleanup() == DONE
    assert node.trigger_shutdown() == DONE
    executor.shutdown()
    spinning.join(5.0)
    node.destroy_node()
    tester.destroy_node()
    rclpy.try_shutdown()
    print("the node does what it should")


if __name__ == "__main__":
    main()
