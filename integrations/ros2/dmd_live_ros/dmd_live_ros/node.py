"""The lifecycle node `emotions`: an `EmotionStream` between topics."""

import functools
import sys
import threading
import time
from typing import Any

import rclpy
from audio_common_msgs.msg import AudioData, AudioDataStamped
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from dmd_live import DmdLiveError, EmotionEvent, EmotionStream
from dmd_live.errors import UsageError
from dmd_live.live import COMMANDS
from hri_msgs.msg import Expression
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rclpy.time import Time
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String
from std_srvs.srv import Trigger

from .mapping import expressions_of, stamp_ns
from .parameters import NodeOptions, options_of, table
from .status import Status, status_of
from .topics import TopicSource

__all__ = ["EmotionNode", "main"]

_DIAGNOSTICS_S = 1.0
_JOIN_S = 3.0
_SOUND = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)


class EmotionNode(LifecycleNode):
    """Publishes what a stream finds.

    `configure` reads and checks the parameters, `activate` opens devices and models and listens,
    `deactivate` closes them, `cleanup` takes the publishers away.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__("emotions", **options)
        for parameter in table():
            told = f"{parameter.help}; one of {', '.join(parameter.choices)}"
            descriptor = ParameterDescriptor(
                description=told if parameter.choices else parameter.help
            )
            self.declare_parameter(parameter.name, parameter.default, descriptor)
        self._options = NodeOptions()
        self._stream: EmotionStream | None = None
        self._source: TopicSource | None = None
        self._reading: threading.Thread | None = None
        self._error = ""
        self._of_state: list[Any] = []  # subscriptions, which come and go with the active state
        self._expressions: dict[str, Any] = {}
        self._events = self._diagnostics = self._timer = None
        for command in COMMANDS:
            self.create_service(Trigger, f"~/{command}", functools.partial(self._obey, command))

    def autostart(self) -> None:
        """Configure and activate, unless the parameter says no."""
        if self.get_parameter("autostart").value:
            done = self.trigger_configure()
            if done == TransitionCallbackReturn.SUCCESS:
                self.trigger_activate()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Read and check the parameters."""
        values = {p.name: self.get_parameter(p.name).value for p in table()}
        try:
            self._options = options_of(values)
        except UsageError as error:
            self.get_logger().error(str(error))
            return TransitionCallbackReturn.FAILURE
        self._events = self.create_publisher(String, "~/events", 10)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._timer = self.create_timer(_DIAGNOSTICS_S, self._diagnose)
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Open devices and models, and listen."""
        options = self._options
        self._error = ""
        self._source = None
        if options.topics:
            self._source = TopicSource(
                pictures=options.image_topic is not None,
                rate_hz=options.audio_rate_hz,
                channels=options.audio_channels,
            )
        try:
            self._stream = EmotionStream(source=self._source, **options.for_stream())
            self._stream.__enter__()
        except DmdLiveError as error:
            self._stream, self._error = None, str(error)
            self.get_logger().error(str(error))
            return TransitionCallbackReturn.FAILURE
        if self._source is not None:
            self._subscribe(self._source)
        self._reading = threading.Thread(
            target=self._read, args=(self._stream,), name="dmd-live-ros", daemon=True
        )
        self._reading.start()
        self.get_logger().info("listening")
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Close devices and models."""
        self._close()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Take the publishers away."""
        self._close()
        self._remove()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release everything, from any state."""
        return self.on_cleanup(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release everything; the node can be configured again."""
        return self.on_cleanup(state)

    def destroy_node(self) -> None:
        """Close what is open."""
        self._close()
        super().destroy_node()

    def _subscribe(self, source: TopicSource) -> None:
        options = self._options
        kind = AudioDataStamped if options.audio_stamped else AudioData
        take = self._take_stamped if options.audio_stamped else self._take_sound
        self._of_state = [
            self.create_subscription(
                kind, options.audio_topic, functools.partial(take, source), _SOUND
            )
        ]
        if options.image_topic is not None:
            packed = options.image_topic.endswith("/compressed")
            self._of_state.append(
                self.create_subscription(
                    CompressedImage if packed else Image,
                    options.image_topic,
                    lambda message: source.take_image(message, now_ns=self._now_ns()),
                    qos_profile_sensor_data,
                )
            )

    def _take_sound(self, source: TopicSource, message: AudioData) -> None:
        source.take_sound(message.data)

    def _take_stamped(self, source: TopicSource, message: AudioDataStamped) -> None:
        stamp = Time.from_msg(message.header.stamp).nanoseconds
        source.take_sound(message.audio.data, stamp_ns=stamp, now_ns=self._now_ns())

    def _read(self, stream: EmotionStream) -> None:
        """A thread: every event to its topics, until the stream ends."""
        try:
            for event in stream:
                self._publish(event)
        except DmdLiveError as error:
            self._error = str(error)
            self.get_logger().error(str(error))
        except Exception as error:  # the context may go down under a publisher
            if rclpy.ok(context=self.context):
                self._error = f"{type(error).__name__}: {error}"
                self.get_logger().error(self._error)

    def _publish(self, event: EmotionEvent) -> None:
        assert self._events is not None
        self._events.publish(String(data=event.to_json()))
        live = self._options.file is None and self._options.replay is None
        at_s = event.end_s if live else time.monotonic()
        stamp = Time(
            nanoseconds=stamp_ns(at_s, monotonic_s=time.monotonic(), ros_ns=self._now_ns())
        ).to_msg()
        for found in expressions_of(event):
            message = Expression(
                expression=found.expression,
                valence=found.valence,
                arousal=found.arousal,
                confidence=found.confidence,
            )
            message.header.stamp = stamp
            message.header.frame_id = self._options.frame_id
            if found.topic not in self._expressions:
                self._expressions[found.topic] = self.create_publisher(Expression, found.topic, 10)
            self._expressions[found.topic].publish(message)

    def _diagnose(self) -> None:
        stats = None if self._stream is None else self._stream.stats
        refused, silent_s, source = "", 0.0, self._source
        if source is not None and stats is not None:
            stats |= {"messages": source.n_messages, "refused": source.n_refused}
            silent_s = source.silent_s
            refused, source.refused = source.refused, ""  # told once
        found: Status = status_of(stats, error=self._error, refused=refused, silent_s=silent_s)
        status = DiagnosticStatus(
            level=bytes([found.level]),
            name=f"{self.get_name()}: stream",
            message=found.message,
            hardware_id="dmd_live",
            values=[KeyValue(key=key, value=value) for key, value in found.values.items()],
        )
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        if self._diagnostics is not None:
            self._diagnostics.publish(message)

    def _obey(
        self, command: str, request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        response.success = self._stream is not None
        response.message = command if self._stream is not None else "the node is not active"
        if self._stream is not None:
            self._stream.command(command)
        return response

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def _close(self) -> None:
        stream, self._stream = self._stream, None
        for subscription in self._of_state:
            self.destroy_subscription(subscription)
        self._of_state = []
        if stream is not None:
            stream.close()
        if self._reading is not None and self._reading is not threading.current_thread():
            self._reading.join(_JOIN_S)
            self._reading = None

    def _remove(self) -> None:
        if self._timer is not None:
            self.destroy_timer(self._timer)
        for publisher in (self._events, self._diagnostics, *self._expressions.values()):
            if publisher is not None:
                self.destroy_publisher(publisher)
        self._events = self._diagnostics = self._timer = None
        self._expressions = {}


def main(args: list[str] | None = None) -> int:
    """Run the node until it is told to stop."""
    rclpy.init(args=args)
    node = EmotionNode()
    try:
        node.autostart()
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
