"""Draw what the model made of a clip: `python -m export.picture --input FILE --out FILE.png`."""

import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime.config import option, parse
from runtime.errors import DmdLiveError
from runtime.live import EmotionStream
from runtime.schemas import EmotionEvent
from runtime.sources.base import VideoFrame
from runtime.sources.file import FileSource

__all__ = ["Options", "draw"]

_FACE_SHAPE = 0.6  # width over height of one picture in the strip


@dataclass(frozen=True, kw_only=True)
class Options:
    """Draw a clip's pictures, its loudness and the emotion of every utterance on one time line."""

    input: str = option(metavar="FILE", help="a video file in which somebody speaks")
    out: str = option(metavar="FILE", help="the picture to write (png, svg or pdf)")
    bundle: str | None = option(None, metavar="FOLDER", help="the model; default: the built-in one")


def main() -> int:
    """Run the command; returns the exit code."""
    options = parse(Options, None, prog="python -m export.picture")
    try:
        with EmotionStream(file=options.input, bundle=options.bundle) as stream:
            events = list(stream)
        draw(Path(options.input), events, Path(options.out))
    except DmdLiveError as error:
        print(f"export.picture: {error}", file=sys.stderr)
        return 2
    return 0


def draw(clip: Path, events: list[EmotionEvent], out: Path) -> None:
    """Write the picture; its format follows from the suffix of `out`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    frames, times, samples = [], [], []
    with FileSource(clip) as source:
        for packet in source.packets():
            if isinstance(packet, VideoFrame):
                frames.append(packet)
            else:
                times.append(packet.start_s)
                samples.append(packet.samples)
    end_s = times[-1] + 0.1
    figure, (faces, sound, bars) = pyplot.subplots(
        3, 1, figsize=(10, 5.4), height_ratios=(1.5, 0.7, 2), sharex=True, layout="constrained"
    )
    _faces(faces, frames, end_s)
    loudness = np.array([np.sqrt(np.mean(s**2)) for s in samples])
    sound.fill_between(times, -loudness, loudness, color="0.6", linewidth=0)
    sound.set(yticks=[], ylabel="sound")
    for event in events:
        _event(bars, sound, event)
    names = list(events[0].probabilities) if events else []
    bars.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.4, -1.4))
    bars.set(xlim=(0, end_s), xlabel="time in s")
    for axis in (faces, sound, bars):
        axis.spines[:].set_visible(False)
    figure.savefig(out, dpi=110)


def _faces(axis: Any, frames: list[VideoFrame], end_s: float) -> None:
    """A strip of pictures, each at its time."""
    n = 9
    for k in range(n):
        at_s = (k + 0.5) * end_s / n
        frame = min(frames, key=lambda f: abs(f.time_s - at_s))
        half = 0.48 * end_s / n
        height, width = frame.rgb.shape[:2]
        edge = max(0, round(width - _FACE_SHAPE * height) // 2)
        middle = frame.rgb[:, edge : width - edge]
        axis.imshow(middle, extent=(at_s - half, at_s + half, 0, 1), aspect="auto")
    axis.set(ylim=(0, 1), yticks=[])


def _event(bars: Any, sound: Any, event: EmotionEvent) -> None:
    """An utterance's probabilities as bars that fill its time, its words and verdict above."""
    length_s = event.end_s - event.start_s
    for k, (name, p) in enumerate(event.probabilities.items()):
        colour = "tab:orange" if name == event.emotion else "tab:blue"
        bars.barh(k, p * length_s, left=event.start_s, height=0.7, color=colour)
        bars.text(event.start_s + p * length_s, k, f" {p:.0%}", va="center", fontsize=8)
    bars.axvspan(event.start_s, event.end_s, color="0.95", zorder=0)
    emotion = f"{event.emotion}?" if event.uncertain else event.emotion
    verdict = f"{emotion} {event.confidence:.0%}, sentiment {event.sentiment:+.1f}"
    bars.text(event.start_s, -0.9, verdict, fontsize=10, weight="bold", va="center")
    words = textwrap.shorten(event.text, max(12, round(14 * length_s)), placeholder=" ...")
    sound.text(event.start_s, sound.get_ylim()[1], words, fontsize=9, va="bottom", style="italic")


if __name__ == "__main__":
    sys.exit(main())
