"""Where events go besides whoever reads the stream."""

from typing import Protocol

from ..schemas import EmotionEvent

__all__ = ["Sink"]


class Sink(Protocol):
    """A context manager that a stream opens before its first event and closes after its last.

    What `emit` raises is logged and counted (`EmotionStream.stats`), and the stream goes on; what
    `__enter__` raises ends its opening.
    """

    def __enter__(self) -> "Sink": ...

    def __exit__(self, *exc: object) -> None: ...

    def emit(self, event: EmotionEvent) -> None:
        """Take one event, provisional ones too; on the stream's thread, so be quick."""
        ...
