"""MQTT against a real broker that stops, starts, refuses and is attacked."""

import json
import logging
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from runtime.errors import UsageError
from runtime.live import EmotionStream
from runtime.outputs.broker import Broker, broker_at
from runtime.outputs.discovery import discovery
from runtime.outputs.mqtt import Mqtt
from runtime.outputs.outlet import Outlet
from tests.runtime.made_events import made, until
from tests.runtime.mosquitto import Certificates, Mosquitto, Reader, free_port
from tests.sound import write_wav

pytestmark = pytest.mark.usefixtures("remembering")

pytest.importorskip("paho.mqtt.enums", reason="no paho-mqtt 2 (pip install 'paho-mqtt>=2')")


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path / "broker") as found:
        yield found


def outlet_to(mosquitto: Mosquitto, **options: int) -> Outlet:
    return Outlet(Mqtt(broker_at(f"mqtt://127.0.0.1:{mosquitto.port}/robot/mood")), **options)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def finals(reader: Reader) -> list[int]:
    return [event["utterance"] for event in reader.events() if event["type"] == "final"]


def test_events_latest_and_state(mosquitto: Mosquitto) -> None:
    with Reader(mosquitto, "robot/mood/#") as reader:
        with outlet_to(mosquitto) as outlet:
            for number in (1, 2):
                outlet.emit(made(number, "provisional"))
                outlet.emit(made(number))
            until(lambda: outlet.stats["sent"] == 4)
            until(lambda: finals(reader) == [1, 2])
            with Reader(mosquitto, "robot/mood/#", "late") as late:
                until(lambda: len(late.messages()) == 2)
                kept = {topic: (old, text) for topic, old, text in late.messages()}
            assert kept["robot/mood/state"] == (True, "online")
            old, text = kept["robot/mood/latest"]
            assert (old, json.loads(text)) == (True, made(2).to_dict())
        until(lambda: reader.payloads("/state") == ["online", "offline"])
        kinds = [(event["type"], event["utterance"]) for event in reader.events()]
        assert kinds == [("provisional", 1), ("final", 1), ("provisional", 2), ("final", 2)]
        assert reader.events("/latest") == reader.events()
    assert not [t for t in threading.enumerate() if t.name.startswith(("dmd-live", "paho"))]


class Unconfirmed:
    """A client whose messages are written and never confirmed; it numbers as paho does."""

    def __init__(self, mqtt: Mqtt) -> None:
        self._mqtt, self.number = mqtt, 0

    def publish(
        self, topic: str, payload: str, qos: int = 0, retain: bool = False
    ) -> SimpleNamespace:
        self.number += 1
        if qos == 0:
            self._mqtt._on_publish(self, None, self.number, SimpleNamespace(is_failure=False), None)
        return SimpleNamespace(mid=self.number)

    def loop(self, timeout_s: float) -> int:
        return 0


def test_numbers_of_early_estimates_confirm_no_final(monkeypatch: pytest.MonkeyPatch) -> None:
    mqtt = Mqtt(broker_at("mqtt://127.0.0.1/robot/mood"))
    client = Unconfirmed(mqtt)
    monkeypatch.setattr(mqtt, "_client", client)
    mqtt.send(made(1, "provisional"), lambda: False)
    client.number = 0  # as after 65,535 messages
    with pytest.raises(TimeoutError, match="does not answer"):
        mqtt.send(made(1), lambda: True)


def test_a_broker_that_stops_and_starts_costs_no_final(
    mosquitto: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    with Reader(mosquitto, "robot/mood/#") as reader, outlet_to(mosquitto) as outlet:
        number = 0
        for _ in range(3):
            for stopped in (False, True):
                for _ in range(20):
                    number += 1
                    outlet.emit(made(number, "provisional"))
                    outlet.emit(made(number))
                    time.sleep(0.002)
                    if not stopped and number % 20 == 10:
                        mosquitto.stop()  # in the middle of a burst
                if not stopped:
                    until(lambda: outlet.stats["error"])
            mosquitto.start()
            until(lambda: not outlet.stats["waiting"] and not outlet.stats["error"], 60.0)
        until(lambda: number in finals(reader), 60.0)
        got = finals(reader)
        assert reader.payloads("/state")[-1] == "online"
    # A final whose confirmation was lost comes twice; none is missing, and none overtakes.
    assert sorted(set(got)) == list(range(1, number + 1))
    assert [n for i, n in enumerate(got) if n not in got[:i]] == list(range(1, number + 1))
    assert len(got) <= number + 3
    assert outlet.stats["lost"]["final"] == 0
    assert sum("it is tried again" in line for line in warnings(caplog)) <= 2
    assert any("works again" in line for line in warnings(caplog))


def test_what_a_long_outage_drops_is_said(
    mosquitto: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    with Reader(mosquitto, "robot/mood/#") as reader:
        with outlet_to(mosquitto, n_kept=20) as outlet:
            until(lambda: reader.payloads("/state"))
            mosquitto.stop()
            until(lambda: outlet.stats["error"])
            for number in range(1, 51):
                outlet.emit(made(number))
                outlet.emit(made(number, "provisional"))
            mosquitto.start()
            until(lambda: outlet.stats["sent"] >= 20)
        until(lambda: 50 in finals(reader))
        assert finals(reader) == list(range(31, 51))
    assert outlet.stats["lost"]["final"] == 30
    assert re.search(r"lost 30 final events and \d+ early estimates", warnings(caplog)[-1])


def test_a_broker_that_is_away_does_not_hold_up_the_end(caplog: pytest.LogCaptureFixture) -> None:
    """One port where nobody listens, one where somebody listens and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for port in (free_port(), silent.getsockname()[1]):
            caplog.clear()
            with Outlet(Mqtt(broker_at(f"mqtt://127.0.0.1:{port}/robot/mood"))) as outlet:
                outlet.emit(made(1))
                time.sleep(0.3)
                begun = time.monotonic()
            assert time.monotonic() - begun < 2.0
            assert "lost 1 final event" in warnings(caplog)[-1]
            until(lambda: not [t for t in threading.enumerate() if t.name == "dmd-live-mqtt"])


def test_passwords(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, file = tmp_path / "known", tmp_path / "password"
    subprocess.run(["mosquitto_passwd", "-b", "-c", known, "anna", "right"], check=True)
    with Mosquitto(tmp_path / "b", "allow_anonymous false", f"password_file {known}") as mosquitto:
        url = f"mqtt://anna@127.0.0.1:{mosquitto.port}/robot"
        monkeypatch.setenv("DMD_LIVE_MQTT_PASSWORD", "wrong")
        file.write_text("right\n")
        with Outlet(Mqtt(broker_at(url))) as outlet:
            outlet.emit(made(1))
            until(lambda: outlet.stats["failures"] == 2)
            assert outlet.stats["error"] == "the broker refuses (Not authorized)"
        assert sum("it is tried again" in line for line in warnings(caplog)) == 1
        assert "wrong" not in caplog.text
        with Outlet(Mqtt(broker_at(url, password_file=file))) as outlet:
            outlet.emit(made(1))
            until(lambda: outlet.stats["sent"] == 1)
        monkeypatch.setenv("DMD_LIVE_MQTT_PASSWORD", "right")
        with Outlet(Mqtt(broker_at(url))) as outlet:
            outlet.emit(made(1))
            until(lambda: outlet.stats["sent"] == 1)


def test_what_a_broker_does_not_permit_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rights = tmp_path / "rights"
    rights.write_text("topic write robot/state\ntopic write other/#\ntopic read other/#\n")
    with Mosquitto(tmp_path / "broker", f"acl_file {rights}") as mosquitto:
        with Outlet(Mqtt(broker_at(f"mqtt://127.0.0.1:{mosquitto.port}/robot"))) as outlet:
            outlet.emit(made(1))
            until(lambda: outlet.stats["error"])
            assert outlet.stats["error"] == "the broker refuses an event (Not authorized)"
        assert "lost 1 final event" in warnings(caplog)[-1]


# paho leaves a socket to the garbage collector when the encrypted connection is not made.
@pytest.mark.filterwarnings("ignore:.*unclosed <ssl.SSLSocket:ResourceWarning")
@pytest.mark.filterwarnings("ignore:.*ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning")
def test_certificates_are_verified(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made_certificates = Certificates(tmp_path / "own")
    made_certificates.sign("good", "localhost")
    made_certificates.sign("old", "localhost", end="20200201000000Z")
    made_certificates.sign("other", "example.org")
    ca = made_certificates.ca
    for name, trusted, reason in (
        ("good", ca, ""),
        ("good", None, "self-signed certificate in certificate chain|unable to get local issuer"),
        ("old", ca, "certificate has expired"),
        ("other", ca, "Hostname mismatch"),
    ):
        folder = tmp_path / f"{name}{trusted is None}"
        with Mosquitto(folder, certificate=(made_certificates, name)) as mosquitto:
            broker = broker_at(f"mqtts://localhost:{mosquitto.port}/robot", ca=trusted)
            with Outlet(Mqtt(broker)) as outlet:
                outlet.emit(made(1))
                until(lambda outlet=outlet: outlet.stats["sent"] or outlet.stats["failures"])
                assert re.search(reason, outlet.stats["error"])
                assert outlet.stats["sent"] == (reason == "")
            # Nothing was said to a broker that is not the right one.
            log = (folder / "log").read_text()
            assert ("CONNECT" in log or "New client connected" in log) == (reason == "")
    assert not any("not encrypted" in line for line in warnings(caplog))


def test_a_killed_program_is_told_by_the_broker(mosquitto: Mosquitto, root: Path) -> None:
    code = (
        "import sys, time; from runtime.outputs.broker import broker_at\n"
        "from runtime.outputs.mqtt import Mqtt; from runtime.outputs.outlet import Outlet\n"
        "with Outlet(Mqtt(broker_at(sys.argv[1]))): time.sleep(60)\n"
    )
    with Reader(mosquitto, "robot/#") as reader:
        url = f"mqtt://127.0.0.1:{mosquitto.port}/robot"
        process = subprocess.Popen([sys.executable, "-c", code, url], cwd=root)
        until(lambda: reader.payloads("/state") == ["online"])
        process.send_signal(signal.SIGKILL)
        process.wait()
        until(lambda: reader.payloads("/state") == ["online", "offline"])


def test_commands_and_attacks(
    mosquitto: Mosquitto, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Long enough for a slow machine.
    quiet = write_wav(tmp_path / "quiet.wav", np.zeros(16_000 * 120))
    topic = "robot/mood/command"
    mosquitto.publish(topic, b"mute", "-r", "-q", "1")  # of another time: it is not obeyed
    outlet = outlet_to(mosquitto)
    with EmotionStream(file=quiet, realtime=True, sinks=[outlet]) as stream:
        with Reader(mosquitto, "robot/mood/state", "state") as state:
            until(lambda: state.payloads("/state"))
        assert "audio" not in stream.stats["down"]
        mosquitto.publish(topic, b"mute\n")
        until(lambda: stream.stats["down"].get("audio") == "muted")
        mosquitto.publish(topic, b"UNMUTE")
        until(lambda: "audio" not in stream.stats["down"])
        mosquitto.publish(topic, b"reset")
        assert not warnings(caplog)
        for payload in (b"", b"format c:", b"\xff\xfe\x00mute", b"mute;reset", b"m" * 10_000_000,
                        b'{"command": "mute"}', "\u202emute".encode()):  # fmt: skip
            mosquitto.publish(topic, payload)
        flood = ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(mosquitto.port), "-t", topic, "-l"]
        subprocess.run(flood, input=b"mute\nunmute\n" * 1_000, check=True)

        def obeyed(line: bytes, muted: bool) -> bool:
            mosquitto.publish(topic, line)
            time.sleep(0.3)
            return (stream.stats["down"].get("audio") == "muted") == muted

        # Commands are obeyed again when the flood is over.
        until(lambda: obeyed(b"mute", True))
        until(lambda: obeyed(b"unmute", False))
        assert outlet.stats["failures"] == 0
    assert sum("a command is ignored" in line for line in warnings(caplog)) == 1
    assert len(warnings(caplog)) == 1


def test_home_assistant_finds_three_sensors(mosquitto: Mosquitto) -> None:
    broker = broker_at(f"mqtt://127.0.0.1:{mosquitto.port}/robot/mood")
    with Outlet(Mqtt(broker, announce=True)) as outlet:
        until(lambda: outlet._opened)
        outlet.emit(made(1))
        until(lambda: outlet.stats["sent"])
    with Reader(mosquitto, "homeassistant/#", "home") as home:
        until(lambda: len(home.messages()) == 3)
        found = {topic: json.loads(text) for topic, kept, text in home.messages() if kept}
    assert {topic: json.dumps(text) for topic, text in found.items()} == discovery("robot/mood")
    assert len({sensor["unique_id"] for sensor in found.values()}) == 3
    for topic, sensor in found.items():
        assert re.fullmatch(r"homeassistant/sensor/[\w-]+/\w+/config", topic)
        assert sensor["state_topic"] == "robot/mood/latest"
        assert sensor["availability_topic"] == "robot/mood/state"
        fields = re.findall(r"value_json\.(\w+)", sensor["value_template"])
        assert fields
        assert set(fields) <= made(1).to_dict().keys()
    assert not discovery("a_b").keys() & discovery("a/b").keys()


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("mqtt://anna:secret@host/robot", "seen in the list of processes"),
        ("http://host/robot", "not mqtt"),
        ("mqtt:///robot", "not mqtt"),
        ("mqtt://[::1/robot", "not mqtt"),
        ("mqtt://anna:secret@[::1/robot", "not mqtt"),
        ("mqtt://anna:secret@ho\u2100st/robot", "not mqtt"),
        ("mqtt://host:0/robot", "not mqtt"),
        ("mqtt://host:70000/robot", "not mqtt"),
        ("mqtt://host", "name a topic"),
        ("mqtt://host/", "name a topic"),
        ("mqtt://host/" + "x" * 300, "name a topic"),
        ("mqtt://host/robot/#", "name a topic"),
        ("mqtt://host/robot/+/mood", "a topic has no"),
        ("mqtt://host/$SYS", "a topic has no"),
        ("mqtt://host/robot%0a", "a topic has no"),
    ],
)
def test_addresses_that_are_none(url: str, what: str) -> None:
    with pytest.raises(UsageError, match=what) as caught:
        broker_at(url)
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DMD_LIVE_MQTT_PASSWORD", "pass")
    found = broker_at("mqtt://[::1]/robot")
    assert found == Broker(
        host="::1", port=1883, topic="robot", user=None, password=None, tls=None
    )  # fmt: skip
    found = broker_at("mqtts://anna%40home@broker.local:99/a/b/")
    assert (found.port, found.topic, found.user, found.password) == (
        99, "a/b", "anna@home", "pass"
    )  # fmt: skip
    assert found.tls is not None
    assert broker_at("mqtt://192.168.1.7/robot").exposed
    (tmp_path / "empty").touch()
    for options, what in (
        ({"password_file": tmp_path / "none"}, "cannot be read"),
        ({"password_file": tmp_path / "empty"}, "first line is empty"),
        ({"ca": tmp_path / "none"}, "no certificates"),
        ({"ca": tmp_path / "empty"}, "no certificates"),
    ):
        with pytest.raises(UsageError, match=what):
            broker_at("mqtts://anna@host/robot", **options)
    (tmp_path / "password").write_text("pass\n")
    with pytest.raises(UsageError, match="belongs to a user"):
        broker_at("mqtt://host/robot", password_file=tmp_path / "password")
    with pytest.raises(UsageError, match="mqtts"):
        broker_at("mqtt://host/robot", ca=tmp_path / "password")


def test_the_command_line_publishes(mosquitto: Mosquitto, root: Path) -> None:
    args = ["--demo", "--json", "--mqtt", f"mqtt://127.0.0.1:{mosquitto.port}/robot/mood"]
    with Reader(mosquitto, "robot/mood/#") as reader:
        out = subprocess.run(
            [sys.executable, "-m", "runtime.cli", *args],
            cwd=root, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert (out.returncode, out.stderr) == (0, "")
        until(lambda: reader.payloads("/state") == ["online", "offline"])
        assert reader.payloads("/events") == out.stdout.splitlines()
        assert len(reader.payloads("/events")) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_program_that_is_stopped_says_so(
    mosquitto: Mosquitto, root: Path, demo: Path, number: int
) -> None:
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from runtime.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    args = ["--file", str(demo), "--realtime", "--quiet", "--exec", "sleep 600", "--mqtt",
            f"mqtt://127.0.0.1:{mosquitto.port}/robot"]  # fmt: skip
    with (
        Reader(mosquitto, "robot/#") as reader,
        subprocess.Popen(
            [sys.executable, "-c", code, *args], cwd=root, stderr=subprocess.PIPE, text=True
        ) as process,
    ):
        until(lambda: reader.payloads("/state") == ["online"])
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)  # the program that it runs has ended, too
        assert process.returncode == 0
        assert "Traceback" not in errors
        until(lambda: reader.payloads("/state") == ["online", "offline"])
        log = (mosquitto.folder / "log").read_text()
    assert re.search(r"Received DISCONNECT from dmd-live-", log)  # it said so itself


@pytest.mark.parametrize(
    ("args", "what"),
    [
        (("--mqtt", "mqtt://anna:secret@host/robot"), "list of processes"),
        (("--mqtt", "mqtt://host"), "name a topic"),
        (("--mqtt-discovery",), "go with --mqtt"),
        (("--mqtt", "mqtt://localhost/robot"), "pip install 'paho-mqtt>=2'"),
    ],
)
def test_a_mistake_is_one_clear_line(args: tuple[str, ...], what: str, root: Path) -> None:
    code = "import sys; sys.modules['paho'] = None\nfrom runtime.cli import main\n"
    code += "sys.exit(main(['--demo', *sys.argv[1:]]))"
    out = subprocess.run(
        [sys.executable, "-c", code, *args], cwd=root, capture_output=True, text=True, timeout=60
    )
    assert (out.returncode, out.stdout) == (2, "")
    assert out.stderr.startswith("dmd-live: ")
    assert out.stderr.count("\n") == 1
    assert what in out.stderr
    assert "secret" not in out.stderr
