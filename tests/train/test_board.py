"""TensorBoard's own reader finds each epoch once, also after an interruption."""

import subprocess
import sys
from pathlib import Path

import pytest

from runtime.errors import UsageError
from train.board import Board

TERMS = {"total": 2.0, "margin": 0.5}


def written(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """(epoch, value) of every scalar, as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    names = events.Tags()["scalars"]
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in names}


def test_scalars_of_a_resumed_run_are_there_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    with Board(tmp_path, wanted=True) as board:
        for number in (1, 2, 3):
            board.epoch(number, TERMS, {"text": 0.25 * number})
    # Killed before the state of epoch 3 was saved: it is run again.
    with Board(tmp_path, wanted=True, n_done=2) as board:
        for number in (3, 4):
            board.epoch(number, TERMS, {"text": 0.125 * number})
    found = written(tmp_path)
    assert set(found) == {"loss/total", "loss/margin", "validation/text"}
    assert found["loss/total"] == [(n, 2.0) for n in (1, 2, 3, 4)]
    assert found["validation/text"] == [(1, 0.25), (2, 0.5), (3, 0.375), (4, 0.5)]
    with Board(tmp_path, wanted=True) as board:  # --restart
        board.epoch(1, TERMS, {"text": 1.0})
    assert written(tmp_path)["validation/text"] == [(1, 1.0)]


def test_nothing_is_written_unless_wanted(tmp_path: Path) -> None:
    with Board(tmp_path, wanted=False) as board:
        board.epoch(1, TERMS, {"text": 0.5})
    assert not list(tmp_path.iterdir())


def test_without_the_package_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # as if it were not installed
    with pytest.raises(UsageError, match=r"pip install tensorboard$"):
        Board(tmp_path, wanted=True)
    assert not list(tmp_path.iterdir())


def test_it_is_loaded_only_when_wanted(root: Path) -> None:
    code = (
        "import sys, pathlib; from train.board import Board; Board(pathlib.Path(), wanted=False);"
        "print('tensorboard' in sys.modules)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert out.stdout == "False\n"
