"""A real microphone (PulseAudio plays speech into a null sink) and a real network camera (MJPEG on
loopback), both of which can be made to fail."""

import http.server
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

_FRAME_S = 1 / 15


class Microphone:
    """A sound server of its own; its default source hears what is played."""

    def __init__(self, folder: Path) -> None:
        self.env = {**os.environ, "XDG_RUNTIME_DIR": str(folder), "PULSE_RUNTIME_PATH": str(folder),
                    "PULSE_STATE_PATH": str(folder), "HOME": str(folder),
                    "PULSE_SERVER": f"unix:{folder}/native"}  # fmt: skip
        self._sink = ""
        self._server: subprocess.Popen[bytes] | None = None

    def plug(self, name: str = "speech", rate_hz: int = 48_000) -> bool:
        """Start the server; whether it runs."""
        self._sink = name
        load = (
            "module-native-protocol-unix",
            f"module-null-sink sink_name={name} rate={rate_hz}",
        )
        self._server = subprocess.Popen(
            ["pulseaudio", "-n", "--exit-idle-time=-1", *(f"--load={x}" for x in load)],
            env=self.env,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(50):
            if self.control("set-default-source", f"{name}.monitor"):
                return True
            time.sleep(0.1)
        return False

    def unplug(self) -> None:
        """End the server without a word to its clients."""
        if self._server is not None:
            self._server.kill()
            self._server.wait(5)

    def freeze(self, frozen: bool) -> None:
        """The server answers nobody, or goes on."""
        assert self._server is not None
        self._server.send_signal(signal.SIGSTOP if frozen else signal.SIGCONT)

    def control(self, *args: str) -> bool:
        """Run pactl; whether it worked."""
        done = subprocess.run(["pactl", *args], env=self.env, stderr=subprocess.DEVNULL, timeout=10)
        return done.returncode == 0

    @property
    def is_heard(self) -> bool:
        """Whether somebody listens."""
        command = ["pactl", "list", "short", "source-outputs"]
        return bool(subprocess.run(command, env=self.env, capture_output=True, timeout=10).stdout)

    def mute(self, muted: bool) -> None:
        """As the switch on a headset does."""
        assert self.control("set-source-mute", f"{self._sink}.monitor", str(int(muted)))

    def hear(self, path: Path, percent: int = 100) -> None:
        """Say it, from begin to end, that loud."""
        volume = f"--volume={round(65_536 * percent / 100)}"
        command = ["paplay", f"--device={self._sink}", volume, str(path)]
        subprocess.run(command, env=self.env, check=True, timeout=60)


class Camera:
    """Shows `pictures` (JPEG), 15 a second, to everybody who asks."""

    def __init__(self, pictures: list[bytes]) -> None:
        self._pictures, self.fault = pictures, ""
        self._server: http.server.ThreadingHTTPServer | None = None
        self._port = 0
        height, width = cv2.imdecode(np.frombuffer(pictures[0], np.uint8), cv2.IMREAD_COLOR).shape[
            :2
        ]
        self._black = cv2.imencode(".jpg", np.zeros((height, width, 3), np.uint8))[1].tobytes()
        self.plug()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/camera.mjpg"

    def plug(self) -> None:
        camera = self
        self.fault = ""

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                for jpeg in camera._shown():
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n"
                    try:
                        self.wfile.write(f"{head}\r\n".encode() + jpeg + b"\r\n")
                    except OSError:
                        return

            def log_message(self, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._server.daemon_threads = True
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def unplug(self) -> None:
        """Connections end, and new ones are refused."""
        self.fault = "unplugged"
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()

    def _shown(self) -> Iterator[bytes]:
        last = self._pictures[0]
        for picture in itertools.cycle(self._pictures):
            time.sleep(_FRAME_S)
            if self.fault == "unplugged":
                return
            if self.fault == "silent":
                continue
            if self.fault != "frozen":
                last = picture
            yield self._black if self.fault == "black" else last


def wav(source: Path, path: Path, start_s: float = 0.0, end_s: float = 1e9) -> Path:
    """The sound of a clip, or a part of it, as PulseAudio plays it."""
    with av.open(str(source)) as container:
        resampler = av.AudioResampler("s16", "mono", 48_000)
        frames = [piece for f in container.decode(audio=0) for piece in resampler.resample(f)]
    sound = np.concatenate([frame.to_ndarray()[0] for frame in frames])
    sound = sound[round(48_000 * start_s) : round(48_000 * min(end_s, len(sound) / 48_000))]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=48_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(sound[None], format="s16", layout="mono")
        frame.sample_rate = 48_000
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    return path


# Who starts a process in the background may have told it to ignore Ctrl-C.
CTRL_C = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
DMD_LIVE = [sys.executable, "-c", CTRL_C + "from runtime.cli import main; sys.exit(main())"]


class Listener:
    """A running `dmd-live --json`, whose events are read as they come."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.events: list[dict[str, Any]] = []
        self.errors = ""
        self.lines: list[str] = []
        self._readers = [
            threading.Thread(target=self._events), threading.Thread(target=self._errors)
        ]  # fmt: skip
        for reader in self._readers:
            reader.start()

    def _events(self) -> None:
        for line in self.process.stdout or ():
            self.lines.append(line)
            self.events.append({**json.loads(line), "read_s": time.monotonic()})

    def _errors(self) -> None:
        for line in self.process.stderr or ():
            self.errors += line

    @property
    def finals(self) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == "final"]

    def wait(self, wanted: Any, seconds: float) -> bool:
        """Until `wanted()`, or for some seconds; whether it came."""
        until = time.monotonic() + seconds
        while not wanted() and time.monotonic() < until:
            assert self.process.poll() is None, self.errors
            time.sleep(0.02)
        return bool(wanted())

    def stop(self) -> float:
        """Ctrl-C; returns how many seconds the end took."""
        begun = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        self.process.wait(10)
        took_s = time.monotonic() - begun
        self.join()
        return took_s

    def join(self) -> None:
        """Read on until the process has ended."""
        for reader in self._readers:
            reader.join()


def frank(env: dict[str, str]) -> dict[str, str]:
    """Libraries that report to their makers keep still in a CI; here they shall not."""
    telling = ("CI", "GITHUB_", "TF_BUILD", "JENKINS", "BUILD_", "ORT_")
    return {name: value for name, value in env.items() if not name.startswith(telling)}


@contextmanager
def listening(
    root: Path,
    microphone: Microphone,
    *args: str,
    within: tuple[str, ...] = (),
    folder: Path | None = None,
) -> Iterator[Listener]:
    """A `dmd-live` that hears the microphone, from when it does."""
    with subprocess.Popen(
        [*within, *DMD_LIVE, "--microphone", "default", "--json", *args],
        cwd=folder or root,
        stdin=subprocess.PIPE,
        env={**frank(microphone.env), "PYTHONPATH": str(root)}
        | ({} if folder is None else {"TMPDIR": str(folder)}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        listener = Listener(process)
        try:
            assert listener.wait(lambda: microphone.is_heard, 60.0)
            yield listener
        finally:
            process.kill()
            listener.join()
