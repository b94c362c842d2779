"""What a stream can be asked for: the arguments of `EmotionStream` and options of `dmd-live`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import option
from ..engines.choose import ENGINES
from ..errors import UsageError
from ..features.spec import SPEC
from ..features.turning import TURNS
from ..judging.calibration import PRIORS
from ..sources.channels import check_choice

__all__ = ["StreamOptions", "from_keywords"]

_NUMBERED = ("camera", "microphone", "mic_channel", "rotate")  # texts that may be whole numbers


@dataclass(frozen=True, kw_only=True)
class StreamOptions:
    """Where a stream listens, what judges it, and what it keeps."""

    file: str | None = option(None, metavar="FILE", help="analyse a video or audio file")
    camera: str | None = option(
        None,
        metavar="N|URL",
        help="live pictures: index, device path, RTSP or HTTP URL, GStreamer pipeline, video file",
    )
    microphone: str | None = option(
        None,
        metavar="NAME",
        help="live sound: device name or default; --camera alone takes default",
    )
    width: int | None = option(None, metavar="PIXELS", help="picture width to ask the camera for")
    height: int | None = option(None, metavar="PIXELS", help="picture height to ask for")
    rate_hz: float | None = option(None, metavar="HZ", help="picture rate to ask for")
    rotate: str = option(
        "0",
        choices=TURNS,
        help="degrees to turn pictures by, counterclockwise, where the camera hangs askew; auto "
        "finds them by the faces",
    )
    mic_channel: str = option(
        "first",
        metavar="N|mix|loudest|first",
        help="channel of a microphone array or of a file with several: a number from 0, all mixed, "
        "the loudest, or the first with a signal",
    )
    av_offset_ms: int = option(
        0, metavar="MS", help="added to the time of pictures, where they come later than sound"
    )
    bundle: str | None = option(None, metavar="FOLDER", help="the model; default: the built-in one")
    engine: str = option(
        "auto",
        choices=ENGINES,
        help="what runs the model: auto measures what is here once and takes the fastest; for a "
        "replay, the one that recorded",
    )
    stt: str = option(
        "auto",
        choices=("auto", "vosk", "moonshine", "none"),
        help="speech-to-text; auto takes Vosk when its model is here, else Moonshine",
    )
    stt_model: str | None = option(
        None, metavar="FOLDER", help="a Vosk model of your own, with --stt vosk"
    )
    stt_wait_ms: int = option(
        1_500, metavar="MS", help="live: how long a final event waits for words that come late"
    )
    provisional: bool = option(
        False, help="early estimates too: after 1 s of speech, then every --hop-ms"
    )
    hop_ms: int = option(500, metavar="MS", help="time between early estimates")
    pause_ms: int = option(
        600, metavar="MS", help="silence that ends an utterance; slow speakers need more"
    )
    min_speech_ms: int = option(
        200, metavar="MS", help="less voiced sound than this is no utterance"
    )
    max_utterance_s: float = option(
        15.0, metavar="S", help="a longer utterance is cut at a pause (2 to 15)"
    )
    join_ms: int = option(
        0,
        metavar="MS",
        help="judge an utterance that begins so soon after another again with it; 0: never",
    )
    explain: bool = option(
        False, help="reasons also name the words that count most (a second inference)"
    )
    prior: str | None = option(
        None,
        choices=PRIORS,
        help="how common emotions are: as in conversation, where people are neutral half the time "
        "(the default), or all equally; a replay has the recording's",
    )
    baseline: bool = option(
        False, help="learn how the speaker usually reads, and correct for it (one speaker)"
    )
    baseline_file: str | None = option(
        None, metavar="FILE", help="the same, kept in FILE; remove it to forget the speaker"
    )
    per_person: bool = option(
        False,
        help="keep voice and baseline apart for each person in view; not with --baseline-file",
    )
    record: str | None = option(
        None, metavar="FILE", help="store words, feature rows and events, no sound or pictures"
    )
    replay: str | None = option(
        None, metavar="FILE", help="judge what --record stored again, perhaps by another --bundle"
    )
    save_media: str | None = option(
        None, metavar="FOLDER", help="store the sound of every utterance in a new folder"
    )
    realtime: bool = option(False, help="pace a file like a live stream; the events stay the same")

    @property
    def devices(self) -> bool:
        """Whether a camera or a microphone is named."""
        return self.camera is not None or self.microphone is not None

    @property
    def corrected(self) -> bool:
        """Whether the speaker's baseline is learned."""
        return self.baseline or self.baseline_file is not None

    def check(self, *, own_source: bool) -> None:
        """Raises UsageError, with what to do, for options that do not go together."""
        if self.engine not in ENGINES:
            raise UsageError(f"no engine {self.engine!r}; there are: {', '.join(ENGINES)}")
        if self.hop_ms < 100 or self.stt_wait_ms < 0:
            raise UsageError("hop_ms is 100 at least, stt_wait_ms 0 at least")
        if self.rotate not in TURNS:
            raise UsageError(f"no rotate {self.rotate!r}; there are: {', '.join(TURNS)}")
        check_choice(self.mic_channel)
        if not 100 <= self.pause_ms <= 5_000 or not 0 <= self.min_speech_ms <= 2_000:
            raise UsageError("pause_ms is 100 to 5000, min_speech_ms 0 to 2000")
        if not 2.0 <= self.max_utterance_s <= SPEC.max_utterance_s or self.join_ms < 0:
            raise UsageError(
                f"max_utterance_s is 2 to {SPEC.max_utterance_s:g}, join_ms 0 at least"
            )
        if self.prior is not None and self.prior not in PRIORS:
            raise UsageError(f"no prior {self.prior!r}; there are: {', '.join(PRIORS)}")
        if self.per_person and self.baseline_file is not None:
            raise UsageError(
                "a baseline_file is one speaker's, and per_person learns each person anew: leave "
                "one of them out; baseline goes with per_person"
            )
        if sum((self.file is not None, self.devices, own_source, self.replay is not None)) != 1:
            raise UsageError(
                "give exactly one of: file, camera/microphone (live), source (your own), "
                "replay (a recording)"
            )
        if self.replay is not None and (self.corrected or self.save_media is not None):
            raise UsageError(
                "a recording has no sound to save, and its own baseline: leave both out of a replay"
            )


def from_keywords(given: dict[str, Any]) -> StreamOptions:
    """Options from the keywords of `EmotionStream`: paths may be `Path`, devices, a channel and an
    angle may be whole numbers, `baseline` may be a path. Raises TypeError for a name that there is
    not."""
    values: dict[str, Any] = {k: str(v) if isinstance(v, Path) else v for k, v in given.items()}
    values |= {k: str(values[k]) for k in _NUMBERED if isinstance(values.get(k), int)}
    if isinstance(values.get("baseline"), str):
        values["baseline_file"] = values.pop("baseline")
    return StreamOptions(**values)
