"""What a speech recogniser's encoder makes of a voice: its states, pooled over an utterance.

Such an encoder has heard far more voices than any corpus of emotions holds. Its states tell
emotions apart in strangers better than spectra do (Pepino et al., Interspeech 2021). They come with
the words, at no cost; voices are judged without them as well.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["EMBEDDING_DIM", "ENCODER_DIM", "blended", "no_embedding", "pooled"]

Float = NDArray[np.float32]

ENCODER_DIM = 288
"""Width of the encoder's states: moonshine-tiny-en."""
EMBEDDING_DIM = 2 * ENCODER_DIM
"""Numbers of an embedding."""

_STEP, _SPAN = 384, 895  # samples between two states, and that a state hears
_BELOW_PEAK = 1e-3  # -30 dB: sound that counts; the rest is pause


def no_embedding() -> Float:
    """(576,) zeros: the embedding is not known."""
    return np.zeros(EMBEDDING_DIM, np.float32)


def pooled(states: Float, samples: Float) -> Float:
    """(T, 288) states of the encoder for (n,) samples at 16 kHz -> (576,) mean and deviation.

    Pauses are left out: how long they are is up to the room and to where an utterance was cut.
    """
    power = np.concatenate([np.zeros(1), np.cumsum(np.square(samples, dtype=np.float64))])
    begin = np.minimum(np.arange(len(states)) * _STEP, len(samples))
    end = np.minimum(begin + _SPAN, len(samples))
    loudness = (power[end] - power[begin]) / np.maximum(end - begin, 1)
    loud = states[loudness >= loudness.max(initial=0.0) * _BELOW_PEAK]
    if not len(loud) or not np.isfinite(loud).all():
        return no_embedding()
    return np.concatenate([loud.mean(axis=0), loud.std(axis=0)]).astype(np.float32)


def blended(*parts: tuple[Float, float]) -> Float:
    """The embedding of an utterance in parts: embedding and seconds of each, known or not."""
    known = [(embedding, length_s) for embedding, length_s in parts if embedding.any()]
    if not known:
        return no_embedding()
    embeddings, lengths = zip(*known, strict=True)
    return np.average(embeddings, axis=0, weights=lengths).astype(np.float32)
