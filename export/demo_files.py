"""The portrait and the speech of the demo clip: whose rights are known, and how they are read."""

import hashlib
import re
import wave
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.errors import SourceError, UsageError

from .puppet import Picture

__all__ = ["RATE_HZ", "check_rights", "read_picture", "read_wav", "sha256", "transcript"]

RATE_HZ = 16_000
# The files whose rights are known: what the JSON says of them is true of no others.
PORTRAIT_SHA256 = "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5"
SPEECH_SHA256 = (
    "b0557cf95c974d930577e58e46b7f068c432a6e3afcc286563d88922b2a5315c",
    "fbec491ef00ee734a67f0ee318e98c51c157b479e1629ff4f4426861ecac0414",
    "5793ffbdee55fb8bfd284943a6866864c832d9d4accf2661cabd39915c84ee10",
    "40882414ef4cc51f3ff7a63bad0c8c87e7f595ffeb8209fbf756c8ebc5c28a59",
    "954adbf0b56ac8a148cbe77b39ca18d76b5f2a1e1f405565bd786ce3e68a68b7",
)


def check_rights(portrait: Path, speech: Sequence[Path]) -> None:
    """Raises DmdLiveError for a file that is missing or whose rights are not known."""
    known = {portrait: (PORTRAIT_SHA256,)} | dict.fromkeys(speech, SPEECH_SHA256)
    for path, hashes in known.items():
        if not path.is_file():
            raise SourceError(f"{path}: no such file")
        if sha256(path) not in hashes:
            raise UsageError(f"{path}: not one of the files whose rights are known (SHA-256)")


def transcript(speech: Path) -> str:
    """The line of the recording in the file `transcription` beside it (CMU Sphinx format)."""
    path = speech.with_name("transcription")
    try:
        found = re.search(rf"^<s> (.*) </s> \({re.escape(speech.stem)}\)$", path.read_text(), re.M)
    except OSError as error:
        raise SourceError(f"{path}: cannot read the transcripts ({error.strerror})") from error
    if found is None:
        raise SourceError(f"{path}: has no transcript of {speech.stem}")
    return found[1]


def read_wav(path: Path) -> NDArray[np.float32]:
    """Samples in [-1, 1]."""
    try:
        with wave.open(str(path)) as file:
            if file.getparams()[:3] != (1, 2, RATE_HZ):
                raise SourceError(f"{path}: must be mono 16-bit PCM at {RATE_HZ} Hz")
            pcm = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    except (OSError, EOFError, wave.Error) as error:
        raise SourceError(f"{path}: cannot read speech ({error})") from error
    return (pcm / 32768.0).astype(np.float32)


def read_picture(path: Path) -> Picture:
    """(H, W, 3) RGB."""
    bgr = cv2.imread(str(path))
    if bgr is None:
        raise SourceError(f"{path}: cannot read the portrait")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def sha256(path: Path) -> str:
    """Of the file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
