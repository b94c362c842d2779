"""`EmotionStream`: the class that robot apps embed and that the command line runs."""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from . import models
from .bundle import Bundle
from .engines.ort import OrtEngine
from .errors import UsageError
from .features.vision import VisionFeatures
from .recognizer import Recognizer
from .schemas import EmotionEvent
from .sources.base import Source
from .speech import open_recogniser
from .speech.background import Background, Inline, Transcriber

__all__ = ["EmotionStream"]

_logger = logging.getLogger("dmd_live")
_JOIN_S = 1.0


class EmotionStream:
    """Emotions of what is said, in a file, before live devices or in a source of your own.

    ```
    with EmotionStream(camera=0, microphone="default") as stream:
        for event in stream:
            print(event.emotion, event.confidence)
    ```

    Give `input` (a media file), or `microphone` with or without `camera` (index, device path, URL
    or GStreamer pipeline), or `source` (see `sources.base.Source`). `bundle`: a folder, default the
    built-in one. `stt`: auto, vosk, moonshine or none; `stt_model`: folder of a Vosk model.
    `realtime` paces a file like a live stream. `provisional`: early estimates as well, the first
    after 1 s of speech, then every `hop_ms`. `stt_wait_ms`: how long a final event waits for words,
    live. `av_offset_ms` is added to the time of pictures. `width`, `height` and `rate_hz` are asked
    of a local camera.

    Devices and models are opened by `with` (or `async with`); every error is a `DmdLiveError` whose
    message says what to do. A thread of its own does the work, whether or not anybody reads: every
    loop over the stream gets all final events (of a live stream the last 1,000 at least) and skips
    early estimates that newer ones have overtaken. A live device that fails is opened again; events
    say what is missing meanwhile.
    """

    def __init__(
        self,
        *,
        input: str | Path | None = None,
        camera: int | str | None = None,
        microphone: str | None = None,
        source: Source | None = None,
        bundle: str | Path | None = None,
        stt: str = "auto",
        stt_model: str | Path | None = None,
        realtime: bool = False,
        provisional: bool = False,
        hop_ms: int = 500,
        stt_wait_ms: int = 1_500,
        av_offset_ms: int = 0,
        width: int | None = None,
        height: int | None = None,
        rate_hz: float | None = None,
    ) -> None:
        if hop_ms < 100 or stt_wait_ms < 0:
            raise UsageError("hop_ms is 100 at least, stt_wait_ms 0 at least")
        live = camera is not None or microphone is not None
        if sum((input is not None, live, source is not None)) != 1:
            raise UsageError(
                "give exactly one of: input (a file), camera/microphone (live), source (your own)"
            )
        if source is None:
            size = {"width": width, "height": height, "rate_hz": rate_hz}
            source = (
                _file(input, realtime) if input is not None else _devices(camera, microphone, size)
            )
        self._source, self._live = source, input is None
        self._no_vision = "no camera" if self._live else "no pictures in the file"
        self._bundle_folder = bundle
        self._stt = stt
        self._stt_model = None if stt_model is None else Path(stt_model)
        self._settings = {
            "hop_s": hop_ms / 1e3 if provisional else None,
            "stt_wait_s": stt_wait_ms / 1e3,
            "av_offset_s": av_offset_ms / 1e3,
        }
        self._transcriber: Transcriber | None = None
        self._recognizer: Recognizer | None = None
        self._thread: threading.Thread | None = None
        self._change = threading.Condition()
        self._log: deque[tuple[int, EmotionEvent]] = deque(maxlen=1_000 if self._live else None)
        self._counts = {"provisional": 0, "final": 0, "callback_errors": 0}
        self._callbacks: list[Callable[[EmotionEvent], object]] = []
        self._wakers: list[Callable[[], object]] = []
        self._error: BaseException | None = None
        self._ended = self._closing = False

    def __enter__(self) -> "EmotionStream":
        if self._thread is not None:
            raise UsageError("this stream has been opened before; make another EmotionStream")
        bundle = Bundle.load(self._bundle_folder)
        # The source comes next: a wrong file or device must be told before slow models load.
        self._source.__enter__()
        try:
            self._open(bundle)
        except BaseException:
            self._release()
            raise
        self._thread = threading.Thread(target=self._run, name="dmd-live", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> "EmotionStream":
        return await asyncio.get_running_loop().run_in_executor(None, self.__enter__)

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self.close)

    def __iter__(self) -> Iterator[EmotionEvent]:
        """Events from the first one on, as they come; ends with the medium or at `close`.

        Raises SourceError if the medium breaks.
        """
        self._must_be_open()
        seen = -1
        while True:
            with self._change:
                while not self._ended and self._newest() <= seen:
                    self._change.wait()
                found = self._after(seen)
            if found is None:
                self._raise()
                return
            seen, event = found
            yield event

    async def __aiter__(self) -> AsyncIterator[EmotionEvent]:
        """The same for asyncio: the event loop goes on while nothing comes."""
        self._must_be_open()
        loop, wake, seen = asyncio.get_running_loop(), asyncio.Event(), -1
        waker = partial(loop.call_soon_threadsafe, wake.set)
        self._wakers.append(waker)
        try:
            while True:
                wake.clear()
                with self._change:
                    found, ended = self._after(seen), self._ended
                if found is not None:
                    seen, event = found
                    yield event
                elif ended:
                    self._raise()
                    return
                else:
                    await wake.wait()
        finally:
            self._wakers.remove(waker)

    def on_event(self, callback: Callable[[EmotionEvent], object]) -> Callable[[], None]:
        """Call `callback` with every event, on the stream's thread; returns what takes it back.

        What it raises is logged and counted, and the stream goes on.
        """
        self._callbacks.append(callback)
        return partial(self._callbacks.remove, callback)

    def latest(self) -> EmotionEvent | None:
        """The newest event, if any."""
        with self._change:
            return self._log[-1][1] if self._log else None

    @property
    def ended(self) -> bool:
        """Whether the medium has ended, or the stream has been closed: no event will come."""
        return self._ended

    @property
    def stats(self) -> dict[str, Any]:
        """Events so far, packets dropped and devices reopened, by modality, and what is down."""
        with self._change:
            counts = dict(self._counts)
        return {
            **counts,
            "dropped": dict(getattr(self._source, "n_dropped", {})),
            "restarts": dict(getattr(self._source, "n_restarts", {})),
            "speech_restarts": getattr(self._transcriber, "n_restarts", 0),
            "down": dict(getattr(self._source, "down", {})),
        }

    def close(self) -> None:
        """Release devices and models; from any thread or callback, as often as you like."""
        self._closing = True
        if self._thread is threading.current_thread():
            return  # it ends after this callback, and releases then
        if self._thread is not None:
            self._thread.join(_JOIN_S)
        self._release()
        if self._thread is not None:
            self._thread.join(_JOIN_S)

    def _open(self, bundle: Bundle) -> None:
        has = self._source.modalities
        vision = VisionFeatures(models.resolve("face-landmarker")) if "vision" in has else None
        no_text = "speech-to-text off"
        if "audio" in has and self._stt != "none":
            again = partial(open_recogniser, self._stt, self._stt_model)
            recogniser = again()
            no_text = "no speech recogniser installed"
            if recogniser is not None:
                # A file waits for its words, so that its events depend on nothing else.
                self._transcriber = (
                    Background(recogniser, again) if self._live else Inline(recogniser)
                )
        self._recognizer = Recognizer(
            bundle,
            OrtEngine(bundle.model),
            vision=vision,
            transcriber=self._transcriber,
            no_text=no_text,
            no_vision=self._no_vision,
            down=getattr(self._source, "down", {}),
            **self._settings,  # type: ignore[arg-type]
        )

    def _run(self) -> None:
        """The stream's thread: packets into the recogniser, its events to whoever listens."""
        recognizer = self._recognizer
        assert recognizer is not None
        try:
            for packet in self._source.packets():
                if self._closing:
                    break
                events = recognizer.tick() if packet is None else recognizer.push(packet)
                for event in events:
                    self._publish(event)
            if not self._closing:
                for event in recognizer.flush():
                    self._publish(event)
        except Exception as error:
            self._error = None if self._closing else error
        finally:
            with self._change:
                self._ended = True
                self._change.notify_all()
            self._wake()
            if self._closing:
                self._release()

    def _publish(self, event: EmotionEvent) -> None:
        with self._change:
            number = self._counts["provisional"] + self._counts["final"]
            self._counts[event.type] += 1
            if self._log and self._log[-1][1].type == "provisional":
                self._log.pop()  # overtaken
            self._log.append((number, event))
            self._change.notify_all()
        self._wake()
        for callback in tuple(self._callbacks):
            try:
                callback(event)
            except Exception:
                self._counts["callback_errors"] += 1
                _logger.exception("a callback of on_event failed; the stream goes on")

    def _wake(self) -> None:
        for waker in tuple(self._wakers):
            try:
                waker()
            except RuntimeError:  # its event loop has been closed
                continue

    def _newest(self) -> int:
        return self._log[-1][0] if self._log else -1

    def _after(self, seen: int) -> tuple[int, EmotionEvent] | None:
        """The oldest event that is newer than number `seen`."""
        if self._newest() <= seen:
            return None
        return next(item for item in self._log if item[0] > seen)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _must_be_open(self) -> None:
        if self._thread is None:
            raise UsageError("open the stream first: `with EmotionStream(...) as stream:`")

    def _release(self) -> None:
        self._source.__exit__(None, None, None)
        transcriber, self._transcriber = self._transcriber, None
        if transcriber is not None:
            transcriber.close()


def _file(path: str | Path, realtime: bool) -> Source:
    from .sources.file import FileSource

    return FileSource(path, realtime=realtime)


def _devices(camera: int | str | None, microphone: str | None, size: dict[str, Any]) -> Source:
    """Raises UsageError without a microphone."""
    if microphone is None or microphone == "none":
        raise UsageError(
            "utterances are found by voice: a live stream needs a microphone (its name or default)"
        )
    from .sources.merged import MergedSource
    from .sources.microphone import MicrophoneSource

    heard = MicrophoneSource(microphone)
    if camera is None:
        return MergedSource(heard)
    from .sources.camera import CameraSource

    return MergedSource(CameraSource(camera, **size), heard)
