"""Cutting the stream into utterances by voice activity, and long ones at pauses."""

from dataclasses import dataclass

from ..features.spec import SPEC
from ..speech.base import Word

__all__ = ["Segment", "Segmenter", "SegmenterConfig", "split_words"]


@dataclass(frozen=True)
class Segment:
    """An utterance's interval in seconds on the stream's clock."""

    start_s: float
    end_s: float


@dataclass(frozen=True, kw_only=True)
class SegmenterConfig:
    """When speech begins and ends. Probabilities are the voice activity detector's."""

    open_at: float = 0.5
    close_below: float = 0.35  # lower than `open_at`, so that a soft syllable does not close
    hang_over_s: float = 0.6  # silence that ends an utterance
    max_utterance_s: float = SPEC.max_utterance_s  # a longer one is cut
    min_speech_s: float = 0.2  # less voiced sound than this is a click or a cough
    pad_s: float = 0.15  # kept before and after: detectors cut soft onsets and endings
    settle_s: float = 0.2  # silence after which an end is likely enough to prepare for it
    search_s: float = 6.0  # a too long utterance is cut at the best pause within its last seconds


class Segmenter:
    """Feeds on one speech probability per chunk, emits closed segments.

    `chunk_s`: length of a chunk; `origin_s`: time of the first one. Segments are at most
    `config.max_utterance_s` long, do not overlap, and lose no speech between them.
    """

    def __init__(
        self, chunk_s: float, origin_s: float, config: SegmenterConfig | None = None
    ) -> None:
        self._config = config or SegmenterConfig()
        self._chunk_s = chunk_s
        self._origin_s = origin_s
        self._n = 0  # chunks seen
        self._open: int | None = None  # first chunk of the open utterance
        self._probabilities: list[float] = []  # of the open utterance
        self._free_s = origin_s  # end of the last segment: the next may not start before it

    def push(self, probability: float) -> Segment | None:
        """The next chunk's speech probability in [0, 1]; returns a segment that it closed."""
        config = self._config
        self._n += 1
        if self._open is None:
            if probability < config.open_at:
                return None
            self._open = self._n - 1
        self._probabilities.append(probability)
        silent = self._trailing_silence()
        if silent * self._chunk_s >= config.hang_over_s:
            return self._close(len(self._probabilities) - silent)
        start_s = self._padded_start()
        if self._time(self._n + 1) + config.pad_s - start_s > config.max_utterance_s:
            return self._cut()
        return None

    @property
    def speech(self) -> Segment | None:
        """The utterance that is open, up to now; None between utterances."""
        if self._open is None:
            return None
        return Segment(self._padded_start(), self._time(self._n))

    @property
    def voiced(self) -> bool:
        """Whether the utterance that is open has enough voice not to be dropped."""
        return self._open is not None and self._has_voice(len(self._probabilities))

    @property
    def likely(self) -> Segment | None:
        """The segment that will be closed unless speech goes on; None while somebody speaks."""
        silent = self._trailing_silence() if self._open is not None else 0
        if silent * self._chunk_s < self._config.settle_s:
            return None
        return self._ending(len(self._probabilities) - silent)

    def flush(self) -> Segment | None:
        """The stream ended: close what is open."""
        if self._open is None:
            return None
        return self._close(len(self._probabilities) - self._trailing_silence())

    def _close(self, n_chunks: int) -> Segment | None:
        """End the utterance after its first `n_chunks`; too little speech is dropped."""
        segment = self._ending(n_chunks)
        self._open, self._probabilities = None, []
        if segment is not None:
            self._free_s = segment.end_s
        return segment

    def _ending(self, n_chunks: int) -> Segment | None:
        """The utterance if it ends after its first `n_chunks`; None with too little speech."""
        assert self._open is not None
        start_s = self._padded_start()
        end_s = min(
            self._time(self._open + n_chunks) + self._config.pad_s,
            self._time(self._n),
        )
        return Segment(start_s, end_s) if self._has_voice(n_chunks) else None

    def _has_voice(self, n_chunks: int) -> bool:
        """Whether the first `n_chunks` of the open utterance are more than a click or a cough."""
        n_voiced = sum(p >= self._config.close_below for p in self._probabilities[:n_chunks])
        return n_voiced * self._chunk_s >= self._config.min_speech_s

    def _cut(self) -> Segment:
        """End a too long utterance in the middle of its least speech-like chunk of late."""
        assert self._open is not None
        n_search = min(int(self._config.search_s / self._chunk_s), len(self._probabilities) // 2)
        recent = self._probabilities[-n_search:]
        # The latest of equally quiet chunks: the longer first part has more to be judged on.
        quietest = min(range(n_search), key=lambda k: (recent[k], -k))
        n_chunks = len(self._probabilities) - n_search + quietest
        start_s, end_s = self._padded_start(), self._time(self._open + n_chunks + 0.5)
        self._open += n_chunks
        self._probabilities = self._probabilities[n_chunks:]
        self._free_s = end_s
        return Segment(start_s, end_s)

    def _trailing_silence(self) -> int:
        count = 0
        for probability in reversed(self._probabilities):
            if probability >= self._config.close_below:
                break
            count += 1
        return count

    def _padded_start(self) -> float:
        assert self._open is not None
        return max(self._time(self._open) - self._config.pad_s, self._free_s)

    def _time(self, chunk: float) -> float:
        return self._origin_s + chunk * self._chunk_s


def split_words(segment: Segment, words: tuple[Word, ...]) -> tuple[Segment, Segment, int]:
    """Cut a segment whose words are too many for one utterance at the longest pause in its middle.

    Returns both parts and the index of the first word of the second. Needs two words at least.
    """
    middle = range(max(1, len(words) // 4), max(2, len(words) - len(words) // 4))
    cut = max(middle, key=lambda k: words[k].start_s - words[k - 1].end_s)
    time_s = (words[cut - 1].end_s + words[cut].start_s) / 2
    time_s = min(max(time_s, segment.start_s), segment.end_s)
    return Segment(segment.start_s, time_s), Segment(time_s, segment.end_s), cut
