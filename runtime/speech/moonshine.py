"""Speech to text with Moonshine tiny (English): small, fast, near-perfect on clean speech.

The maker's weights run here on onnxruntime, without the maker's library: version 0.0.49 of that,
the last one that ships weights, loses about 0.5 MB a call, crashes when it is released with
speaker recognition off, and its own voice detector carries over from one utterance to the next.
Its text and this module's are the same, word for word.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import SpeechError
from ..features.embedding import no_embedding, pooled
from ..features.spec import SPEC
from .base import Word

__all__ = ["Moonshine"]

# The encoder's convolutions need 1023; no word is this short.
_MIN_SAMPLES = SPEC.sample_rate_hz // 10
_START, _END = 1, 2  # tokens
_SPACE = "\u2581"  # the tokenizer's mark of a word's begin
_HEADS, _HEAD_DIM = 8, 36  # of the tiny model's attention
# The fastest English that it can follow needs 13 tokens a second; more is a decoder gone astray.
_TOKENS_PER_S = 13
# A decoder that is stuck repeats a phrase of up to 8 tokens; people do not, 32 tokens long.
_LOOP_TOKENS, _LOOP_PERIOD = 32, 8
_FRAME = 160  # 10 ms, for word times
_VOICED_BELOW_PEAK = 1e-3  # -30 dB: sound for word times; the rest is pause


class Moonshine:
    """Moonshine tiny. `model`: folder of `moonshine-tiny-en` (see `models.py`).

    The model gives no word times. They are interpolated: words share the time in which there is
    sound in proportion to their characters, pauses left out; starts are off by 0.1 s on average in
    fluent speech, 0.2 s with pauses. The same samples give the same final words; words that are not
    final begin with a check of the last ones. Raises SpeechError when the folder does not hold the
    model.
    """

    name = "moonshine"
    streams = False  # its encoder hears an utterance as a whole

    def __init__(self, model: Path) -> None:
        import onnxruntime

        self._value: Any = onnxruntime.OrtValue.ortvalue_from_numpy
        options: Any = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1  # a second one gains nothing on matrices this small
        options.enable_cpu_mem_arena = False  # as fast, and 60 MB less after a long utterance
        providers = ["CPUExecutionProvider"]
        try:
            self._encoder, self._decoder = (
                onnxruntime.InferenceSession(model / file, options, providers=providers)
                for file in ("encoder_model.ort", "decoder_model_merged.ort")
            )
            self._tokens = _read_tokens((model / "tokenizer.bin").read_bytes())
        except Exception as error:  # onnxruntime raises no narrower class
            raise SpeechError(f"{model}: cannot load Moonshine ({error})") from error
        self.embedding = no_embedding()
        self._start_s, self._draft = 0.0, list[int]()  # the last utterance, and its tokens
        self._outputs = [output.name for output in self._decoder.get_outputs()]
        self._past = [i.name for i in self._decoder.get_inputs() if i.name.startswith("past_")]

    def transcribe(
        self, samples: NDArray[np.float32], start_s: float, *, final: bool = True
    ) -> tuple[Word, ...]:
        """See `SpeechToText.transcribe`; word times are interpolated (see the class)."""
        self.embedding = no_embedding()
        if len(samples) < _MIN_SAMPLES:
            return ()
        draft = self._draft if not final and start_s == self._start_s else []
        try:
            tokens, score = self._decode(np.ascontiguousarray(samples, np.float32), draft)
        except Exception as error:  # onnxruntime raises no narrower class
            raise SpeechError(f"Moonshine failed while transcribing ({error})") from error
        self._start_s, self._draft = start_s, tokens
        text = b"".join(self._tokens[token] for token in tokens).decode(errors="ignore")
        words = [w for w in text.replace(_SPACE, " ").split() if any(c.isalnum() for c in w)]
        return tuple(
            Word(
                text=word,
                start_s=start_s + begin,
                end_s=start_s + end,
                confidence=float(np.exp(score)),
            )
            for word, (begin, end) in zip(words, _times(words, samples), strict=True)
        )

    def close(self) -> None:
        """Release the networks."""
        self._encoder = self._decoder = None

    def _decode(self, samples: NDArray[np.float32], draft: list[int]) -> tuple[list[int], float]:
        """Tokens of (n,) samples, always the likeliest next one, and their mean log-probability.

        `draft`: what they probably begin with; one pass of the decoder confirms as many of them as
        are right, where each token else takes a pass. The decoder's 8-bit numbers are scaled by the
        pass, so that a doubtful token may come out differently with a draft than without one.
        """
        hidden, mask = self._encode(samples)
        self.embedding = pooled(hidden[0], samples)
        nothing = self._value(np.zeros((1, _HEADS, 0, _HEAD_DIM), np.float32))
        feed: dict[str, Any] = dict.fromkeys(self._past, nothing)
        feed["encoder_hidden_states"] = self._value(hidden)
        feed["encoder_attention_mask"] = self._value(mask)
        tokens: list[int] = []
        scores: list[float] = []
        most = int(np.ceil(len(samples) / SPEC.sample_rate_hz * _TOKENS_PER_S))
        given = [_START, *draft[:most]]
        while True:
            feed["input_ids"] = self._value(np.array([given], np.int64))
            feed["use_cache_branch"] = self._value(np.array([bool(tokens)]))
            got = dict(
                zip(self._outputs, self._decoder.run_with_ort_values(None, feed), strict=True)
            )
            n_right = 0
            for logits, expected in zip(got["logits"].numpy()[0], [*given[1:], None], strict=True):
                last, score = _likeliest(logits)
                scores.append(score)
                if last == _END or len(tokens) == most:
                    return tokens, float(np.mean(scores))
                tokens.append(last)
                n_right += 1
                if period := _loop(tokens):
                    return tokens[: period - _LOOP_TOKENS], float(np.mean(scores))
                if last != expected:
                    break
            for name in self._past:
                made = got[name.replace("past_key_values", "present")]
                if ".decoder." in name:
                    feed[name] = made if n_right == len(given) else self._first(made, n_right)
                elif len(tokens) == n_right:
                    feed[name] = made  # the encoder's keys and values come once, then empty
            given = [last]

    def embed(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """The embedding of (n,) samples, without their words."""
        if len(samples) < _MIN_SAMPLES:
            return no_embedding()
        return pooled(self._encode(samples)[0][0], samples)

    def _encode(self, samples: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """States (1, T, 288) of the encoder for (n,) samples, and their mask."""
        mask = np.ones((1, len(samples)), np.int64)
        (hidden,) = self._encoder.run(None, {"input_values": samples[None], "attention_mask": mask})
        return hidden, mask

    def _first(self, made: Any, n: int) -> Any:
        """The keys or values of a pass's first `n` tokens."""
        return self._value(np.ascontiguousarray(made.numpy()[:, :, :n]))


def _likeliest(logits: NDArray[np.float32]) -> tuple[int, float]:
    """The token of (32768,) logits with the highest probability, and the logarithm of that."""
    best = int(logits.argmax())
    return best, -float(np.log(np.exp(logits - logits[best]).sum()))


def _read_tokens(content: bytes) -> list[bytes]:
    """Text of each token: one length byte, or two (low 7 bits first) from 128 on, then the text."""
    tokens, at = [], 0
    while at < len(content):
        length, at = content[at], at + 1
        if length >= 128:
            length, at = length - 128 + content[at] * 128, at + 1
        tokens.append(content[at : at + length])
        at += length
    return tokens


def _loop(tokens: list[int]) -> int:
    """Length of the phrase that the last 32 tokens repeat at least four times; 0 without one."""
    tail = tokens[-_LOOP_TOKENS:]
    if len(tail) == _LOOP_TOKENS:
        for period in range(1, _LOOP_PERIOD + 1):
            if tail[period:] == tail[:-period]:
                return period
    return 0


def _times(words: list[str], samples: NDArray[np.float32]) -> list[tuple[float, float]]:
    """(start, end) of each word in seconds from the first of (n,) `samples`; see `Moonshine`."""
    n = len(samples) // _FRAME
    power = (samples[: n * _FRAME].reshape(n, _FRAME) ** 2).mean(axis=1)
    power = np.convolve(power, np.ones(3) / 3, "same")
    sounding = power >= power.max() * _VOICED_BELOW_PEAK
    clock = np.concatenate([[0], np.cumsum(sounding)])  # (n + 1,) frames with sound before each
    length = np.cumsum([0, *(len(word) for word in words)])
    share = length / max(length[-1], 1) * clock[-1]
    # Where the clock stands still, a word that begins there begins after it, one that ends before.
    after = np.searchsorted(clock, share[:-1], "right") - 1
    before = np.searchsorted(clock, share[1:], "left")
    starts = after + share[:-1] - clock[after]
    ends = before + share[1:] - clock[before]
    found = np.minimum(np.stack([starts, ends]) * _FRAME, len(samples))  # (2, words), in samples
    seconds = found / SPEC.sample_rate_hz
    return [(float(start), float(end)) for start, end in seconds.T]
