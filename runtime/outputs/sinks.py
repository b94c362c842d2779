"""Where events go besides whoever reads the stream."""

from typing import Protocol

from ..schemas import EmotionEvent

__all__ = ["Sink"]


class Sink(Protocol):
    """A context manager that a stream opens before its first event and closes after its last.

    What `emit` raises is logged and counted (`EmotionStream.stats`), and the stream goes on; what
    `__enter__` raises ends its opening.

    Three more members are used where a sink has them. `attach(stream)` gives it the `EmotionStream`
    before anything is opened: for `stream.command`. `finish(within_s)` says that no event will
    come, before all sinks are closed, so that they can end at the same time. `stats`, a dictionary,
    appears in `EmotionStream.stats["outputs"]`. `outputs.outlet.Outlet` is a sink with all of them.
    """

    def __enter__(self) -> "Sink": ...

    def __exit__(self, *exc: object) -> None: ...

    def emit(self, event: EmotionEvent) -> None:
        """Take one event, provisional ones too; on the stream's thread, so be quick."""
        ...
