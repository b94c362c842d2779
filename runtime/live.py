"""`EmotionStream`: the class that robot apps embed and that the command line runs."""

import asyncio
import json
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from .engines.base import Engine
from .engines.choose import ENGINES, open_engine
from .errors import UsageError
from .features.spec import SPEC
from .features.text import TextFeatures
from .features.vision import Seen, VisionFeatures
from .judging.baseline import Baseline
from .judging.calibration import CONVERSATION, PRIORS
from .judging.judge import Evidence, Judge
from .outputs.media import SoundFolder
from .outputs.recording import Recorder, Recording
from .outputs.sinks import Sink
from .schemas import EmotionEvent
from .sources.base import Source
from .speech import open_recogniser
from .speech.background import Background, Inline, Transcriber
from .store import models
from .store.bundle import Bundle
from .utterances.recognizer import Recognizer

__all__ = ["EmotionStream"]

_logger = logging.getLogger("dmd_live")
_JOIN_S = 0.8  # twice, and what devices take: less than 2 s
_SLOW_S = 0.1  # an early estimate that takes longer than this costs the next ones their turn
_MUTED_S = 5.0


class EmotionStream:
    """Emotions of what is said, in a file, before live devices or in a source of your own.

    ```
    with EmotionStream(camera=0, microphone="default") as stream:
        for event in stream:
            print(event.emotion, event.confidence)
    ```

    Give `input` (a media file), or `microphone` with or without `camera` (index, device path, URL
    or GStreamer pipeline), or `source` (see `sources.base.Source`), or `replay` (a file that
    `record` wrote, whose events are judged again). `bundle`: a folder, default the built-in one.
    `engine`: what runs it, of `engines.choose.ENGINES`; auto takes the fastest, or for a replay the
    one that recorded. `stt`: auto, vosk, moonshine or none; `stt_model`: folder of a Vosk model.
    `realtime` paces a file like a live stream. `provisional`: early estimates as well, the first
    after 1 s of speech, then every `hop_ms`. `stt_wait_ms`: how long a final event waits for words,
    live. `av_offset_ms` is added to the time of pictures. `width`, `height` and `rate_hz` are asked
    of a local camera.

    `record` names a new file for words, feature rows and events (no sound, no pictures); replayed
    with the same bundle, it gives the same events with the latencies of the recording. `baseline`:
    learn how the speaker usually reads and correct for it (see `Baseline`); a path keeps what was
    learned in that file; a replay has the recording's baseline. `save_media` names a new or empty
    folder for the sound of every utterance, which nothing else stores. `sinks` take every event.
    `prior`: how common emotions are, conversation (the default: mostly neutral) or balanced; a
    replay has the recording's.

    Devices and models are opened by `with` (or `async with`); every error is a `DmdLiveError` whose
    message says what to do. A thread of its own does the work, whether or not anybody reads: every
    loop over the stream gets all events, of a live stream all final ones (the last 1,000 at least)
    without early estimates that newer ones have overtaken. A live device that fails is opened
    again; events say what is missing meanwhile.
    """

    def __init__(
        self,
        *,
        input: str | Path | None = None,
        camera: int | str | None = None,
        microphone: str | None = None,
        source: Source | None = None,
        replay: str | Path | None = None,
        bundle: str | Path | None = None,
        engine: str = "auto",
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
        prior: str | None = None,
        baseline: bool | str | Path = False,
        record: str | Path | None = None,
        save_media: str | Path | None = None,
        sinks: Sequence[Sink] = (),
    ) -> None:
        if engine not in ENGINES:
            raise UsageError(f"no engine {engine!r}; there are: {', '.join(ENGINES)}")
        if hop_ms < 100 or stt_wait_ms < 0:
            raise UsageError("hop_ms is 100 at least, stt_wait_ms 0 at least")
        if prior is not None and prior not in PRIORS:
            raise UsageError(f"no prior {prior!r}; there are: {', '.join(PRIORS)}")
        live = camera is not None or microphone is not None
        if sum((input is not None, live, source is not None, replay is not None)) != 1:
            raise UsageError(
                "give exactly one of: input (a file), camera/microphone (live), source (your own), "
                "replay (a recording)"
            )
        if replay is not None and (baseline or save_media is not None):
            raise UsageError(
                "a recording has no sound to save, and its own baseline: leave both out of a replay"
            )
        self._source: Source | Recording
        if replay is not None:
            self._source = Recording(Path(replay))
        elif source is not None:
            self._source = source
        elif input is not None:
            self._source = _file(input, realtime)
        else:
            size = {"width": width, "height": height, "rate_hz": rate_hz}
            self._source = _devices(camera, microphone, size)
        self._live = input is None and replay is None
        self._no_vision = "no camera" if self._live else "no pictures in the file"
        self._bundle_folder, self._wanted_engine = bundle, engine
        self._stt = stt
        self._stt_model = None if stt_model is None else Path(stt_model)
        self._settings = {
            "hop_s": hop_ms / 1e3 if provisional else None,
            "stt_wait_s": stt_wait_ms / 1e3,
            "av_offset_s": av_offset_ms / 1e3,
        }
        self._prior = prior
        self._with_baseline = bool(baseline)
        self._baseline_file = None if isinstance(baseline, bool) else Path(baseline)
        self._reset_baseline = False
        self._record_to = None if record is None else Path(record)
        self._media = None if save_media is None else SoundFolder(Path(save_media))
        self._replayed = {"events": 0, "changed": 0}
        self._transcriber: Transcriber | None = None
        self._bundle: Bundle | None = None
        self._engine: Engine | None = None
        self._judge: Judge | None = None
        self._baseline: Baseline | None = None
        self._recorder: Recorder | None = None
        self._recognizer: Recognizer | None = None
        self._thread: threading.Thread | None = None
        self._change = threading.Condition()
        self._log: deque[tuple[int, EmotionEvent]] = deque(maxlen=1_000 if self._live else None)
        self._counts = {"provisional": 0, "final": 0, "callback_errors": 0}
        self._callbacks: list[Callable[[EmotionEvent], object]] = []
        self._sinks = ExitStack()  # the open ones
        self._wanted_sinks = tuple(sinks)
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

    def __exit__(self, *exc: object) -> None:
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
        """Events so far, packets dropped and devices reopened, by modality, and what is down.

        `overruns`: how often the microphone's driver lost sound.
        `recording`: its file, events and why it stopped ("" while it goes on), None without one.
        `replay`: events judged again, and how many of them differ from what was recorded.
        `baseline`: from how many utterances it was learned. `media`: as `recording`.
        `engine`: its name and precision, None before it is open.
        """
        with self._change:
            counts = dict(self._counts)
        down = dict(getattr(self._source, "down", {}))
        muted_s = 0.0 if self._recognizer is None else self._recognizer.muted_s
        if muted_s >= _MUTED_S:
            down.setdefault("audio", f"no sound at all for {muted_s:.0f} s; is it muted?")
        return {
            **counts,
            "dropped": dict(getattr(self._source, "n_dropped", {})),
            "overruns": getattr(self._source, "n_overruns", 0),
            "restarts": dict(getattr(self._source, "n_restarts", {})),
            "speech_restarts": getattr(self._transcriber, "n_restarts", 0),
            "down": down,
            "recording": self._recorder and self._recorder.stats,
            "replay": dict(self._replayed),
            "baseline": 0 if self._baseline is None else self._baseline.n_learned,
            "media": self._media and self._media.stats,
            "engine": self._engine and _described(self._engine),
        }

    @property
    def seen(self) -> Seen | None:
        """The newest picture and the face that is followed in it, if any."""
        return None if self._recognizer is None else self._recognizer.seen

    def reset_baseline(self) -> None:
        """Forget the speaker's baseline, and the speech that voices are heard against, before the
        next event; from any thread or callback."""
        self._reset_baseline = True

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
        text = TextFeatures(bundle.tokenizer_json)
        self._bundle = bundle
        self._baseline = self._open_baseline(bundle)
        self._engine = open_engine(bundle, self._engine_name())
        prior = self._prior or CONVERSATION
        if isinstance(self._source, Recording) and self._prior is None:
            recorded = self._source.header["prior"]
            prior = recorded if recorded in PRIORS else prior
        self._judge = Judge(bundle, self._engine, text, self._baseline, prior)
        if isinstance(self._source, Recording):
            self._compare(self._source, _identity(bundle, self._engine))
        else:
            self._recognizer = self._open_recognizer(self._source, text)
        for sink in self._wanted_sinks:
            self._callbacks.append(self._sinks.enter_context(sink).emit)
        if self._media is not None:
            self._media.open()
        if self._record_to is not None:
            from . import __version__  # set after this module is imported

            state = None if self._baseline is None else self._baseline.state()
            header = {
                "dmd_live": __version__,
                **_identity(bundle, self._engine),
                "baseline": state,
                "prior": prior,
            }
            self._recorder = Recorder(self._record_to, header)

    def _open_recognizer(self, source: Source, text: TextFeatures) -> Recognizer:
        has = source.modalities
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
        return Recognizer(
            text,
            vision=vision,
            transcriber=self._transcriber,
            no_text=no_text,
            no_vision=self._no_vision,
            down=getattr(source, "down", {}),
            monotonic=getattr(source, "monotonic", False),
            keep=None if self._media is None else self._media.add,
            **self._settings,  # type: ignore[arg-type]
        )

    def _open_baseline(self, bundle: Bundle) -> Baseline | None:
        if isinstance(self._source, Recording):
            state = self._source.header["baseline"]
            if state is None:
                return None
            baseline = Baseline(bundle.emotions)
            if self._source.header["bundle_sha256"] == bundle.info["bundle_sha256"]:
                baseline.restore(state)
            return baseline
        if not self._with_baseline:
            return None
        baseline = Baseline(bundle.emotions)
        if self._baseline_file is not None:
            baseline.load(self._baseline_file, bundle.info["bundle_sha256"])
        return baseline

    def _engine_name(self) -> str:
        """A recording is judged by the engine it was made with: only that one gives equal bits."""
        if self._wanted_engine != "auto" or not isinstance(self._source, Recording):
            return self._wanted_engine
        recorded = self._source.header.get("engine")
        return recorded if recorded in ENGINES else "auto"

    def _compare(self, recording: Recording, now: dict[str, Any]) -> None:
        """Say it when a recording was judged by another model or engine than it now will be."""
        was = {"engine": "cpu", **recording.header}
        if any(was[name] != now[name] for name in ("bundle_sha256", "precision", "engine")):
            _logger.warning(
                "recorded with bundle %s (%s, %s), judged with %s (%s, %s): events may differ",
                was["bundle_sha256"][:12],
                was["engine"],
                was["precision"],
                now["bundle_sha256"][:12],
                now["engine"],
                now["precision"],
            )

    def _run(self) -> None:
        """The stream's thread: evidence into the judge, its events to whoever listens."""
        try:
            if isinstance(self._source, Recording):
                self._rejudge(self._source)
            else:
                self._listen(self._source)
        except Exception as error:
            self._error = None if self._closing else error
        finally:
            with self._change:
                self._ended = True
                self._change.notify_all()
            self._wake()
            if self._closing:
                self._release()

    def _listen(self, source: Source) -> None:
        recognizer, patient_until, told = self._recognizer, 0.0, False
        assert recognizer is not None
        for packet in source.packets():
            if self._closing:
                return
            for evidence in recognizer.tick() if packet is None else recognizer.push(packet):
                begun = time.monotonic()
                if evidence.type == "provisional" and self._live and begun < patient_until:
                    continue  # the model is slow here: finals and pictures come first
                self._publish(evidence)
                took_s = time.monotonic() - begun
                patient_until = begun + 2.0 * took_s if took_s > _SLOW_S else 0.0
            if self._live and (recognizer.muted_s >= _MUTED_S) != told:
                told = not told
                if told:
                    _logger.warning("the microphone delivers nothing but zeros; is it muted?")
        if not self._closing:
            for evidence in recognizer.flush():
                self._publish(evidence)

    def _rejudge(self, recording: Recording) -> None:
        for evidence, recorded in recording.entries():
            if self._closing:
                return
            event = self._publish(evidence, recorded["latency_ms"])
            self._replayed["events"] += 1
            self._replayed["changed"] += json.loads(event.to_json()) != recorded

    def _publish(
        self, evidence: Evidence, latency_ms: dict[str, float] | None = None
    ) -> EmotionEvent:
        """Judge the evidence, record and hand out the event; `latency_ms` replaces its own."""
        assert self._judge is not None
        if self._reset_baseline:
            self._reset_baseline = False
            evidence = replace(evidence, baseline_reset=True)
        event = self._judge.event(evidence)
        if latency_ms is not None:
            event = replace(event, latency_ms=latency_ms)
        if self._recorder is not None:
            self._recorder.add(evidence, event)
        with self._change:
            number = self._counts["provisional"] + self._counts["final"]
            self._counts[event.type] += 1
            if self._live and self._log and self._log[-1][1].type == "provisional":
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
        return event

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
        # Numbers rise by one, or by more where an event was overtaken: look no further than this.
        index = max(0, min(seen + 1 - self._log[0][0], len(self._log) - 1))
        while index > 0 and self._log[index - 1][0] > seen:
            index -= 1
        return self._log[index]

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
        try:
            self._sinks.close()
        except Exception:
            _logger.exception("a sink failed to close")
        if self._recorder is not None:
            self._recorder.close()
        path, self._baseline_file = self._baseline_file, None
        if path and self._thread and self._baseline is not None and self._bundle is not None:
            try:
                self._baseline.save(path, self._bundle.info["bundle_sha256"])
            except OSError as error:
                _logger.warning("%s: the baseline is not saved (%s)", path, error.strerror)


def _identity(bundle: Bundle, engine: Engine) -> dict[str, Any]:
    """What a recording says about who judged it."""
    return {
        "feature_spec_sha256": SPEC.sha256(),
        "bundle_sha256": bundle.info["bundle_sha256"],
        **_described(engine),
    }


def _described(engine: Engine) -> dict[str, str]:
    return {"engine": engine.name, "precision": engine.precision}


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
