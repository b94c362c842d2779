"""The command `dmd-live`."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import __version__, models
from .config import option, parse
from .errors import DmdLiveError, UsageError
from .live import EmotionStream
from .schemas import EmotionEvent

__all__ = ["Options", "main"]

_DEMO = Path(__file__).parent / "demo" / "demo.mp4"
_EPILOG = """examples:
  dmd-live --demo                          the built-in clip, through the whole path
  dmd-live --input talk.mp4 --json         a file, one JSON line per utterance
  dmd-live --camera 0                      webcam and default microphone
  dmd-live --microphone default            voice only
  dmd-live --list-models                   pretrained parts: where they are, their licences

Everything runs on this machine; nothing is sent or recorded. Only --download opens a connection.
Exit code: 0 all was analysed (also when nobody spoke), 2 a mistake that the message explains.
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """One emotion per utterance from words, voice and face: of a file, or live."""

    input: str | None = option(None, metavar="FILE", help="analyse a video or audio file")
    camera: str | None = option(
        None, metavar="N|URL", help="live pictures: index, device path, RTSP or HTTP URL"
    )
    microphone: str | None = option(
        None, metavar="NAME", help="live sound: device name or default; none without --camera only"
    )
    bundle: str | None = option(None, metavar="FOLDER", help="the model; default: the built-in one")
    stt: str = option(
        "auto",
        choices=("auto", "vosk", "moonshine", "none"),
        help="speech-to-text; auto takes Vosk when its model is here, else Moonshine",
    )
    stt_model: str | None = option(
        None, metavar="FOLDER", help="a Vosk model of your own, with --stt vosk"
    )
    json: bool = option(False, help="print one JSON object per utterance")
    realtime: bool = option(False, help="pace a file like a live stream; the events stay the same")
    demo: bool = option(False, help="analyse the built-in clip")
    list_models: bool = option(False, help="list the pretrained parts and stop")
    download: str | None = option(None, metavar="NAME", help="fetch a pretrained part and stop")
    version: bool = option(False, help="print the version and stop")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = parse(Options, argv, prog="dmd-live", epilog=_EPILOG)
    try:
        return _run(options)
    except DmdLiveError as error:
        print(f"dmd-live: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:  # `dmd-live ... | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(options: Options) -> int:
    if options.version:
        print(f"dmd-live {__version__}")
    elif options.list_models:
        print(*models.listing(), sep="\n")
    elif options.download is not None:
        print(models.download(options.download, _progress))
    else:
        _listen(options)
    return 0


def _listen(options: Options) -> None:
    media = options.input
    if options.demo:
        if media is not None or options.camera is not None or options.microphone is not None:
            raise UsageError(
                "--demo brings its own clip; leave out --input, --camera, --microphone"
            )
        media = str(_DEMO)
    if media is None and options.camera is None and options.microphone is None:
        raise UsageError("nothing to listen to; try --demo, --input FILE or --camera 0 (--help)")
    microphone = options.microphone
    if options.camera is not None and microphone is None and media is None:
        microphone = "default"
    n_events = 0
    with EmotionStream(
        input=media,
        camera=options.camera,
        microphone=microphone,
        bundle=options.bundle,
        stt=options.stt,
        stt_model=options.stt_model,
        realtime=options.realtime,
    ) as stream:
        for event in stream:
            n_events += 1
            print(event.to_json() if options.json else readable(event), flush=True)
    if n_events == 0:
        print("dmd-live: nobody spoke", file=sys.stderr)


def readable(event: EmotionEvent) -> str:
    """One line for people: when, which emotion, how sure, sentiment, seen from what, the words.

    A question mark follows an uncertain emotion.
    """
    seen = "+".join(name for name, state in event.modalities.items() if state == "present")
    emotion = f"{event.emotion}?" if event.uncertain else event.emotion
    return (
        f"{event.start_s:7.2f}-{event.end_s:.2f} s  {emotion:<10} {event.confidence:4.0%}  "
        f"sentiment {event.sentiment:+.1f}  [{seen}]  {event.text or '(no words)'}"
    )


def _progress(n_done: int, n_total: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if n_done == n_total else ""
        print(f"\r{n_done / 1e6:6.1f} of {n_total / 1e6:.1f} MB", end=end, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
