"""Events at an MQTT broker, and commands from there."""

import logging
import os
import ssl
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..schemas import EmotionEvent
from .broker import Broker
from .commands import Commands, Obeying
from .discovery import discovery

if TYPE_CHECKING:
    from paho.mqtt.client import Client, MQTTMessage

__all__ = ["Mqtt"]

_KEEPALIVE_S = 20  # after one and a half of these without a sign, the broker says "offline"
_CONNECT_S, _ANSWER_S = 3.0, 5.0
_TURN_S = 0.05
_N_AT_ONCE = 20  # messages that are taken in between two events
_LARGEST = 4_096  # bytes of a packet that the broker may send

_logger = logging.getLogger("dmd_live")


class Mqtt:
    """Publishes events under `topic/events`, the newest one retained under `topic/latest`, and
    "online" or "offline", retained, under `topic/state`; obeys `topic/command`.

    MQTT 5. Final events have quality of service 1: `send` returns when the broker has confirmed
    both messages, so they arrive in order, and one whose confirmation was lost may come twice.
    Early estimates have 0. All is done on the outlet's thread, with a new client per connection.
    Raises UsageError where paho-mqtt is missing.
    """

    idle_s = 0.1  # a command waits so long at most

    def __init__(self, broker: Broker, *, announce: bool = False) -> None:
        try:
            from paho.mqtt.enums import CallbackAPIVersion  # noqa: F401
        except ImportError as error:
            raise UsageError(
                "--mqtt needs paho-mqtt 2 or newer: pip install 'paho-mqtt>=2'"
            ) from error
        self.name = f"mqtt {broker.host}:{broker.port}/{broker.topic}"
        self._broker, self._announce = broker, announce
        self._commands = Commands(self.name)
        self._client: Client | None = None
        self._identity = f"dmd-live-{os.urandom(4).hex()}"
        self._awaited: set[int] = set()  # numbers of messages that the broker has not confirmed
        self._greeted, self._reason, self._n_received = False, "", 0
        self._told_refusal = False
        if broker.exposed:
            _logger.warning(
                "%s: not encrypted, others in the network can read what people say; use mqtts://",
                self.name,
            )

    def attach(self, stream: Obeying) -> None:
        """Who obeys the commands."""
        self._commands.attach(stream)

    def open(self) -> None:
        """Connect, say "online", and ask for commands."""
        self._client, properties = self._made()
        self._greeted, self._reason = False, ""
        self._awaited.clear()
        try:
            self._client.connect(
                self._broker.host,
                self._broker.port,
                keepalive=_KEEPALIVE_S,
                clean_start=True,
                properties=properties,
            )
        except ssl.SSLCertVerificationError as error:
            raise ConnectionError(
                f"the broker's certificate is not valid ({error.verify_message})"
            ) from error
        except ssl.SSLError as error:
            raise ConnectionError(f"no encrypted connection ({error.reason})") from error
        self._wait(lambda: self._greeted, lambda: False)
        self._subscribe()
        messages = {f"{self._broker.topic}/state": "online"}
        if self._announce:
            messages.update(discovery(self._broker.topic))
        self._bring(messages, retain=True, over=lambda: False)

    def send(self, event: EmotionEvent, over: Callable[[], bool]) -> None:
        """Publish the event; a final one until the broker has it."""
        line, topic = event.to_json(), self._broker.topic
        assert self._client is not None
        if event.type == "final":
            waiting = self._put(f"{topic}/events", line), self._put(f"{topic}/latest", line, True)
            self._confirm(set(waiting), over)
            return
        self._client.publish(f"{topic}/events", line)
        self._client.publish(f"{topic}/latest", line, retain=True)
        self._turn(0.0)

    def idle(self) -> None:
        """Take commands in, and keep the connection."""
        for _ in range(_N_AT_ONCE):
            n_before = self._n_received
            self._turn(0.0)
            if self._n_received == n_before:
                return

    def close(self, over: Callable[[], bool]) -> None:
        """Say "offline" and leave; where there is no time for it, the broker says so itself."""
        client, state = self._client, {f"{self._broker.topic}/state": "offline"}
        try:
            if client is not None and self._greeted and not over():
                self._bring(state, retain=True, over=over)
                client.disconnect()
        finally:
            self._client, self._greeted = None, False
            if client is not None and (sock := client.socket()) is not None:
                sock.close()

    def _made(self) -> "tuple[Client, Any]":
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
        from paho.mqtt.packettypes import PacketTypes
        from paho.mqtt.properties import Properties

        client = Client(
            CallbackAPIVersion.VERSION2, self._identity, protocol=MQTTProtocolVersion.MQTTv5
        )
        client.connect_timeout = _CONNECT_S
        client.username_pw_set(self._broker.user, self._broker.password)
        client.will_set(f"{self._broker.topic}/state", "offline", qos=1, retain=True)
        if self._broker.tls is not None:
            client.tls_set_context(self._broker.tls)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.MaximumPacketSize = _LARGEST
        return client, properties

    def _subscribe(self) -> None:
        from paho.mqtt.subscribeoptions import SubscribeOptions

        assert self._client is not None
        # A retained command was given at another time: it is not wanted.
        options = SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
        _, number = self._client.subscribe(f"{self._broker.topic}/command", options=options)
        assert number is not None
        self._awaited.add(number)
        self._confirm({number}, lambda: False)

    def _bring(
        self, messages: Mapping[str, str], *, retain: bool, over: Callable[[], bool]
    ) -> None:
        self._confirm({self._put(*message, retain) for message in messages.items()}, over)

    def _put(self, topic: str, payload: str, retain: bool = False) -> int:
        assert self._client is not None
        number = self._client.publish(topic, payload, qos=1, retain=retain).mid
        self._awaited.add(number)
        return number

    def _confirm(self, numbers: set[int], over: Callable[[], bool]) -> None:
        """Wait until the broker has these messages."""
        self._wait(lambda: self._awaited.isdisjoint(numbers), over)

    def _wait(self, true: Callable[[], bool], over: Callable[[], bool]) -> None:
        until = time.monotonic() + _ANSWER_S
        while not true():
            if over() or time.monotonic() > until:
                raise TimeoutError("the broker does not answer")
            self._turn(_TURN_S)

    def _turn(self, for_s: float) -> None:
        """Exchange with the broker what is there; raises OSError where it refuses or is lost."""
        from paho.mqtt.client import error_string

        assert self._client is not None
        code = self._client.loop(for_s)
        if code or self._reason:
            raise ConnectionError(self._reason or error_string(code))

    def _on_connect(self, _client: Any, _data: Any, _flags: Any, code: Any, _more: Any) -> None:
        self._greeted = not code.is_failure
        self._reason = f"the broker refuses ({code})" if code.is_failure else ""

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, code: Any, _more: Any) -> None:
        self._reason = self._reason or f"the connection is lost ({code})"

    def _on_publish(self, _client: Any, _data: Any, number: int, code: Any, _more: Any) -> None:
        self._awaited.discard(number)  # of quality of service 0 it is called as well
        if code.is_failure:  # some brokers close the connection, too
            self._reason = f"the broker refuses an event ({code})"

    def _on_subscribe(self, _client: Any, _data: Any, number: int, codes: Any, _more: Any) -> None:
        self._awaited.discard(number)
        if codes[0].is_failure and not self._told_refusal:
            self._told_refusal = True
            _logger.warning("%s: the broker gives no commands (%s)", self.name, codes[0])

    def _on_message(self, _client: Any, _data: Any, message: "MQTTMessage") -> None:
        self._n_received += 1
        if message.retain:
            self._commands.ignore("a retained one")
        else:
            self._commands.take(bytes(message.payload))
