"""Opening what a stream works with, in an order that tells mistakes early."""

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..engines.base import Engine
from ..engines.choose import open_engine
from ..errors import SourceError, UsageError
from ..features.text import TextFeatures
from ..features.tracking import FaceTracker
from ..features.turning import Turning
from ..features.vision import VisionFeatures
from ..judging.baseline import Baseline
from ..judging.judge import Judge
from ..outputs.media import SoundFolder
from ..outputs.outlet import CLOSE_S
from ..outputs.recording import Recorder, Recording
from ..outputs.sinks import Sink
from ..sources.base import Source
from ..speech import open_recogniser
from ..speech.background import Background, Inline, Transcriber
from ..store import models
from ..store.bundle import Bundle
from ..utterances.muting import Muting
from ..utterances.recognizer import Recognizer
from ..utterances.segmenter import SegmenterConfig
from ..version import __version__
from .options import StreamOptions
from .replaying import compare, engine_name, explained, identity, per_person, prior_of

__all__ = ["Parts", "open_parts", "source_of"]

_logger = logging.getLogger("dmd_live")


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a stream works with, open. `spare` opens the engine that takes over when the judge's
    fails; `recognizer`: None for a replay."""

    spare: Callable[[], Engine]
    judge: Judge
    baseline: Baseline | None
    transcriber: Transcriber | None
    recognizer: Recognizer | None
    media: SoundFolder | None
    sinks: Sequence[Sink]
    recorder: Recorder | None


def source_of(options: StreamOptions) -> Source | Recording:
    """What the options name, not open yet. Raises UsageError without a microphone."""
    if options.replay is not None:
        return Recording(Path(options.replay))
    if options.file is not None:
        from ..sources.file import FileSource

        return FileSource(options.file, realtime=options.realtime, channel=options.mic_channel)
    if options.microphone is None or options.microphone == "none":
        raise UsageError(
            "utterances are found by voice: a live stream needs a microphone (its name or default)"
        )
    from ..sources.merged import MergedSource
    from ..sources.microphone import MicrophoneSource

    heard = MicrophoneSource(options.microphone, options.mic_channel)
    if options.camera is None:
        return MergedSource(heard)
    from ..sources.camera import CameraSource

    seen = CameraSource(
        options.camera, width=options.width, height=options.height, rate_hz=options.rate_hz
    )
    return MergedSource(seen, heard)


def open_parts(
    options: StreamOptions,
    source: Source | Recording,
    *,
    live: bool,
    muting: Muting,
    sinks: Sequence[Sink],
    owned: ExitStack,
) -> Parts:
    """Open everything; `owned` closes it in reverse order. Raises DmdLiveError."""
    bundle = Bundle.load(options.bundle)
    # The source comes next: a wrong file or device must be told before slow models load.
    owned.enter_context(source)
    text = TextFeatures(bundle.tokenizer_json)
    baseline = _open_baseline(options, source, bundle)
    engine = open_engine(bundle, engine_name(options, source))
    prior = prior_of(options, source)
    media = None if options.save_media is None else SoundFolder(Path(options.save_media))
    transcriber, recognizer = None, None
    if isinstance(source, Recording):
        compare(source, identity(bundle, engine))
    else:
        transcriber, no_text = _open_transcriber(options, source, live=live)
        if transcriber is not None:
            owned.callback(transcriber.close)
        recognizer = _open_recognizer(
            options, source, text, transcriber, media, no_text, live, muting
        )
    entered = _open_sinks(sinks, owned)
    if media is not None:
        media.open()
    apart, explain = per_person(options, source), explained(options, source)
    recorder = None
    if options.record is not None:
        path = Path(options.record)
        recorder = _open_recorder(path, bundle, engine, baseline, prior, apart, explain)
        owned.callback(recorder.close)
    if baseline is not None and options.baseline_file is not None:
        owned.callback(_save_baseline, baseline, Path(options.baseline_file), bundle)
    return Parts(
        spare=partial(open_engine, bundle, "cpu"),
        judge=Judge(bundle, engine, text, baseline, prior, per_person=apart, explain=explain),
        baseline=baseline,
        transcriber=transcriber,
        recognizer=recognizer,
        media=media,
        sinks=entered,
        recorder=recorder,
    )


def _open_transcriber(
    options: StreamOptions, source: Source, *, live: bool
) -> tuple[Transcriber | None, str]:
    """The recogniser of words, and the reason that events report where there is none."""
    if "audio" not in source.modalities or options.stt == "none":
        return None, "speech-to-text off"
    stt_model = None if options.stt_model is None else Path(options.stt_model)
    again = partial(open_recogniser, options.stt, stt_model)
    recogniser = again()
    if recogniser is None:
        return None, "no speech recogniser installed"
    # A file waits for its words, so that its events depend on nothing else.
    return (Background(recogniser, again) if live else Inline(recogniser)), ""


def _open_recognizer(
    options: StreamOptions,
    source: Source,
    text: TextFeatures,
    transcriber: Transcriber | None,
    media: SoundFolder | None,
    no_text: str,
    live: bool,
    muting: Muting,
) -> Recognizer:
    sees = "vision" in source.modalities
    return Recognizer(
        text,
        vision=_open_tracker(options) if sees else None,
        transcriber=transcriber,
        no_text=no_text,
        no_vision="no camera" if live else "no pictures in the file",
        down=getattr(source, "down", {}),
        hop_s=options.hop_ms / 1e3 if options.provisional else None,
        stt_wait_s=options.stt_wait_ms / 1e3,
        av_offset_s=options.av_offset_ms / 1e3,
        monotonic=getattr(source, "monotonic", False),
        turns=SegmenterConfig(
            hang_over_s=options.pause_ms / 1e3,
            min_speech_s=options.min_speech_ms / 1e3,
            max_utterance_s=options.max_utterance_s,
        ),
        join_s=options.join_ms / 1e3,
        muting=muting,
        keep=None if media is None else media.add,
    )


def _open_tracker(options: StreamOptions) -> FaceTracker:
    networks = VisionFeatures(models.resolve("face-landmarker"))
    return FaceTracker(networks, Turning(networks, options.rotate))


def _open_baseline(
    options: StreamOptions, source: Source | Recording, bundle: Bundle
) -> Baseline | None:
    """The speaker's baseline, where one is wanted: only then must a bundle know neutral."""
    if isinstance(source, Recording):
        state = source.header["baseline"]
        if state is None:
            return None
        baseline = Baseline(bundle.emotions)
        if source.header["bundle_sha256"] == bundle.info["bundle_sha256"]:
            try:
                baseline.restore(state)
            except (ValueError, KeyError, TypeError, OverflowError) as error:
                raise SourceError(
                    f"{options.replay}: its baseline is damaged ({error}); copy the file again"
                ) from error
        return baseline
    if not options.corrected:
        return None
    baseline = Baseline(bundle.emotions)
    if options.baseline_file is not None:
        baseline.load(Path(options.baseline_file), bundle.info["bundle_sha256"])
    return baseline


def _save_baseline(baseline: Baseline, path: Path, bundle: Bundle) -> None:
    try:
        baseline.save(path, bundle.info["bundle_sha256"])
    except OSError as error:
        _logger.warning("%s: the baseline is not saved (%s)", path, error.strerror)


def _open_recorder(
    path: Path,
    bundle: Bundle,
    engine: Engine,
    baseline: Baseline | None,
    prior: str,
    per_person: bool,
    explain: bool,
) -> Recorder:
    header = {
        "dmd_live": __version__,
        **identity(bundle, engine),
        "baseline": None if baseline is None else baseline.state(),
        "prior": prior,
        "per_person": per_person,
        "explain": explain,
    }
    return Recorder(path, header)


def _open_sinks(sinks: Sequence[Sink], owned: ExitStack) -> tuple[Sink, ...]:
    """All of them, or none; at the end they finish at the same time, then close."""
    opened = ExitStack()
    owned.callback(_close_sinks, opened)
    entered = tuple(opened.enter_context(sink) for sink in sinks)
    owned.callback(_finish_sinks, entered)
    return entered


def _finish_sinks(sinks: Sequence[Sink]) -> None:
    """Sinks that need time at the end have it together."""
    for sink in sinks:
        if (finish := getattr(sink, "finish", None)) is not None:
            finish(CLOSE_S)


def _close_sinks(opened: ExitStack) -> None:
    try:
        opened.close()
    except Exception:
        _logger.exception("a sink failed to close")
