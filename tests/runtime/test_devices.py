"""`dmd-live` on a real microphone (PulseAudio plays speech into a null sink) and a real network
camera (MJPEG on loopback)."""

import http.server
import itertools
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
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


@pytest.fixture
def talk(demo: Path, tmp_path: Path) -> Path:
    """The demo clip's sound, two sentences, as PulseAudio plays it."""
    path = tmp_path / "talk.wav"
    with av.open(str(demo)) as container, av.open(str(path), "w") as wav:
        stream = wav.add_stream("pcm_s16le", rate=48_000, layout="mono")
        resampler = av.AudioResampler("s16", "mono", 48_000)
        for frame in container.decode(audio=0):
            for piece in resampler.resample(frame):
                wav.mux(stream.encode(piece))
        wav.mux(stream.encode(None))
    return path


def test_doctor_hears_the_microphone(root: Path, sound: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "runtime.cli", "--doctor", "--microphone", "default", "--json"]
    env = {**sound, "DMD_LIVE_CACHE": str(tmp_path / "cache")}
    out = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=120)
    checks = {check["name"]: check for check in json.loads(out.stdout)["checks"]}
    assert checks["microphone"]["state"] == "fine"
    assert "digital silence" in checks["microphone"]["detail"]  # nothing plays
    assert checks["camera"]["state"] == "not needed"
    assert (out.returncode, out.stderr) == (0, "")


def test_microphone_and_camera(
    root: Path, talk: Path, sound: dict[str, str], camera: str, tmp_path: Path
) -> None:
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
            play = ["paplay", "--device=speech", str(talk)]
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


def test_hours_cost_no_more_than_minutes(
    root: Path, talk: Path, sound: dict[str, str], camera: str, tmp_path: Path
) -> None:
    """Speech without end from the microphone, a face in the camera, for DMD_LIVE_SOAK minutes."""
    if "DMD_LIVE_SOAK" not in os.environ:
        pytest.skip("DMD_LIVE_SOAK names no number of minutes (8 at least; 30 say more)")
    until = time.monotonic() + 60.0 * float(os.environ["DMD_LIVE_SOAK"])
    out = tmp_path / "events.jsonl"
    command = [sys.executable, "-m", "runtime.cli", "--camera", camera, "--json", "--provisional"]
    play = ["paplay", "--device=speech", str(talk)]
    seen: list[_Usage] = []
    n_played = 0
    with out.open("w") as file:
        process = subprocess.Popen(
            command, cwd=root, env=sound, stdout=file, stderr=subprocess.PIPE, text=True
        )
        try:
            time.sleep(5.0)
            while time.monotonic() < until:
                subprocess.run(play, env=sound, check=True, timeout=60)
                time.sleep(1.5)
                n_played += 1
                assert process.poll() is None, process.stderr.read() if process.stderr else ""
                seen.append(_usage(process.pid))
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=10)
        finally:
            process.kill()
    assert process.returncode == 0, errors
    events = [json.loads(line) for line in out.read_text().splitlines()]
    finals = [e for e in events if e["type"] == "final"]
    first = {e["utterance"]: e["end_s"] - e["start_s"] for e in reversed(events)}
    begin = next(k for k, usage in enumerate(seen) if usage.at_s - seen[0].at_s > 180.0)
    steady = seen[begin:]
    quarter = max(1, len(steady) // 4)
    before, after = steady[:quarter], steady[-quarter:]
    found = {
        "minutes": round((seen[-1].at_s - seen[0].at_s) / 60.0, 1),
        "sentences": 2 * n_played,
        "finals": len(finals),
        "cores": (steady[-1].cpu_s - steady[0].cpu_s) / (steady[-1].at_s - steady[0].at_s),
        "memory_mb": max(usage.memory_mb for usage in seen),
        "growth_mb": statistics.median(u.memory_mb for u in after)
        - statistics.median(u.memory_mb for u in before),
        "threads": sorted({usage.n_threads for usage in steady}),
        "handles": sorted({usage.n_handles for usage in steady}),
        "final_p95_ms": statistics.quantiles((e["latency_ms"]["total"] for e in finals), n=20)[-1],
        "first_estimate_s": max(first.values()),
    }
    print(json.dumps(found))
    assert len(finals) == 2 * n_played
    assert found["cores"] < 0.6
    assert found["memory_mb"] < 700.0
    assert found["growth_mb"] < 10.0
    assert max(found["threads"]) == min(found["threads"])
    assert max(found["handles"]) == min(found["handles"])
    assert found["final_p95_ms"] < 400.0
    assert found["first_estimate_s"] < 1.3


@dataclass(frozen=True)
class _Usage:
    at_s: float
    cpu_s: float
    memory_mb: float
    n_threads: int
    n_handles: int


def _usage(pid: int) -> _Usage:
    """What a process has used so far."""
    folder = Path(f"/proc/{pid}")
    fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
    ticks = os.sysconf("SC_CLK_TCK")
    pages = int((folder / "statm").read_text().split()[1])
    return _Usage(
        at_s=time.monotonic(),
        cpu_s=(int(fields[11]) + int(fields[12])) / ticks,
        memory_mb=pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
        n_threads=int(fields[17]),
        n_handles=len(list((folder / "fd").iterdir())),
    )


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
