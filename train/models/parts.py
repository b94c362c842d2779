"""The modules that a DMD is made of, chosen by its configuration."""

from torch import nn

from runtime.features.embedding import EMBEDDING_DIM
from runtime.features.spec import MODALITIES, SPEC

from ..config import ModelConfig
from .front import ConvFront, Embedding, MaskedConv, Normalise, NormaliseVision, Statistics
from .fusion import SigmoidGate, SoftmaxGate
from .layers import AttentionPool, LastStep
from .transformer import Transformer, TransformerConfig

__all__ = [
    "embedding",
    "flattened",
    "fusion",
    "normalisation",
    "projections",
    "statistics",
    "summary",
    "transformer",
]


def normalisation(config: ModelConfig) -> nn.ModuleDict:
    """By modality, what standardises its rows; nothing where the data set has done it."""
    if not config.standardise:
        return nn.ModuleDict()
    # The runtime's own rows have columns of known meaning; others are just numbers.
    own = config.vision_dim == SPEC.vision_dim
    vision = NormaliseVision() if own else Normalise(config.vision_dim)
    return nn.ModuleDict({"audio": Normalise(config.audio_dim), "vision": vision})


def projections(config: ModelConfig, language_dim: int | None) -> nn.ModuleDict:
    """By modality, the convolution to the common width. `language_dim`: of the encoder, if any."""
    dims = (
        config.text_dim if language_dim is None else language_dim,
        config.audio_dim,
        config.vision_dim,
    )
    strides = (1, config.stride_audio, config.stride_vision)
    shapes = zip(MODALITIES, dims, _kernels(config), strides, strict=True)
    found = nn.ModuleDict(
        {
            m: MaskedConv(dim, config.dim, kernel, stride, pad=config.masked)
            for m, dim, kernel, stride in shapes
        }
    )
    if config.front_audio:
        found["audio"] = ConvFront(
            config.audio_dim,
            config.front_audio,
            config.dim,
            config.kernel_audio,
            config.stride_audio,
            config.dropout_head,
        )
    return found


def statistics(config: ModelConfig) -> Statistics | None:
    """What sums up a whole voice, if that is wanted."""
    if not config.statistics_audio:
        return None
    return Statistics(config.audio_dim, config.statistics_audio, config.dim, config.dropout_head)


def embedding(config: ModelConfig) -> Embedding | None:
    """What reads a recogniser's embedding of a voice, if that is wanted."""
    if not config.embedding_audio:
        return None
    width = config.embedding_audio
    return Embedding(EMBEDDING_DIM, width, config.dim, config.dropout_head)


def transformer(config: ModelConfig, dim: int, source: str) -> Transformer:
    """A transformer of width `dim` that attends to `source`, whose dropout it has."""
    dropout = {
        "text": config.dropout_attention_text,
        "audio": config.dropout_attention_audio,
        "vision": config.dropout_attention_vision,
    }
    return Transformer(
        dim,
        TransformerConfig(
            n_heads=config.n_heads,
            n_layers=config.n_layers,
            dropout=config.dropout,
            dropout_embed=config.dropout_embed,
            dropout_attention=dropout[source],
            causal=config.causal,
            published_positions=config.published_positions,
        ),
    )


def summary(config: ModelConfig, dim: int) -> LastStep | AttentionPool:
    """What makes one vector of a sequence of width `dim`."""
    return LastStep() if config.summary == "last" else AttentionPool(dim)


def flattened(config: ModelConfig) -> dict[str, int] | None:
    """By modality, the width of its rows side by side, as the published heads read them; None
    where the number of rows is not fixed."""
    steps = (config.n_steps_text, config.n_steps_audio, config.n_steps_vision)
    if not all(steps):
        return None
    lengths = zip(MODALITIES, steps, _kernels(config), strict=True)
    return {m: config.dim * (n - kernel + 1) for m, n, kernel in lengths}


def fusion(config: ModelConfig) -> SigmoidGate | SoftmaxGate:
    """The gate that weighs the modalities."""
    if config.gate == "sigmoid":
        return SigmoidGate(config.dim)
    return SoftmaxGate(config.dim, config.dropout_head)


def _kernels(config: ModelConfig) -> tuple[int, int, int]:
    return config.kernel_text, config.kernel_audio, config.kernel_vision
