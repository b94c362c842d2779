"""The examples for agents and robots, each in a process of its own: on speech and on silence."""

import http.server
import importlib.util
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("remembering")


@pytest.fixture(scope="module")
def silence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import av

    path = tmp_path_factory.mktemp("silence") / "silence.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 32_000), np.int16), "s16", "mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def example(root: Path, folder: Path, name: str, *args: object, **env: str) -> tuple[str, str]:
    """What an example writes to stdout and stderr; it must end with exit code 0."""
    link = folder / "dmd_live"
    if not link.exists():
        link.symlink_to(root / "runtime")
    out = subprocess.run(
        [sys.executable, root / "examples" / name, *map(str, args)],
        env={"PATH": "", "PYTHONPATH": str(folder), **env},
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert out.returncode == 0, out.stderr
    return out.stdout, out.stderr


class Server(http.server.BaseHTTPRequestHandler):
    """Answers as an OpenAI-compatible server does; the first request finds it busy."""

    requests: ClassVar[list[tuple[str, str | None, dict[str, Any]]]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.requests.append((self.path, self.headers["Authorization"], body))
        answer = {"role": "assistant", "content": f"Answer {len(self.requests)}."}
        reply = json.dumps({"choices": [{"index": 0, "message": answer}]}).encode()
        self.send_response(503 if len(self.requests) == 1 else 200)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Server.requests.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{found.server_port}/v1"
        found.shutdown()
        thread.join()


def test_a_conversation_with_an_openai_compatible_server(
    root: Path, clip: Path, tmp_path: Path, server: str
) -> None:
    out, err = example(
        root, tmp_path, "openai_loop.py", server, "tiny", clip, OPENAI_API_KEY="secret"
    )
    assert out.splitlines()[2:] == ["> Answer 2."]
    assert err.startswith("no answer: HTTP Error 503")
    assert len(Server.requests) == 2
    path, key, body = Server.requests[1]
    assert (path, key, body["model"]) == ("/v1/chat/completions", "Bearer secret", "tiny")
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    said = body["messages"][1]["content"]
    assert said.startswith("[")
    assert "amiable himself" in said


def test_a_conversation_goes_on_without_server_and_without_speech(
    root: Path, clip: Path, silence: Path, tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    out, err = example(root, tmp_path, "openai_loop.py", url, "tiny", clip)
    assert (len(out.splitlines()), err.count("no answer: ")) == (2, 2)
    assert example(root, tmp_path, "openai_loop.py", url, "tiny", silence) == ("", "")


@pytest.mark.parametrize(
    ("name", "package", "wheel"),
    [
        ("pipecat_processor.py", "pipecat", "pipecat-ai"),
        ("livekit_hook.py", "livekit.agents", "livekit-agents"),
    ],
)
def test_frameworks(
    root: Path, clip: Path, silence: Path, tmp_path: Path, name: str, package: str, wheel: str
) -> None:
    here = importlib.util.find_spec(package.split(".")[0])
    if here is None or importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed (pip install {wheel})")
    home = {"HOME": str(tmp_path)}
    out, _ = example(root, tmp_path, name, clip, **home)
    lines = out.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("[") and " %" in line for line in lines)
    assert "amiable himself" in lines[1]
    assert example(root, tmp_path, name, silence, **home)[0] == ""


@pytest.mark.parametrize("name", ["pipecat_processor.py", "livekit_hook.py"])
def test_a_missing_framework_gives_one_line(root: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "dmd_live").symlink_to(root / "runtime")
    for package in ("pipecat", "livekit"):  # found before the real one, and empty
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    out = subprocess.run(
        [sys.executable, root / "examples" / name, "talk.mp4"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert out.returncode == 1
    assert len(out.stderr.splitlines()) == 1
    assert "pip install" in out.stderr


def test_a_reachy_mini_without_its_package(
    root: Path, clip: Path, silence: Path, tmp_path: Path
) -> None:
    out, err = example(root, tmp_path, "reachy_mini_loop.py", clip)
    assert "antennas: " in out
    assert err == "reachy_mini is not installed: poses are printed\n"
    assert example(root, tmp_path, "reachy_mini_loop.py", silence)[0] == ""


RECORDED = """
import json, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from dmd_live import EmotionStream
from reachy_mini_loop import POSES, run

class Recorder:
    def __init__(self): self.poses = []
    def set_target(self, head, antennas):
        assert head.shape == (4, 4) and np.allclose(head[:3, :3] @ head[:3, :3].T, np.eye(3))
        assert np.isclose(np.linalg.det(head[:3, :3]), 1.0) and not head[:3, 3].any()
        self.poses.append([*map(float, antennas), float(-np.arcsin(head[2, 0]))])

robot = Recorder()
with EmotionStream(file=sys.argv[2], realtime=True, provisional=True) as stream:
    run(robot, stream)
print(json.dumps(robot.poses))
"""


def test_a_robot_moves_smoothly_to_the_emotion_and_breathes_alone(
    root: Path, clip: Path, silence: Path, tmp_path: Path
) -> None:
    (tmp_path / "dmd_live").symlink_to(root / "runtime")

    def poses(file: Path) -> np.ndarray:
        out = subprocess.run(
            [sys.executable, "-c", RECORDED, root / "examples", file],
            env={"PATH": "", "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert out.returncode == 0, out.stderr
        return np.array(json.loads(out.stdout))

    moved = poses(clip)
    assert len(moved) > 200
    assert moved[:, 0].max() == pytest.approx(0.35, abs=0.08)  # happy, and a breath
    assert moved[:, 2].min() == pytest.approx(-0.15, abs=0.03)
    assert np.abs(np.diff(moved, axis=0)).max() < 0.05
    alone = poses(silence)
    assert 0.01 < np.abs(alone[:, :2]).max() < 0.06
    assert np.abs(alone[:, 2]).max() < 1e-6
