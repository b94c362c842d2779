"""The thread of a stream: from its source to events."""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from ..errors import FeatureError
from ..judging.evidence import Evidence
from ..outputs.recording import Recording
from ..schemas import EmotionEvent
from ..sources.base import Packet, Source
from .log import EventLog
from .opening import Parts

__all__ = ["MUTED_S", "Runner"]

_logger = logging.getLogger("dmd_live")
_SLOW_S = 0.1  # an early estimate that takes longer than this costs the next ones their turn
MUTED_S = 5.0
"""A microphone that delivers nothing but zeros for so long is called muted."""


class Runner:
    """Judges what the source brings, and hands the events to the log and to callbacks."""

    def __init__(self, log: EventLog, *, live: bool) -> None:
        self._log, self._live = log, live
        self.callbacks: list[Callable[[EmotionEvent], object]] = []
        self.n_callback_errors = self.n_inference_errors = 0
        self._failed: set[str] = set()  # sinks and callbacks whose traceback was shown
        self.replayed = {"events": 0, "changed": 0}
        self._broken: Exception | None = None
        self.closing = False
        """Set it, and the thread ends with the next packet."""
        self.reset_baseline = False
        """Set it, and what is known of the speaker is forgotten before the next event."""

    def run(self, source: Source | Recording, parts: Parts) -> None:
        """All of the source; what goes wrong ends the log."""
        failed: Exception | None = None
        try:
            if self.closing:  # before it began
                return
            if isinstance(source, Recording):
                self._rejudge(source, parts)
            else:
                self._listen(source, parts)
        except Exception as error:
            failed = None if self.closing else error
        finally:
            self._log.end(failed)

    def forget(self, parts: Parts) -> None:
        """Obey a reset that no event has come after, before the baseline is saved."""
        if self.reset_baseline and parts.baseline is not None:
            parts.baseline.reset()

    def _listen(self, source: Source, parts: Parts) -> None:
        recognizer, patient_until, told = parts.recognizer, 0.0, False
        assert recognizer is not None
        for packet in self._packets(source):
            if self.closing:
                return
            for evidence in recognizer.tick() if packet is None else recognizer.push(packet):
                begun = time.monotonic()
                if evidence.type == "provisional" and self._live and begun < patient_until:
                    continue  # the model is slow here: finals and pictures come first
                self._publish(evidence, parts)
                took_s = time.monotonic() - begun
                patient_until = begun + 2.0 * took_s if took_s > _SLOW_S else 0.0
            if self._live and (recognizer.muted_s >= MUTED_S) != told:
                told = not told
                if told:
                    _logger.warning("the microphone delivers nothing but zeros; is it muted?")
            if self.closing:  # the source is closed by now: it must not be asked for more
                return
        if not self.closing:
            for evidence in recognizer.flush():
                self._publish(evidence, parts)
        if self._broken is not None:
            raise self._broken

    def _packets(self, source: Source) -> Iterator[Packet | None]:
        """All packets. What breaks the source is raised after what it gave has been judged."""
        try:
            yield from source.packets()
        except Exception as error:
            self._broken = error

    def _judge(self, evidence: Evidence, parts: Parts) -> EmotionEvent:
        """The event; where the engine fails, the CPU's takes over. Raises FeatureError for rows
        that no engine takes."""
        try:
            return parts.judge.event(evidence)
        except FeatureError:
            raise
        except Exception as error:
            self.n_inference_errors += 1
            _logger.warning("inference failed (%s); the cpu engine takes over", error)
            parts.judge.use(parts.spare())
            return parts.judge.event(evidence)

    def _rejudge(self, recording: Recording, parts: Parts) -> None:
        for evidence, recorded in recording.entries():
            if self.closing:
                return
            event = self._publish(evidence, parts, recorded["latency_ms"])
            self.replayed["events"] += 1
            now = event.to_dict()
            same = all(now.get(name) == recorded[name] for name in recorded if name != "schema")
            self.replayed["changed"] += not same

    def _publish(
        self, evidence: Evidence, parts: Parts, latency_ms: dict[str, float] | None = None
    ) -> EmotionEvent:
        """Judge the evidence, record and hand out the event; `latency_ms` replaces its own."""
        if self.reset_baseline:
            self.reset_baseline = False
            evidence = replace(evidence, baseline_reset=True)
        event = self._judge(evidence, parts)
        if latency_ms is not None:
            event = replace(event, latency_ms=latency_ms)
        if parts.recorder is not None:
            parts.recorder.add(evidence, event)
        self._log.add(event)
        for take in (*(sink.emit for sink in parts.sinks), *self.callbacks):
            self._hand_out(event, take)
        return event

    def _hand_out(self, event: EmotionEvent, take: Callable[[EmotionEvent], object]) -> None:
        """To one sink or callback. One that fails gets a traceback once, then a line each time."""
        try:
            take(event)
        except Exception as error:
            self.n_callback_errors += 1
            name = getattr(take, "__qualname__", repr(take))
            told = name in self._failed
            self._failed.add(name)
            kind = type(error).__name__
            _logger.error(
                "%s failed (%s: %s); the stream goes on", name, kind, error, exc_info=not told
            )
