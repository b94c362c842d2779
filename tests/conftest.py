"""Shared fixtures. The repository's own code is imported as `runtime`, `train`, `export`."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import pytest

from tests.again import remember
from tests.once import Once

# No test may reach the network through a library that would like to.
os.environ["HF_HUB_OFFLINE"] = os.environ["ORT_DISABLE_TELEMETRY"] = "1"
# The models here are so small that two threads of torch wait for each other ten times as long as
# they compute. Programs that the tests start inherit this.
os.environ["OMP_NUM_THREADS"] = "1"

ROOT = Path(__file__).parent.parent
# The tests of these files take longest, in this order.
LONGEST = ("test_live.py", "test_run.py", "test_room.py", "test_devices.py", "test_faults.py",
           "test_compare.py", "test_export.py", "test_mqtt.py", "test_cli.py", "test_package.py",
           "test_recording.py", "test_recordings.py", "test_speech.py", "test_baselines.py",
           "test_ablate.py", "test_web_page.py", "test_distill.py")  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first: the last one then leaves no worker waiting for long."""
    rank = {name: k for k, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Makes a folder of a name once, whichever worker asks first."""
    base = tmp_path_factory.getbasetemp()
    # A worker's own folder lies in the one of the whole run.
    return Once(base.parent if "PYTEST_XDIST_WORKER" in os.environ else base)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A command of ours that a test calls may give torch more threads; the next test has one."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture
def remembering(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of streams, not of networks: see `tests/again.py`."""
    remember(monkeypatch)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def demo(root: Path) -> Path:
    """The shipped clip: a talking face and two spoken sentences."""
    return root / "runtime" / "demo" / "demo.mp4"


@pytest.fixture(scope="session")
def clip(once: Once, demo: Path) -> Path:
    """The demo clip with every third picture, 8 a second: most of the time goes into them."""

    def make(folder: Path) -> None:
        with av.open(str(demo)) as source, av.open(str(folder / "clip.mkv"), "w") as target:
            given = source.streams.video[0]
            video = target.add_stream("ffv1", rate=given.average_rate)  # loses nothing
            video.width, video.height, video.pix_fmt = given.width, given.height, given.pix_fmt
            audio = target.add_stream("pcm_s16le", rate=16_000, layout="mono")
            resampler = av.AudioResampler("s16", "mono", 16_000)
            pictures = [frame for k, frame in enumerate(source.decode(video=0)) if k % 3 == 0]
            source.seek(0)
            sound = [out for f in source.decode(audio=0) for out in resampler.resample(f)]
            for stream, frames in ((video, pictures), (audio, sound)):
                for frame in (*frames, None):
                    target.mux(stream.encode(frame))

    return once("clip", make) / "clip.mkv"


@pytest.fixture(scope="session")
def tokenizer_json(root: Path) -> Path:
    """The tokenizer of the default bundle."""
    return root / "runtime" / "default_bundle" / "tokenizer.json"
