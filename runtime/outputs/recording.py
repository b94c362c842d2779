"""Recordings: the evidence of every event and the event itself, to be judged again later.

One JSON object per line. The first says with which bundle was recorded; each of the others has
`evidence` (words and feature rows), `event` as `event.schema.json` describes it, and last `crc32`
of the line up to there. Early estimates repeat what is known of their utterance: feature rows are
how many to take from the beginning of the line before, and the rest in base64 of little-endian
float32. No sound and no picture is in it. Lines are handed to the system one by one: however a
recording ends, what was written stays good, and a last line that was cut off is left out.
"""

import base64
import binascii
import json
import logging
import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from ..errors import SourceError, UsageError
from ..features.embedding import EMBEDDING_DIM
from ..features.spec import MODALITIES, SPEC
from ..judging.evidence import Evidence
from ..schemas import EmotionEvent, Person
from ..speech.base import Word

__all__ = ["FORMAT", "Recorder", "Recording"]

FORMAT = 3
_MARK = ', "crc32": '
_LONGEST = 1 << 20  # bytes of a line: five times what the longest utterance needs
_DTYPE = np.dtype("<f4")

Float = NDArray[np.float32]

_logger = logging.getLogger("dmd_live")


class Recorder:
    """Writes a recording. `header` is what `Recording.header` will be.

    A disk that is full ends the recording with a line in the log, not the stream: `error` has the
    reason from then on. Raises UsageError when the file exists or cannot be created.
    """

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self.path, self.error, self.n_events = path, "", 0
        self._n_bytes = 0
        self._last: dict[str, Float] = {}  # rows of the last line
        try:
            self._file: IO[bytes] | None = path.open("xb", buffering=0)
        except FileExistsError:
            raise UsageError(f"{path}: exists; record to another file or remove it") from None
        except OSError as error:
            raise UsageError(f"{path}: cannot record ({error.strerror})") from error
        self._write({"recording": FORMAT, **header})

    def add(self, evidence: Evidence, event: EmotionEvent) -> None:
        """Append one event and what it was judged from."""
        found = {
            "type": evidence.type,
            "utterance": evidence.utterance,
            "start_s": evidence.start_s,
            "end_s": evidence.end_s,
            "words": [[word.text, word.start_s, word.end_s] for word in evidence.words],
            "audio": _encoded(evidence.audio, self._last.get("audio")),
            "audio_embedding": _encoded(evidence.audio_embedding[None], None)[1],
            "vision": _encoded(evidence.vision, self._last.get("vision")),
            "modalities": evidence.modalities,
            "quality": evidence.quality,
            "person": None if evidence.person is None else asdict(evidence.person),
            "replaces": evidence.replaces,
            "baseline_reset": evidence.baseline_reset,
        }
        self._last = {"audio": evidence.audio, "vision": evidence.vision}
        self._write({"evidence": found, "event": event.to_dict()})
        self.n_events += not self.error

    @property
    def stats(self) -> dict[str, Any]:
        """The file, how many events it holds, and why it stopped ("" if it did not)."""
        return {"file": str(self.path), "events": self.n_events, "error": self.error}

    def close(self) -> None:
        """End the recording; what was written is complete at any time."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, content: dict[str, Any]) -> None:
        if self._file is None:
            return
        body = json.dumps(content)[:-1].encode()
        line = memoryview(body + f"{_MARK}{crc32(body)}}}\n".encode())
        try:
            n_done = 0
            while n_done < len(line):
                n_done += self._file.write(line[n_done:])
            self._n_bytes += n_done
        except OSError as error:
            self.error = str(error.strerror)
            _logger.warning(
                "%s: recording stopped (%s); the stream goes on", self.path, error.strerror
            )
            with suppress(OSError):  # the disk itself may be gone
                self._file.truncate(self._n_bytes)  # without the half of a line that did fit
                self._file.close()
            self._file = None


class Recording:
    """A recording to be judged again: a context manager around its file.

    Raises SourceError, in one line, when the file is not there, is no recording, was made under
    another feature contract, or, after the entries before it, when a line is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        self.header: dict[str, Any] = {}

    def __enter__(self) -> "Recording":
        try:
            self._file = self._path.open("rb")
            line = self._file.readline(_LONGEST)
        except OSError as error:
            raise SourceError(f"{self._path}: cannot be read ({error.strerror})") from error
        try:
            self.header = _checked(line)
            version = self.header["recording"]
            if version != FORMAT:
                raise SourceError(
                    f"{self._path}: format {version}, this runtime reads {FORMAT}; replay it with "
                    "the version that recorded it"
                )
            spec = self.header["feature_spec_sha256"]
            if spec != SPEC.sha256():
                raise SourceError(
                    f"{self._path}: made for feature spec {spec[:12]}, this runtime computes "
                    f"{SPEC.sha256()[:12]}; replay it with the version that recorded it"
                )
            if not {"bundle_sha256", "precision", "baseline", "prior"} <= self.header.keys():
                raise ValueError("no word about the bundle")
            if not isinstance(self.header["bundle_sha256"], str):
                raise ValueError("its bundle has no hash")
        except (ValueError, KeyError, TypeError) as error:
            self.__exit__(None, None, None)
            raise SourceError(
                f"{self._path}: not a recording, or its first line is damaged; name a file that "
                "`dmd-live --record` wrote"
            ) from error
        except SourceError:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def entries(self) -> Iterator[tuple[Evidence, dict[str, Any]]]:
        """Evidence and the event recorded for it (its JSON form), in order."""
        number, evidence = 1, None
        while self._file is not None and (line := self._file.readline(_LONGEST)):
            number += 1
            if not line.endswith(b"\n") and len(line) < _LONGEST:
                _logger.warning("%s: cut off in line %d, which is left out", self._path, number)
                return
            try:
                content = _checked(line)
                evidence = _evidence(content["evidence"], evidence)
                event = dict(content["event"])
                for ms in event["latency_ms"].values():
                    math.isfinite(ms)  # a number, or else a TypeError
            except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
                raise SourceError(
                    f"{self._path}: line {number} is damaged; what came before it was judged; "
                    "copy the file again"
                ) from error
            yield evidence, event


def _checked(line: bytes) -> dict[str, Any]:
    """A line's content; raises ValueError when it is not what was written."""
    body, mark, end = line.rpartition(_MARK.encode())
    if not mark or end != f"{crc32(body)}}}\n".encode():
        raise ValueError("checksum differs")
    return dict(json.loads(body + b"}"))


def _evidence(found: dict[str, Any], last: Evidence | None) -> Evidence:
    """What a line holds that follows the one of `last`.

    Raises ValueError, KeyError or TypeError for what is no evidence.
    """
    start_s, end_s = float(found["start_s"]), float(found["end_s"])
    if found["type"] not in ("provisional", "final") or not math.isfinite(end_s - start_s):
        raise ValueError("neither provisional nor final, or without a time")
    return Evidence(
        type=found["type"],
        utterance=int(found["utterance"]),
        start_s=start_s,
        end_s=end_s,
        words=tuple(
            Word(text=str(text), start_s=float(begin), end_s=float(end))
            for text, begin, end in found["words"]
        ),
        audio=_decoded(found["audio"], None if last is None else last.audio, SPEC.audio_dim),
        vision=_decoded(found["vision"], None if last is None else last.vision, SPEC.vision_dim),
        audio_embedding=_embedding(found["audio_embedding"]),
        modalities={m: str(found["modalities"][m]) for m in MODALITIES},
        quality=tuple(str(note) for note in found["quality"]),
        person=_person(found.get("person")),
        replaces=None if found.get("replaces") is None else int(found["replaces"]),
        baseline_reset=bool(found["baseline_reset"]),
    )


def _person(found: dict[str, Any] | None) -> Person | None:
    """Raises ValueError, KeyError or TypeError for what is nobody."""
    if found is None:
        return None
    left, top, width, height = (float(share) for share in found["box"])
    return Person(
        id=int(found["id"]),
        confidence=float(found["confidence"]),
        n_in_view=int(found["n_in_view"]),
        box=(left, top, width, height),
    )


def _embedding(found: str) -> Float:
    """(576,); raises ValueError or TypeError for what is none."""
    (embedding,) = _decoded([0, found], None, EMBEDDING_DIM)
    return np.asarray(embedding, np.float32)


def _encoded(rows: Float, last: Float | None) -> list[Any]:
    """(number of rows that the last line begins with as well, the others in base64)."""
    n_same = 0
    if last is not None:
        n = min(len(rows), len(last))
        # Bits, not numbers: -0.0 is not 0.0.
        differs = (rows[:n].view(np.uint32) != last[:n].view(np.uint32)).any(axis=1)
        n_same = int(differs.argmax()) if differs.any() else n
    return [n_same, base64.b64encode(rows[n_same:].astype(_DTYPE).tobytes()).decode()]


def _decoded(found: list[Any], last: Float | None, width: int) -> Float:
    """(T, width) float32; raises ValueError or TypeError when that is not what is there."""
    n_same, text = found
    if n_same > (0 if last is None else len(last)):
        raise ValueError("more rows in common than there were")
    try:
        content = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from error
    rows = np.frombuffer(content, _DTYPE).astype(np.float32).reshape(-1, width)
    return rows if last is None else np.concatenate([last[:n_same], rows])
