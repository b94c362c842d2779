"""The node itself, where ROS 2 is installed: another node plays the demo clip to it and listens."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "integrations" / "ros2" / "dmd_live_ros"


@pytest.mark.parametrize("stamped", [False, True])
def test_the_node_between_topics(root: Path, demo: Path, tmp_path: Path, stamped: bool) -> None:
    for name in ("rclpy", "hri_msgs", "audio_common_msgs", "diagnostic_msgs"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: this test needs ROS 2")
    (tmp_path / "dmd_live").symlink_to(root / "runtime")
    path = os.pathsep.join([str(PACKAGE), str(tmp_path), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, Path(__file__).with_name("ros2_run.py"), demo]
    out = subprocess.run(
        [*map(str, command), *(["stamped"] if stamped else [])],
        env={**os.environ, "PYTHONPATH": path, "ROS_LOG_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert out.returncode == 0, out.stdout + out.stderr
    assert out.stdout.endswith("the node does what it should\n")
