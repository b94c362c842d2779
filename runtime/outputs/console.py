"""What `dmd-live` prints of a stream, and what it takes from standard input."""

import logging
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..schemas import EmotionEvent
from .chosen import Chosen
from .lines import FORMATS, readable
from .outlet import finish_together

if TYPE_CHECKING:
    from ..cli import Options
    from ..live import EmotionStream

__all__ = ["Console", "drop_output"]

_FINISH_S = 10.0  # outputs that are behind at the end of a file


def drop_output() -> None:
    """Nobody can take what was not written yet: the end of the process shall not wait for it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Console:
    """A stream in a terminal or a pipe: lines, a panel or a window, until it ends or Ctrl-C."""

    def __init__(self, options: "Options", outputs: Chosen) -> None:
        self._options, self._outputs = options, outputs
        looks_on = sys.stdout.isatty() and options.format == "text" and not options.quiet
        self.on_panel = options.devices and looks_on and not options.overlay
        """Whether a person looks on, who sees a panel that changes in place of lines."""
        on_window = options.devices and options.overlay
        self.wants_early = self.on_panel or on_window or outputs.web is not None
        """Whether the panel, a window or a page show early estimates, which lines would repeat."""

    def watch(self, stream: "EmotionStream") -> None:
        """Open the stream, show it, and say at its end what is to be said."""
        options, web = self._options, self._outputs.web
        if options.overlay:
            stream.on_event(self._line)
        with stream:
            if web is not None:
                print(f"dmd-live: the page is at {web.url}", file=sys.stderr)
            if options.devices and _may_read():
                threading.Thread(
                    target=_obey, args=(stream,), name="dmd-live-in", daemon=True
                ).start()
            try:
                if options.overlay:
                    from .overlay import show

                    show(stream)  # the window wants this thread; lines come from the stream's
                else:
                    self._show(stream)
                finish_together(self._outputs.outlets, _FINISH_S)
                if web is not None and stream.ended:
                    web.wait()  # until Ctrl-C: what a file said can still be looked at
            except KeyboardInterrupt:
                drop_output()  # a reader that does not read would hold the end up
                print(file=sys.stderr)
            self._end(stream)

    def _show(self, stream: "EmotionStream") -> None:
        """Every event: a line each, or one panel."""
        if self.on_panel:
            from .terminal import View

            with View(readable, lambda: stream.stats) as view:
                for event in stream:
                    view.show(event)
            return
        for event in stream:
            self._line(event)

    def _line(self, event: EmotionEvent) -> None:
        if self._options.provisional or event.type == "final" or not self.wants_early:
            self._print(event)

    def _print(self, event: EmotionEvent) -> None:
        """One line. A full disk ends the analysis of a file, and costs a live stream this line."""
        if self._options.quiet:
            return
        try:
            print(FORMATS[self._options.format](event), flush=True)
        except BrokenPipeError:
            raise
        except OSError as error:
            if not self._options.devices:
                drop_output()
                raise UsageError(f"the output cannot be written ({error.strerror})") from error
            logging.warning("an event cannot be written (%s); the stream goes on", error.strerror)

    def _end(self, stream: "EmotionStream") -> None:
        if self._options.devices:
            _summary(stream.stats)
        elif self._options.replay is not None:
            replay = stream.stats["replay"]
            print(
                f"dmd-live: {replay['events']} events judged again, {replay['changed']} differ "
                "from the recording",
                file=sys.stderr,
            )
        elif stream.stats["final"] == 0:
            print("dmd-live: nobody spoke", file=sys.stderr)


def _obey(stream: "EmotionStream") -> None:
    """Take commands from standard input, one a line."""
    for line in sys.stdin.buffer:
        if line.strip():
            try:
                stream.command(line.decode(errors="replace"))
            except UsageError as error:
                print(f"dmd-live: {error}", file=sys.stderr)


def _may_read() -> bool:
    """Whether standard input is there, and reading it would not stop a background job."""
    try:
        return not sys.stdin.isatty() or os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError, AttributeError):  # closed, or not a file
        return False


def _summary(stats: dict[str, Any]) -> None:
    """What a live session was, on stderr."""
    lost = ", ".join(f"{n} of {name}" for name, n in stats["dropped"].items() if n) or "none"
    again = ", ".join(f"{name} {n}x" for name, n in stats["restarts"].items() if n) or "none"
    print(
        f"dmd-live: {stats['final']} utterances; packets dropped: {lost}; "
        f"overruns: {stats['overruns']}; devices reopened: {again}",
        file=sys.stderr,
    )
    if recording := stats["recording"]:
        why = f", then stopped: {recording['error']}" if recording["error"] else ""
        print(
            f"dmd-live: {recording['events']} events recorded in {recording['file']}{why}",
            file=sys.stderr,
        )
    for name, reason in stats["down"].items():
        print(f"dmd-live: {name} is down: {reason}", file=sys.stderr)
