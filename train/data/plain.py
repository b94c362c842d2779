"""Plain voices without any emotion: `python -m train.data.plain --out DATA/plain`.

A synthesiser (espeak-ng, GPL-3.0, a program of its own) speaks everyday sentences in many of its
voices, at many speeds and pitches. They teach that a flat or strange voice is not an emotion.
"""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from runtime.config import option, parse
from runtime.errors import DmdLiveError, UsageError

from .commands import commands

__all__ = ["Options", "main", "speak"]

_ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-029")
_VARIANTS = ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "f1", "f2", "f3", "f4", "f5", "klatt",
             "klatt2", "klatt4", "Andy", "Annie", "Alicia", "Michael", "Gene", "Jacky", "Mario",
             "belinda", "benjamin", "david", "edward", "linda", "max", "paul", "steph")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Options:
    """Let espeak-ng speak plain sentences, for a corpus of voices without emotion."""

    out: str = option(metavar="DIR", help="where the clips go; train.run looks for DATA/plain")
    n: int = option(500, metavar="N", help="how many clips to make")


def main() -> int:
    """Run the command; returns the exit code."""
    options = parse(Options, None, prog="python -m train.data.plain")
    try:
        _speak(Path(options.out), options.n)
    except DmdLiveError as error:
        print(f"train.data.plain: {error}", file=sys.stderr)
        return 2
    return 0


def _speak(out: Path, n: int) -> None:
    if shutil.which("espeak-ng") is None:
        raise UsageError("espeak-ng is not installed; install it with: apt-get install espeak-ng")
    out.mkdir(parents=True, exist_ok=True)
    sentences = [text.text for text in commands() if text.emotion >= 0 and " " in text.text]
    rng = np.random.default_rng(0)
    for k in tqdm(range(n), "plain voices", unit="clip"):
        voice = f"{_ACCENTS[int(rng.integers(len(_ACCENTS)))]}+{_VARIANTS[k % len(_VARIANTS)]}"
        speed, pitch = int(rng.integers(120, 200)), int(rng.integers(20, 80))
        said = sentences[int(rng.integers(len(sentences)))]
        path = out / f"{_VARIANTS[k % len(_VARIANTS)]}_{k:04d}.wav"
        if not path.exists():
            speak(said, voice, path, "-s", str(speed), "-p", str(pitch))


def speak(said: str, voice: str, path: Path, *options: str) -> None:
    """Let espeak-ng say something in a voice of its own, into a WAV file."""
    partial = path.with_suffix(".partial")
    subprocess.run(["espeak-ng", "-v", voice, *options, "-w", partial, said], check=True)
    partial.rename(path)


if __name__ == "__main__":
    sys.exit(main())
