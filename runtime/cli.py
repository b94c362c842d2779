"""The command `dmd-live`."""

import logging
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from . import settings
from .config import given, option
from .errors import DmdLiveError, UsageError
from .live import EmotionStream
from .outputs.chosen import OutputOptions, chosen
from .outputs.console import Console, drop_output
from .outputs.lines import FORMATS
from .store import models
from .stream.options import StreamOptions
from .system import threads
from .version import __version__

__all__ = ["Options", "main"]

_DEMO = Path(__file__).parent / "demo" / "demo.mp4"
_EPILOG = """examples:
  dmd-live --demo                          the built-in clip, through the whole path
  dmd-live --file talk.mp4 --json         a file, one JSON line per utterance
  dmd-live --camera 0                      webcam and default microphone
  dmd-live --microphone default            voice only
  dmd-live --demo --web 8080               a page in the browser: http://127.0.0.1:8080/
  dmd-live --camera 0 --record day.jsonl   words, feature rows and events of it in a file
  dmd-live --replay day.jsonl --bundle B   the same with another model
  dmd-live --doctor                        is this machine ready? what is missing, what mends it
  dmd-live --doctor --file talk.mp4       the same for a file: no camera, no microphone
  dmd-live --bench --threads 1             how fast the model is here, by every engine
  dmd-live --list-devices                  microphones and cameras that are here
  dmd-live --list-models                   pretrained parts: where they are, their licences

A live stream reads commands from standard input, one a line: mute, unmute, reset (forget the
speaker).

Every option may also stand in a TOML file that --config names, or in a variable: --hop-ms is hop_ms
and DMD_LIVE_HOP_MS. --no-NAME takes back a switch from there, as in --no-provisional.

Everything runs on this machine. Nothing is sent but what --web, --udp, --mqtt and --zenoh ask for.
Nothing is stored but what --record, --save-media, --baseline-file and --out ask for. --download and
network cameras open a connection.
Exit code: 0 all was analysed (also when nobody spoke), 2 a mistake that the message explains;
--doctor: 1 when something is missing without which what the other options ask for would fail.
"""


@dataclass(frozen=True, kw_only=True)
class Options(OutputOptions, StreamOptions):
    """One emotion per utterance from words, voice and face: of a file, or live."""

    config: str | None = option(
        None, metavar="FILE", help="read options from a TOML file; the command line goes before it"
    )
    input: str | None = option(None, metavar="FILE", help="the former name of --file")
    json: bool = option(
        False,
        help="print one JSON object per event (runtime/event.schema.json describes it); with "
        "--doctor and --bench one for all",
    )
    format: str = option(
        "text",
        choices=tuple(FORMATS),
        help="of an event's line: for people, --json, or for a language model (docs/agents.md)",
    )
    overlay: bool = option(False, help="show pictures, face and emotions in a window")
    demo: bool = option(False, help="analyse the built-in clip")
    doctor: bool = option(
        False, help="check what the other options need (default: camera 0, microphone) and stop"
    )
    bench: bool = option(
        False, help="measure the bundle's models by every engine that runs here and stop (1-2 min)"
    )
    threads: int = option(2, metavar="N", help="with --bench: processor threads of one inference")
    list_devices: bool = option(False, help="list microphones and cameras and stop")
    list_models: bool = option(False, help="list the pretrained parts and stop")
    download: str | None = option(None, metavar="NAME", help="fetch a pretrained part and stop")
    version: bool = option(False, help="print the versions of program, model and features")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    on_command_line = given(Options, argv, prog="dmd-live", epilog=_EPILOG)
    logging.basicConfig(format="dmd-live: %(message)s", level=logging.WARNING)
    code = 0
    try:
        options = settings.complete(Options, on_command_line, os.environ)
        if options.input is not None:
            print("dmd-live: --input is now called --file", file=sys.stderr)
            options = replace(options, file=options.input, input=None)
        options = _with_format(options)
        # What stops a service ends it as Ctrl-C does.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        code = _run(options)
    except DmdLiveError as error:
        print(f"dmd-live: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:  # while devices and models are being opened, or closed
        pass
    except BrokenPipeError:  # `dmd-live ... | head` has seen enough
        drop_output()
    if threads.left():  # a sound server or a driver hangs, and its library waits for it at exit
        os._exit(code)
    return code


def _with_format(options: Options) -> Options:
    """`--json` and `--format json` are the same."""
    if options.json and options.format == "prompt":
        raise UsageError("--json and --format prompt contradict each other: leave one out")
    as_json = options.json or options.format == "json"
    return replace(options, json=as_json, format="json" if as_json else options.format)


def _run(options: Options) -> int:
    if options.version:
        _version(options.bundle)
    elif options.doctor:
        return _diagnose(options)
    elif options.bench:
        _measure(options)
    elif options.list_devices:
        from .sources.devices import listing

        print(*listing(), sep="\n")
    elif options.list_models:
        print(*models.listing(), sep="\n")
    elif options.download is not None:
        print(models.download(options.download, _progress))
    else:
        _listen(options)
    return 0


def _version(bundle: str | None) -> None:
    from .features.spec import SPEC
    from .store.bundle import Bundle

    sha256 = Bundle.load(bundle).info["bundle_sha256"]
    print(f"dmd-live {__version__}, bundle {sha256[:12]}, feature spec {SPEC.version}")


def _diagnose(options: Options) -> int:
    from .doctor.base import Use
    from .doctor.report import diagnose, report

    live = options.devices
    file = options.demo or options.file is not None
    replay = options.replay is not None
    default = not (live or file or replay)
    checks = diagnose(
        Use(
            pictures=file or default or options.camera is not None,
            camera="0" if default else options.camera,
            microphone=options.microphone or ("default" if live or default else None),
            bundle=options.bundle,
            engine=options.engine,
            stt="none" if replay else options.stt,
            stt_model=options.stt_model,
        )
    )
    return 0 if report(checks, as_json=options.json) else 1


def _measure(options: Options) -> None:
    from .bench import report as bench_report
    from .bench import run as bench

    if options.threads < 1:
        raise UsageError("--threads is 1 at least")
    folder = None if options.bundle is None else Path(options.bundle)
    found = bench.measure(bench.targets(folder, options.engine, options.threads))
    bench_report.report(found, n_threads=options.threads, as_json=options.json)


def _listen(options: Options) -> None:
    if options.demo:
        if {options.file, options.camera, options.microphone, options.replay} != {None}:
            raise UsageError(
                "--demo brings its own clip; leave out --file, --camera, --microphone, --replay"
            )
        # Before a browser, the clip plays as if it were live.
        paced = options.realtime or options.web is not None
        options = replace(options, file=str(_DEMO), realtime=paced)
    if options.file is None and not options.devices and options.replay is None:
        raise UsageError("nothing to listen to; try --demo, --file FILE or --camera 0 (--help)")
    if options.camera is not None and options.microphone is None and options.file is None:
        options = replace(options, microphone="default")
    if options.overlay:
        if options.file is None and options.camera is None:
            raise UsageError("--overlay shows pictures: name a --camera or a --file with some")
        from .outputs.overlay import check

        check()
    outputs = chosen(options, early=options.provisional)
    console = Console(options, outputs)
    wanted = {item.name: getattr(options, item.name) for item in fields(StreamOptions)}
    wanted["provisional"] |= console.wants_early
    console.watch(EmotionStream(**wanted, sinks=outputs.sinks))


def _progress(n_done: int, n_total: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if n_done == n_total else ""
        print(f"\r{n_done / 1e6:6.1f} of {n_total / 1e6:.1f} MB", end=end, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
