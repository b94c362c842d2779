"""`EmotionStream`: the class that robot apps embed and that the command line runs."""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from . import models
from .bundle import Bundle
from .engines.ort import OrtEngine
from .errors import UsageError
from .features.vision import VisionFeatures
from .recognizer import Recognizer
from .schemas import EmotionEvent
from .sources.base import Source
from .speech import open_recogniser
from .speech.base import SpeechToText

__all__ = ["EmotionStream"]


class EmotionStream:
    """One `EmotionEvent` per utterance from a file, live devices or a source of your own.

    ```
    with EmotionStream(camera=0, microphone="default") as stream:
        for event in stream:
            print(event.emotion, event.confidence)
    ```

    Give `input` (a media file), or `microphone` with or without `camera` (index, device path or
    URL), or `source` (see `sources.base.Source`). `bundle`: a folder, default the built-in one.
    `stt`: auto, vosk, moonshine or none; `stt_model`: folder of a Vosk model. `realtime` paces a
    file like a live stream. Devices and models are opened by `with`; every error is a
    `DmdLiveError` whose message says what to do.
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
    ) -> None:
        self._source = _choose(input, camera, microphone, source, realtime)
        self._no_vision = "no camera" if input is None else "no pictures in the file"
        self._bundle_folder = bundle
        self._stt = stt
        self._stt_model = None if stt_model is None else Path(stt_model)
        self._speech_to_text: SpeechToText | None = None
        self._recognizer: Recognizer | None = None

    def __enter__(self) -> "EmotionStream":
        bundle = Bundle.load(self._bundle_folder)
        # The source comes next: a wrong file or device must be told before slow models load.
        self._source.__enter__()
        try:
            self._open(bundle)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[EmotionEvent]:
        """Events as utterances end; stops with the medium. Raises SourceError if it breaks."""
        if self._recognizer is None:
            raise UsageError("open the stream first: `with EmotionStream(...) as stream:`")
        for packet in self._source.packets():
            yield from self._recognizer.push(packet)
        yield from self._recognizer.flush()

    def close(self) -> None:
        """Release devices and models; safe to call twice."""
        self._source.__exit__(None, None, None)
        if self._speech_to_text is not None:
            self._speech_to_text.close()
        self._speech_to_text = self._recognizer = None

    def _open(self, bundle: Bundle) -> None:
        has = self._source.modalities
        vision = VisionFeatures(models.resolve("face-landmarker")) if "vision" in has else None
        no_text = "speech-to-text off"
        if "audio" in has and self._stt != "none":
            self._speech_to_text = open_recogniser(self._stt, self._stt_model)
            no_text = "no speech recogniser installed"
        self._recognizer = Recognizer(
            bundle,
            OrtEngine(bundle.model),
            vision=vision,
            speech_to_text=self._speech_to_text,
            no_text=no_text,
            no_vision=self._no_vision,
        )


def _choose(
    input: str | Path | None,
    camera: int | str | None,
    microphone: str | None,
    source: Source | None,
    realtime: bool,
) -> Source:
    """The one source that the options describe; raises UsageError when they contradict."""
    live = camera is not None or microphone is not None
    if sum((input is not None, live, source is not None)) != 1:
        raise UsageError(
            "give exactly one of: input (a file), camera/microphone (live), source (your own)"
        )
    if source is not None:
        return source
    if input is not None:
        from .sources.file import FileSource

        return FileSource(input, realtime=realtime)
    if microphone is None or microphone == "none":
        raise UsageError(
            "utterances are found by voice: a live stream needs a microphone (its name or default)"
        )
    from .sources.microphone import MicrophoneSource

    heard = MicrophoneSource(microphone)
    if camera is None:
        return heard
    from .sources.camera import CameraSource
    from .sources.merged import MergedSource

    return MergedSource(CameraSource(camera), heard)
