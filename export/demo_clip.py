"""Make the demo clip: a public-domain portrait animated to public-domain speech.

The clip that ships with the product must be free of rights and have a face and a voice that move
together, which no data set gives. So a still is animated (`puppet.py`): lips and jaw follow the
loudness of the speech, and the portrait's smile is relaxed except in the last sentence.

    python -m export.demo_clip --portrait astronaut.png --speech a.wav b.wav \
        --out runtime/demo/demo.mp4
"""

import argparse
import json
import math
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from runtime.errors import DmdLiveError, UsageError
from runtime.features.spec import BLENDSHAPES
from runtime.features.vision import VisionFeatures

from .demo_files import RATE_HZ, check_rights, read_picture, read_wav, sha256, transcript
from .puppet import FACE_MODEL, SIZE, Array, Picture, Pose, Puppet

__all__ = ["Options", "main", "make"]

FPS = 25
EDGE_S, PAUSE_S = 0.7, 1.3  # silence at both ends and between sentences
MAX_BYTES = 1_500_000


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `python -m export.demo_clip` needs."""

    portrait: Path
    speech: tuple[Path, ...]
    out: Path


def make(options: Options) -> dict[str, Any]:
    """Write the clip and the JSON beside it; returns the JSON's content.

    Raises SourceError if an input cannot be read; UsageError if it is not one of the files whose
    rights are known, or if the clip is not 10-16 s, below 1.5 MB, with a face in every frame.
    """
    check_rights(options.portrait, options.speech)
    transcripts = [transcript(path) for path in options.speech]
    samples, starts = _soundtrack([read_wav(path) for path in options.speech])
    seconds = len(samples) / RATE_HZ
    if not 10.0 <= seconds <= 16.0:
        raise UsageError(f"the clip would last {seconds:.1f} s; choose sentences for 10-16 s")
    puppet = Puppet(read_picture(options.portrait))
    loudness = _loudness(samples)
    poses = _poses(loudness, smile_from_s=starts[-1])
    options.out.parent.mkdir(parents=True, exist_ok=True)
    partial = options.out.with_suffix(".partial.mp4")
    _encode(partial, (puppet.render(pose) for pose in poses), samples)
    measured = _measure(partial, loudness, smile_from_s=starts[-1])
    if measured["frames_with_face"] != measured["frames"] or measured["bytes"] > MAX_BYTES:
        raise UsageError(f"{partial}: not fit to ship: {measured}")
    partial.replace(options.out)
    about = _about(options, transcripts, starts, measured)
    options.out.with_suffix(".json").write_text(json.dumps(about, indent=2) + "\n")
    return about


def _loudness(samples: NDArray[np.float32]) -> Array:
    """(n_frames,) speech loudness in [0, 1] at each picture's time, smoothed over 0.1 s."""
    n_frames = math.ceil(len(samples) * FPS / RATE_HZ)
    hop = RATE_HZ // FPS
    padded = np.pad(samples, (hop, (n_frames + 1) * hop - len(samples)))
    power = [np.mean(padded[k * hop : (k + 3) * hop] ** 2) for k in range(n_frames)]
    level = np.sqrt(np.asarray(power, np.float64))
    level = np.clip(level / np.quantile(level, 0.95) - 0.06, 0.0, 1.0)
    return np.convolve(np.sqrt(level), [0.25, 0.5, 0.25], mode="same")


def _poses(loudness: Array, *, smile_from_s: float) -> list[Pose]:
    """One pose per frame; deterministic, so that the clip can be made again."""
    t = np.arange(len(loudness)) / FPS
    smile = _ease(t, smile_from_s - 0.5, smile_from_s + 0.3)
    blinks = np.arange(0.9, t[-1], 2.7) + 0.4 * np.sin(np.arange(0.9, t[-1], 2.7) * 5)
    blink = np.max([np.exp(-(((t - at) / 0.075) ** 4)) for at in blinks], axis=0)
    slow = np.convolve(loudness, np.hanning(17) / np.hanning(17).sum(), mode="same")

    def sway(period_s: float, phase: float) -> Array:
        return np.sin(2 * np.pi * t / period_s + phase) + 0.4 * np.sin(4.6 * np.pi * t / period_s)

    return [
        Pose(open=o, smile=s, blink=b, yaw=yaw, pitch=pitch, roll=roll, dx=dx, dy=dy, zoom=zoom)
        for o, s, b, yaw, pitch, roll, dx, dy, zoom in zip(
            loudness,
            0.8 * smile,
            0.9 * blink,
            np.radians(3.5) * sway(5.3, 0.0),
            np.radians(1.5) * sway(4.1, 1.0) + np.radians(2.5) * (slow - 0.4),
            np.radians(1.4) * sway(6.7, 2.0),
            0.012 * sway(6.1, 0.5),
            0.008 * sway(4.3, 1.5),
            0.012 * sway(7.9, 2.5),
            strict=True,
        )
    ]


def _ease(t: Array, start: float, end: float) -> Array:
    """0 before `start`, 1 after `end`, smooth between."""
    u = np.clip((t - start) / (end - start), 0.0, 1.0)
    return np.asarray(u * u * (3 - 2 * u))


def _soundtrack(
    sentences: Sequence[NDArray[np.float32]],
) -> tuple[NDArray[np.float32], list[float]]:
    """Samples in [-1, 1] with the pauses, and the second at which each sentence starts."""
    parts: list[NDArray[np.float32]] = [np.zeros(round(EDGE_S * RATE_HZ), np.float32)]
    starts = []
    for sentence in sentences:
        starts.append(sum(map(len, parts)) / RATE_HZ)
        fade = np.minimum(np.arange(len(sentence)), np.arange(len(sentence))[::-1]) / 480  # 30 ms
        parts += [
            (sentence * np.minimum(fade, 1.0)).astype(np.float32),
            np.zeros(round(PAUSE_S * RATE_HZ), np.float32),
        ]
    parts[-1] = parts[0]
    return np.concatenate(parts), starts


def _encode(path: Path, pictures: Iterator[Picture], samples: NDArray[np.float32]) -> None:
    """Write H.264 and AAC, interleaved so that a reader gets both in the order of time."""
    with av.open(str(path), "w", options={"movflags": "faststart"}) as clip:
        clip.metadata["title"] = "DMD Live demo"
        clip.metadata["comment"] = "An animated still with unrelated speech, not a recording"
        video = clip.add_stream("libx264", rate=FPS, options={"crf": "21", "preset": "slow"})
        video.width = video.height = SIZE
        video.pix_fmt = "yuv420p"
        audio = clip.add_stream("aac", rate=RATE_HZ, layout="mono")
        audio.bit_rate = 64_000
        hop = RATE_HZ // FPS
        for index, picture in enumerate(pictures):
            clip.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            chunk = np.ascontiguousarray(samples[None, index * hop : (index + 1) * hop])
            sound = av.AudioFrame.from_ndarray(chunk, format="fltp", layout="mono")
            sound.sample_rate = RATE_HZ
            sound.pts = index * hop
            clip.mux(audio.encode(sound))
        clip.mux(video.encode())
        clip.mux(audio.encode())


def _measure(path: Path, loudness: Array, *, smile_from_s: float) -> dict[str, Any]:
    """What the runtime's face networks see in the encoded clip."""
    vision = VisionFeatures(FACE_MODEL)
    with av.open(str(path)) as clip:
        pictures = (frame.to_ndarray(format="rgb24") for frame in clip.decode(video=0))
        faces = [vision.largest_face(np.asarray(rgb, np.uint8)) for rgb in pictures]
    seen = np.array([face.blendshapes for face in faces if face is not None])
    jaw = seen[:, BLENDSHAPES.index("jawOpen")]
    sides = [BLENDSHAPES.index(name) for name in ("mouthSmileLeft", "mouthSmileRight")]
    smile = seen[:, sides].mean(axis=1)
    complete = len(seen) == len(faces) == len(loudness)
    first = round((smile_from_s - PAUSE_S) * FPS)
    last = slice(round(smile_from_s * FPS), -round(EDGE_S * FPS))
    return {
        "seconds": round(len(faces) / FPS, 2),
        "frames": len(faces),
        "frames_with_face": len(seen),
        "jaw_open_to_loudness_correlation": round(float(np.corrcoef(jaw, loudness)[0, 1]), 3)
        if complete
        else None,
        "mouth_smile_before_last_sentence": round(float(smile[:first].mean()), 3),
        "mouth_smile_in_last_sentence": round(float(smile[last].mean()), 3),
        "bytes": path.stat().st_size,
    }


def _about(
    options: Options, transcripts: list[str], starts: list[float], measured: dict[str, Any]
) -> dict[str, Any]:
    command = [
        *("python", "-m", "export.demo_clip", "--portrait", options.portrait.name),
        *("--speech", *(path.name for path in options.speech), "--out", options.out.as_posix()),
    ]
    return {
        "notice": "An animated still with unrelated speech, not a recording: the person in the"
        " portrait never spoke these words, the voice is not hers, and no endorsement is implied.",
        "licence": "public domain",
        "portrait": {
            "name": "Eileen Collins, astronaut; NASA Great Images database",
            "from": "scikit-image, skimage.data.astronaut(); https://flic.kr/p/r9qvLn",
            "licence": "public domain: no known copyright restrictions, says scikit-image",
            "file": options.portrait.name,
            "sha256": sha256(options.portrait),
        },
        "speech": [
            {
                "name": "Jane Austen, Sense and Sensibility, chapter 1, read for LibriVox",
                "from": "Debian package pocketsphinx-testdata, test/data/librivox",
                "licence": "public domain: text, and recording as all of LibriVox's; Debian's"
                " copyright file covers the package as a whole (BSD-2-Clause, CMU Sphinx)",
                "file": path.name,
                "sha256": sha256(path),
                "start_s": round(start, 3),
                "transcript": transcript,
                "smiling": path == options.speech[-1],
            }
            for path, start, transcript in zip(options.speech, starts, transcripts, strict=True)
        ],
        "command": shlex.join(command),
        "measured": measured,
        "sha256": sha256(options.out),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0, or 2 with one line on stderr for a problem with the inputs."""
    parser = argparse.ArgumentParser(prog="python -m export.demo_clip", allow_abbrev=False)
    parser.add_argument("--portrait", type=Path, required=True, help="picture with one face")
    parser.add_argument(
        "--speech",
        type=Path,
        required=True,
        nargs="+",
        help="sentences as 16 kHz mono WAV, with `transcription` beside them; the last one smiles",
    )
    parser.add_argument("--out", type=Path, required=True, help="the MP4 to write")
    given = parser.parse_args(argv)
    options = Options(portrait=given.portrait, speech=tuple(given.speech), out=given.out)
    try:
        about = make(options)
    except DmdLiveError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(about["measured"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
