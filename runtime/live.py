"""`EmotionStream`: the class that robot apps embed and that the command line runs."""

import asyncio
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from .errors import UsageError
from .features.tracking import Seen
from .outputs.recording import Recording
from .outputs.sinks import Sink
from .schemas import EmotionEvent
from .sources.base import Source
from .stream.log import EventLog
from .stream.opening import Parts, open_parts, source_of
from .stream.options import from_keywords
from .stream.replaying import described
from .stream.running import MUTED_S, Runner
from .utterances.muting import Muting

__all__ = ["COMMANDS", "EmotionStream"]

COMMANDS = ("mute", "unmute", "reset")
"""What `EmotionStream.command` obeys."""

_JOIN_S = 0.8  # twice, and what devices take: less than 2 s


class EmotionStream:
    """Emotions of what is said, in a file, before live devices or in a source of your own.

    ```
    with EmotionStream(camera=0, microphone="default") as stream:
        for event in stream:
            print(event.emotion, event.confidence)
    ```

    Give `file` (a media file), or `microphone` with or without `camera` (index, device path, URL
    or GStreamer pipeline), or `source` (see `sources.base.Source`), or `replay` (a file that
    `record` wrote, whose events are judged again). All other keywords are the fields of
    `stream.options.StreamOptions`, which `dmd-live --help` explains; paths may be `Path`.
    `baseline` may be True or the path of a file that keeps what was learned. `sinks` take every
    event.

    Devices and models are opened by `with` (or `async with`); every error is a `DmdLiveError` whose
    message says what to do. A thread of its own does the work, whether or not anybody reads: every
    loop over the stream gets all events, of a live stream all final ones (the last 1,000 at least)
    without early estimates that newer ones have overtaken. A live device that fails is opened
    again; events say what is missing meanwhile.
    """

    def __init__(
        self, *, source: Source | None = None, sinks: Sequence[Sink] = (), **options: Any
    ) -> None:
        if "input" in options:
            warnings.warn("EmotionStream(input=...) is now file=...", DeprecationWarning, 2)
            options["file"] = options.pop("input")
        self._options = from_keywords(options)
        self._options.check(own_source=source is not None)
        self._source: Source | Recording = source_of(self._options) if source is None else source
        self._live = self._options.file is None and self._options.replay is None
        self._wanted_sinks = tuple(sinks)
        self._log, self._muting = EventLog(live=self._live), Muting()
        self._runner = Runner(self._log, live=self._live)
        self._owned, self._releasing = ExitStack(), threading.Lock()
        self._parts: Parts | None = None
        self._thread: threading.Thread | None = None
        self._polling, self._polled = threading.Lock(), -1
        for sink in self._wanted_sinks:
            if (attach := getattr(sink, "attach", None)) is not None:
                attach(self)

    @classmethod
    def from_config(
        cls,
        path: str | Path,
        *,
        source: Source | None = None,
        sinks: Sequence[Sink] = (),
        **options: Any,
    ) -> "EmotionStream":
        """A stream, and its outputs, as a TOML file says that `dmd-live --config` reads as well.

        Keywords go before the file, and `sinks` are added to its outputs. Options that concern the
        command alone, such as `json`, are skipped. Raises UsageError for a key that is no option.
        """
        from .settings import stream_and_outputs  # the command's options, which need this class

        wanted, outputs = stream_and_outputs(Path(path), options, own_source=source is not None)
        return cls(source=source, sinks=(*outputs, *sinks), **wanted)

    def __enter__(self) -> "EmotionStream":
        if self._thread is not None:
            raise UsageError("this stream has been opened before; make another EmotionStream")
        with ExitStack() as owned:
            self._parts = open_parts(
                self._options,
                self._source,
                live=self._live,
                muting=self._muting,
                sinks=self._wanted_sinks,
                owned=owned,
            )
            owned.callback(self._runner.forget, self._parts)
            self._owned = owned.pop_all()
        self._thread = threading.Thread(
            target=self._run, args=(self._parts,), name="dmd-live", daemon=True
        )
        try:
            self._thread.start()
        except BaseException:  # Ctrl-C while it starts: `__exit__` is not called after this
            self.close()
            raise
        if self._runner.closing:  # asked for meanwhile
            self.close()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def __aenter__(self) -> "EmotionStream":
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(None, self.__enter__)
        except asyncio.CancelledError:  # it may open on, and closes at the end if this was first
            loop.run_in_executor(None, self.close)
            raise

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self.close)

    def __iter__(self) -> Iterator[EmotionEvent]:
        """Events from the first one on, as they come; ends with the medium or at `close`.

        Raises SourceError if the medium breaks.
        """
        self._must_be_open()
        return iter(self._log)

    def __aiter__(self) -> AsyncIterator[EmotionEvent]:
        """The same for asyncio: the event loop goes on while nothing comes."""
        self._must_be_open()
        return aiter(self._log)

    def on_event(self, callback: Callable[[EmotionEvent], object]) -> Callable[[], None]:
        """Call `callback` with every event, on the stream's thread; returns what takes it back.

        What it raises is logged and counted, and the stream goes on.
        """
        self._runner.callbacks.append(callback)
        return partial(self._runner.callbacks.remove, callback)

    def latest(self) -> EmotionEvent | None:
        """The newest event, if any."""
        return self._log.latest()

    def poll(self, timeout_s: float | None = 0.0) -> EmotionEvent | None:
        """The next event that `poll` has not given yet; None when none comes for `timeout_s`.

        For an application with a loop of its own: `while not stream.exhausted: stream.poll(0.02)`.
        The stream keeps one place for all who poll, so each event is given once; loops over the
        stream do not move it. None waits until an event comes or the stream ends. Raises
        SourceError if the medium breaks, after the events before it.
        """
        self._must_be_open()
        with self._polling:
            found = self._log.after(self._polled, timeout_s and max(0.0, timeout_s))
            if found is None:
                return None
            self._polled = found[0]
            return found[1]

    @property
    def exhausted(self) -> bool:
        """Whether the stream has ended and `poll` has given every event."""
        return self._log.exhausted(self._polled)

    @property
    def ended(self) -> bool:
        """Whether the medium has ended, or the stream has been closed: no event will come."""
        return self._log.ended

    @property
    def stats(self) -> dict[str, Any]:
        """Events so far, packets dropped and devices reopened, by modality, and what is down.

        `muted_away`: utterances that `mute(drop=True)` threw away.
        `overruns`: how often the microphone's driver lost sound.
        `recording`: its file, events and why it stopped ("" while it goes on), None without one.
        `replay`: events judged again, and how many of them differ from what was recorded.
        `baseline`: from how many utterances it was learned. `media`: as `recording`.
        `outputs`: what sinks say of themselves, such as events sent, waiting and lost.
        `engine`: its name and precision, None before it is open.
        `source`: whether it is live, and the modalities that it delivers.
        """
        parts = self._parts
        recognizer = None if parts is None else parts.recognizer
        down = dict(getattr(self._source, "down", {}))
        muted_s = 0.0 if recognizer is None else recognizer.muted_s
        if self._muting.muted:
            down["audio"] = "muted"
        elif muted_s >= MUTED_S:
            down.setdefault("audio", f"no sound at all for {muted_s:.0f} s; is it muted?")
        return {
            **self._log.counts,
            "muted_away": 0 if recognizer is None else recognizer.n_dropped,
            "callback_errors": self._runner.n_callback_errors,
            "inference_errors": self._runner.n_inference_errors,
            "dropped": dict(getattr(self._source, "n_dropped", {})),
            "overruns": getattr(self._source, "n_overruns", 0),
            "restarts": dict(getattr(self._source, "n_restarts", {})),
            "speech_restarts": getattr(parts and parts.transcriber, "n_restarts", 0),
            "down": down,
            "recording": parts and parts.recorder and parts.recorder.stats,
            "replay": dict(self._runner.replayed),
            "baseline": 0 if parts is None or parts.baseline is None else parts.baseline.n_learned,
            "media": parts and parts.media and parts.media.stats,
            "outputs": [sink.stats for sink in self._wanted_sinks if hasattr(sink, "stats")],
            "engine": parts and described(parts.judge.engine),
            "source": {
                "live": self._live,
                "delivers": sorted(getattr(self._source, "modalities", ())) if parts else [],
            },
        }

    @property
    def seen(self) -> Seen | None:
        """The newest picture and the face that is followed in it, if any."""
        if self._parts is None or self._parts.recognizer is None:
            return None
        return self._parts.recognizer.seen

    def reset_baseline(self) -> None:
        """Forget the speaker's baseline, and the speech that voices are heard against, before the
        next event; from any thread or callback."""
        self._runner.reset_baseline = True

    def mute(self, *, drop: bool = False) -> None:
        """Stop listening, from any thread, while the robot itself speaks. The camera goes on.

        Sound from now on opens no utterance and enters no statistics. An utterance that is open is
        judged as far as it went, with the note "muted before its end", or dropped. Before a file
        or a source of your own, "now" is what the stream has read so far.
        """
        self._muting.mute(drop=drop)

    def unmute(self) -> None:
        """Listen again, from any thread."""
        self._muting.unmute()

    @contextmanager
    def muted(self, *, tail_ms: int = 300, drop: bool = False) -> Iterator[None]:
        """Do not listen within the `with` block, and `tail_ms` longer, for the room's echo.

        Blocks may nest or come from several threads; the stream listens when all have ended.
        """
        self._muting.hold(drop=drop)
        try:
            yield
        finally:
            self._muting.release(tail_ms / 1e3)

    def command(self, line: str) -> None:
        """Obey one of `COMMANDS`, as outputs that are spoken to get them.

        Raises UsageError for any other.
        """
        name = line.strip().lower()
        if name not in COMMANDS:
            raise UsageError(f"no command {name[:40]!r}; there are: {', '.join(COMMANDS)}")
        {"mute": self.mute, "unmute": self.unmute, "reset": self.reset_baseline}[name]()

    def close(self) -> None:
        """Release devices and models; from any thread or callback, as often as you like."""
        self._runner.closing = True
        if self._thread is threading.current_thread():
            return  # it ends after this callback, and releases then
        if self._thread is not None and self._thread.is_alive():
            self._thread.join(_JOIN_S)
        self._release()
        if self._thread is not None and self._thread.is_alive():
            self._thread.join(_JOIN_S)
        self._log.end(None)  # the thread may hang in a source or a callback: nobody waits for it

    def _run(self, parts: Parts) -> None:
        self._runner.run(self._source, parts)
        if self._runner.closing:
            self._release()

    def _must_be_open(self) -> None:
        if self._thread is None:
            raise UsageError("open the stream first: `with EmotionStream(...) as stream:`")

    def _release(self) -> None:
        with self._releasing:
            self._owned.close()
