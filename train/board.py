"""Scalars of every epoch for TensorBoard, when asked for."""

from pathlib import Path
from typing import Any

from runtime.errors import UsageError

__all__ = ["Board"]


class Board:
    """Writes to `folder`/tensorboard; look with `tensorboard --logdir FOLDER`.

    `n_done` epochs were finished before an interruption: what an earlier process wrote about later
    ones is dropped, so that no epoch is drawn twice. Unless `wanted`, it does nothing. Raises
    UsageError if TensorBoard is not installed.
    """

    def __init__(self, folder: Path, *, wanted: bool, n_done: int = 0) -> None:
        self._writer: Any = None
        if not wanted:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UsageError("--tensorboard needs a package: pip install tensorboard") from error
        self._writer = SummaryWriter(folder / "tensorboard", purge_step=n_done + 1)

    def __enter__(self) -> "Board":
        return self

    def __exit__(self, *exc: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def epoch(self, number: int, losses: dict[str, float], scores: dict[str, float]) -> None:
        """Epoch `number` (from 1): mean loss terms and validation scores, by name."""
        if self._writer is None:
            return
        for group, values in (("loss", losses), ("validation", scores)):
            for name, value in values.items():
                self._writer.add_scalar(f"{group}/{name}", value, number)
        self._writer.flush()
