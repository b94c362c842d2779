"""`dmd-live` on a real microphone (PulseAudio plays speech into a null sink) and a real network
camera (MJPEG on loopback)."""

import http.server
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import pytest

PULSE = ("pulseaudio", "pactl", "paplay")


@pytest.fixture
def sound(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment in which the default microphone hears what is played into `speech`."""
    if any(shutil.which(name) is None for name in PULSE):
        pytest.skip("PulseAudio is not installed (apt install pulseaudio libasound2-plugins)")
    env = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), "PULSE_RUNTIME_PATH": str(tmp_path),
           "PULSE_STATE_PATH": str(tmp_path), "HOME": str(tmp_path),
           "PULSE_SERVER": f"unix:{tmp_path}/native"}  # fmt: skip
    load = ("module-native-protocol-unix", "module-null-sink sink_name=speech rate=48000")
    server = subprocess.Popen(
        ["pulseaudio", "-n", "--exit-idle-time=-1", *(f"--load={x}" for x in load)],
        env=env,
        stderr=subprocess.DEVNULL,
    )
    try:
        choose = ["pactl", "set-default-source", "speech.monitor"]
        for _ in range(50):
            if subprocess.run(choose, env=env, stderr=subprocess.DEVNULL).returncode == 0:
                break
            time.sleep(0.1)
        else:
            pytest.skip("PulseAudio does not start here")
        listed = subprocess.run(
            [
                sys.executable,
                "-c",
                "import sounddevice as s; print(s.query_devices(None, 'input'))",
            ],
            env=env,
            capture_output=True,
            text=True,
        )
        if listed.returncode:
            pytest.skip("PortAudio does not see PulseAudio here (apt install libasound2-plugins)")
        yield env
    finally:
        server.terminate()
        server.wait(5)


@pytest.fixture
def camera(demo: Path) -> Iterator[str]:
    """The address of a camera that shows the demo clip's pictures, 15 a second."""
    with av.open(str(demo)) as container:
        pictures = [
            cv2.imencode(".jpg", frame.to_ndarray(format="bgr24"))[1].tobytes()
            for frame in container.decode(video=0)
        ]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            for jpeg in itertools.cycle(pictures):
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                try:
                    self.wfile.write(head.encode() + jpeg + b"\r\n")
                except OSError:
                    return
                time.sleep(1 / 15)

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/camera.mjpg"
    server.shutdown()
    server.server_close()


def test_microphone_and_camera(
    root: Path, demo: Path, sound: dict[str, str], camera: str, tmp_path: Path
) -> None:
    with av.open(str(demo)) as container, av.open(str(tmp_path / "talk.wav"), "w") as wav:
        stream = wav.add_stream("pcm_s16le", rate=48_000, layout="mono")
        resampler = av.AudioResampler("s16", "mono", 48_000)
        for frame in container.decode(audio=0):
            for piece in resampler.resample(frame):
                wav.mux(stream.encode(piece))
        wav.mux(stream.encode(None))
    out = tmp_path / "events.jsonl"
    recording = str(tmp_path / "talk.jsonl")
    command = [sys.executable, "-m", "runtime.cli", "--camera", camera, "--json", "--provisional",
               "--record", recording]  # fmt: skip
    with out.open("w") as file:
        process = subprocess.Popen(
            command, cwd=root, env=sound, stdout=file, stderr=subprocess.PIPE, text=True
        )
        try:
            time.sleep(5.0)
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            play = ["paplay", "--device=speech", str(tmp_path / "talk.wav")]
            subprocess.run(play, env=sound, check=True, timeout=60)
            time.sleep(1.5)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=10)
        finally:
            process.kill()
    assert process.returncode == 0, errors
    assert "2 utterances" in errors
    assert "Traceback" not in errors
    events = [json.loads(line) for line in out.read_text().splitlines()]
    finals = [e for e in events if e["type"] == "final"]
    assert len(finals) == 2
    assert "amiable himself" in finals[1]["text"]
    for final in finals:
        assert set(final["modalities"].values()) == {"present"}
        early = [e for e in events if e["utterance"] == final["utterance"]][:-1]
        assert early[0]["end_s"] - early[0]["start_s"] < 1.2
        starts = [word["start_s"] for word in final["words"]]
        assert starts == sorted(starts)
        assert final["start_s"] <= starts[0]
    # Ctrl-C left a whole recording: every line printed comes again, with its latencies.
    command = [sys.executable, "-m", "runtime.cli", "--replay", recording, "--json"]
    replay = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)
    assert replay.returncode == 0, replay.stderr
    assert replay.stderr.endswith(" 0 differ from the recording\n")
    assert set(out.read_text().splitlines()) <= set(replay.stdout.splitlines())


def test_a_run_without_any_network(root: Path) -> None:
    apart = ["unshare", "--user", "--map-root-user", "--net"]
    if shutil.which("unshare") is None or subprocess.run([*apart, "true"]).returncode:
        pytest.skip("network namespaces are not allowed here")
    out = subprocess.run(
        [*apart, sys.executable, "-m", "runtime.cli", "--demo", "--json"],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert out.returncode == 0, out.stderr
    assert len(out.stdout.splitlines()) == 2
