"""A real MQTT broker with a folder and ports of its own, and foreign clients for it."""

import json
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.made_events import until

__all__ = ["Certificates", "Mosquitto", "Reader"]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Certificates:
    """An authority and certificates that it has signed, made by OpenSSL."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("OpenSSL is not installed (apt install openssl)")
        self.folder, self.ca = folder, folder / "ca.pem"
        folder.mkdir()
        self._openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key",
                      "-out", "ca.pem", "-days", "2", "-subj", "/CN=Test authority")  # fmt: skip
        (folder / "index.txt").touch()
        (folder / "ca.cnf").write_text(
            "[ca]\ndefault_ca = own\n[own]\ndatabase = index.txt\nnew_certs_dir = .\n"
            "rand_serial = yes\ndefault_md = sha256\npolicy = any\ncopy_extensions = copy\n"
            "unique_subject = no\n[any]\ncommonName = supplied\n"
        )

    def sign(self, name: str, host: str, *, end: str = "20991231235959Z") -> None:
        """Make `name`.pem and `name`.key for `host`."""
        self._openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out",
                      f"{name}.csr", "-subj", f"/CN={host}", "-addext",
                      f"subjectAltName=DNS:{host}")  # fmt: skip
        self._openssl("ca", "-batch", "-config", "ca.cnf", "-cert", "ca.pem", "-keyfile", "ca.key",
                      "-in", f"{name}.csr", "-out", f"{name}.pem", "-notext", "-startdate",
                      "20200101000000Z", "-enddate", end)  # fmt: skip

    def _openssl(self, *args: str) -> None:
        subprocess.run(["openssl", *args], cwd=self.folder, check=True, capture_output=True)


class Mosquitto:
    """Starts and stops a broker. Sessions outlive a stop. `lines` are added to its configuration;
    `certificate` makes it encrypt."""

    def __init__(
        self, folder: Path, *lines: str, certificate: tuple[Certificates, str] | None = None
    ) -> None:
        if any(shutil.which(name) is None for name in ("mosquitto", "mosquitto_sub")):
            pytest.skip("no broker here (apt install mosquitto mosquitto-clients)")
        folder.mkdir()
        self.folder, self.port, self._process = folder, free_port(), None
        tls = []
        if certificate is not None:
            made, name = certificate
            tls = [f"certfile {made.folder}/{name}.pem", f"keyfile {made.folder}/{name}.key"]
        if not any(line.startswith("allow_anonymous") for line in lines):
            lines = ("allow_anonymous true", *lines)
        (folder / "mosquitto.conf").write_text(
            "\n".join(
                ["user root", f"listener {self.port} 127.0.0.1", *tls, *lines, "persistence true",
                 f"persistence_location {folder}/", "max_queued_messages 0", ""]
            )
        )  # fmt: skip

    def start(self) -> None:
        log = (self.folder / "log").open("ab")
        command = ["mosquitto", "-v", "-c", str(self.folder / "mosquitto.conf")]
        self._process = subprocess.Popen(command, stdout=log, stderr=log)
        log.close()
        until(self._listening)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None

    def publish(self, topic: str, payload: bytes, *args: str) -> None:
        command = ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(self.port), "-t", topic, *args]
        subprocess.run([*command, "-s" if payload else "-n"], input=payload, check=True)

    def _listening(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "log").read_text()
        with socket.socket() as there:
            return there.connect_ex(("127.0.0.1", self.port)) == 0

    def __enter__(self) -> "Mosquitto":
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


class Reader:
    """`mosquitto_sub`, whose session outlives the broker's stops."""

    def __init__(self, broker: Mosquitto, topic: str, name: str = "reader") -> None:
        self.path = broker.folder / f"{name}.txt"
        with self.path.open("wb") as out:
            self._process = subprocess.Popen(
                ["mosquitto_sub", "-h", "127.0.0.1", "-p", str(broker.port), "-t", topic, "-q", "1",
                 "-c", "-i", name, "-F", "%t %r %p"],
                stdout=out, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        until(lambda: f"Sending SUBACK to {name}" in (broker.folder / "log").read_text())

    def messages(self) -> list[tuple[str, bool, str]]:
        """Topic, whether it was retained, and payload, of each."""
        lines = self.path.read_text(errors="replace").split("\n")[:-1]
        return [
            (topic, kept == "1", text) for topic, kept, text in (x.split(" ", 2) for x in lines)
        ]

    def payloads(self, end: str) -> list[str]:
        return [text for topic, _, text in self.messages() if topic.endswith(end)]

    def events(self, end: str = "/events") -> list[dict[str, Any]]:
        return [json.loads(text) for text in self.payloads(end)]

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.wait()
