"""Configuration of a training run: read from TOML, overridden by `--set section.field=value`."""

import dataclasses
import hashlib
import json
import sys
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from runtime.errors import UsageError
from runtime.features.spec import SPEC

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "Config",
    "DataConfig",
    "DistillConfig",
    "LossConfig",
    "ModelConfig",
    "OptimConfig",
    "load",
    "read_toml",
]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Size and options of the DMD model. The paper's symbol of `dim` is d.

    The defaults are the deployable model. `configs/paper_mosi.toml` and `paper_mosei.toml` switch
    every option to what the published code does.
    """

    kind: str = "dmd"  # or a model to compare with: `KINDS` in train/models/others
    language: str = "all-minilm-l6-v2"  # name in the model store, Hugging Face name or folder
    language_layers: int = 3  # first layers kept; 0 keeps all
    vocabulary: int = 0  # word pieces kept, about: the commonest in the training texts; 0: all
    freeze_word_embeddings: bool = True
    train_language_layers: int = -1  # upper layers that learn, the rest is frozen; -1: all
    text_dim: int = 0  # width of ready text vectors; 0: the language encoder reads word pieces
    audio_dim: int = SPEC.audio_dim
    vision_dim: int = SPEC.vision_dim
    dim: int = 64
    n_heads: int = 4  # head width dim / n_heads, and 2 dim / n_heads in the memory transformers
    n_layers: int = 2
    kernel_text: int = 1
    kernel_audio: int = 5
    kernel_vision: int = 5
    front_audio: int = 0  # width of two more convolutions before the audio branch's; 0: none
    statistics_audio: int = 0  # hidden width of what a voice is on the whole; 0: rows alone
    embedding_audio: int = 0  # hidden width of what a recogniser heard of a voice; 0: not used
    stride_audio: int = 3  # 25 rows a second are more than prosody needs
    stride_vision: int = 2
    gd_hidden: int = 64
    gd_hidden_hetero: int = 64
    dropout: float = 0.1  # residual and feed-forward branches of the transformers
    dropout_embed: float = 0.1
    dropout_text: float = 0.0  # on the language branch's output
    dropout_attention_text: float = 0.0  # by the modality attended to; memory takes text's
    dropout_attention_audio: float = 0.0
    dropout_attention_vision: float = 0.0
    dropout_head: float = 0.2
    standardise: bool = True  # raw rows by statistics of the training set
    masked: bool = True  # padding is masked; else it is data, and convolutions do not pad
    causal: bool = False
    published_positions: bool = False
    summary: str = "attention"  # or "last": the last time step
    gate: str = "softmax"  # over modalities; or "sigmoid": replaces the features, as published
    n_steps_text: int = 0  # fixed lengths before the convolutions; the homogeneous heads then read
    n_steps_audio: int = 0  # flattened time. 0: any length, and they read the summary
    n_steps_vision: int = 0
    orthogonal: bool = False  # C and P start as rotations of X~; torch's own start halves lengths
    decoupled: bool = True  # false: both spaces are X~ itself
    common_branch: bool = True  # false: the crossmodal branch alone, as in MulT


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the loss terms; names as in the paper where it names them."""

    lambda_decoupling: float = 0.1
    lambda_distillation: float = 0.05
    gamma: float = 0.1  # margin and orthogonality inside the decoupling loss
    margin: float = 0.2  # between emotions; times the sentiment gap where only that is labelled
    unimodal: float = 0.5  # task terms of the single-modality heads, homogeneous and heterogeneous
    sentiment: float = 0.5  # L1 of the sentiment against cross-entropy of the emotion
    arousal: float = 0.5  # L1 of the arousal against cross-entropy of the emotion
    edge_regularisation: float = 10.0
    edge_temperature: float = 8.0
    label_smoothing: float = 0.05
    doubt: float = 0.0  # target probability of what contradicts the other modalities
    lambda_teacher: float = (
        1.0  # soft targets of a teacher DMD that misses nothing, if there is one
    )
    teacher_temperature: float = 2.0
    decoupling: bool = True  # switches of the ablations: false leaves the terms out
    use_margin: bool = True
    homo_gd: bool = True
    hetero_gd: bool = True
    homo_prior: str = "text>audio text>vision"  # teacher>student: what edges are drawn to; the
    hetero_prior: str = "text>audio text>vision vision>audio"  # defaults are the published ones
    distil_by_divergence: bool = False  # of the emotions; false: L1 of all outputs, as published
    learned_edges: bool = True  # false: fixed strengths, conventional distillation
    edge_rule: str = "published"  # how they are learned: `RULES` in train/models/gd_unit.py
    edge_mixture: float = 1.0  # how right a mixture of teachers is, under rules that ask for it
    lambda_dictionary: float = 0.0  # DHMD's dictionary matching: train/models/dictionary.py
    dictionary_atoms: int = 256


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How utterances are composed from the corpora."""

    # Names in train/data/corpora.py; and `prototypes`, faces that need no photographs.
    corpora: str = "goemotions meld vader emodb ravdess ckplus48"
    sentiment_scale: float = 3.0  # largest rating in a feature file's own unit; the file says it
    utterances_per_epoch: int = 6_000
    n_valid: int = 700
    n_test: int = 1_400
    modality_dropout: float = 0.5  # share of whole utterances that keep part of their modalities
    class_power: float = 0.5  # emotions are drawn with frequency n ** class_power
    word_drop: float = 0.0  # share of training words that a recogniser would miss
    word_confusion: float = 0.0  # share taken for another word that sounds alike
    unlabelled_share: float = 0.0  # share of whole utterances without labels, made of parts that
    labelled_parts: float = 1.0  # are not among this share of sentences, voices and faces
    unheard_share: float = 1.0  # share of voices without a recogniser's embedding; 1: none has one
    rated_share: float = 0.2  # share of whole utterances replaced by rated sentences (text only)
    text_repeats: str = ""  # such as "mosi:4": times each sentence of a corpus comes in a pass
    text_limits: str = ""  # such as "goemotions:8000": sentences of a corpus, drawn by the seed
    n_told: int = 0  # sentences that words alone are calibrated and tested on; 0: all
    text_share: float = 0.0  # share of batches that are sentences alone, in natural frequency
    audio_share: float = 0.0  # share of batches that are voices alone
    vision_share: float = 0.0  # share of batches that are faces alone
    neutral_share: float = 0.0  # share of whole utterances with one or two neutral modalities
    face_power: float = 0.5  # faces alone are drawn with frequency n ** face_power
    neutral_weight: float = 1.0  # of neutral voices and faces alone; that of every other is 1
    conflict_share: float = 0.0  # share in which one modality contradicts the other two:
    strange_share: float = 0.0  # share in which one modality is from another world, and no use:
    # the same weights say which
    flat_share: float = 0.0  # of strange voices, how many are synthetic: flat by nature
    conflict_text: float = 1.0  # weights of who contradicts; best in proportion to how often each
    conflict_audio: float = 1.0  # is wrong about strangers, since in training hardly any is
    conflict_vision: float = 1.0


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """How `train.stages` differs for the teacher; and its stage 2, in which the small language
    encoder learns from the teacher's."""

    teacher_epochs: int = 0  # instead of `optim.epochs`; 0: the same
    teacher_language_layers: int = -1  # its upper layers that learn; -1: all
    teacher_learning_rate: float = 0.0  # instead of `optim.language_learning_rate`; 0: the same
    student_layers: int = 3  # first layers of `model.language`; 0 keeps all
    student_width: int = 0  # hidden size; 0 keeps it
    vocabulary: int = 0  # word pieces kept, about; 0 keeps all
    relation_heads: int = 12  # must divide both widths
    relations: float = 1.0  # weight of MiniLMv2's query, key and value relations
    hidden: float = 1.0  # weight of TinyBERT's last hidden states
    embeddings: float = 0.1
    soft: float = 1.0  # weight of the task's soft targets
    temperature: float = 2.0
    n_sentences: int = 20_000
    epochs: int = 2
    batch_size: int = 32
    learning_rate: float = 3e-4


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW with linear warm-up and cosine decay; early stopping on the validation score."""

    epochs: int = 4
    batch_size: int = 32
    learning_rate: float = 1e-3
    language_learning_rate: float = 8e-5
    weight_decay: float = 0.01
    warmup_share: float = 0.1
    clip_norm: float = 1.0
    accumulate: int = 1  # batches a step
    precision: str = "fp32"  # or "bf16": mixed precision
    stop_after: int = 0  # epochs, of a schedule made for all of them; 0: none
    patience: int = 2  # epochs without a better validation score before stopping
    n_threads: int = 0  # of torch on the CPU, whose sums round by their number; 0: its own choice


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run; equal configurations with equal seeds give equal checkpoints on one machine."""

    seed: int = 1
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)

    def sha256(self) -> str:
        """Hash that tells whether an interrupted run was made with this configuration."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def read_toml(path: Path, way_out: str) -> dict[str, Any]:
    """The table in a file; raises UsageError, with the way out where it cannot be opened."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; {way_out}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not a TOML file ({error})") from error


def load(path: Path, overrides: tuple[str, ...] = (), seed: int | None = None) -> Config:
    """Read a TOML file; each override is `section.field=value` with a TOML value.

    Raises UsageError for a missing or malformed file, an unknown name or a wrong type.
    """
    table = read_toml(path, "pass a TOML file with --config")
    for override in overrides:
        try:
            update = tomllib.loads(override)
        except tomllib.TOMLDecodeError:
            raise UsageError(
                f"--set {override}: write section.field=value, with text in quotes"
            ) from None
        for section, value in update.items():
            merged = isinstance(value, dict) and isinstance(table.get(section), dict)
            table[section] = {**table[section], **value} if merged else value
    if seed is not None:
        table["seed"] = seed
    found: Config = _fill(Config, table, str(path))
    _check(found, str(path))
    return found


def from_dict(table: dict[str, Any]) -> Config:
    """The configuration that a checkpoint's JSON holds."""
    return _fill(Config, table, "checkpoint.json")


def _check(config: Config, where: str) -> None:
    """Raises UsageError for values that would silently stand for others, or fail much later."""
    data, optim = config.data, config.optim
    for name, value, known in (
        ("model.summary", config.model.summary, ("attention", "last")),
        ("model.gate", config.model.gate, ("softmax", "sigmoid")),
        ("optim.precision", optim.precision, ("fp32", "bf16")),
    ):
        if value not in known:
            raise UsageError(f"{where}: {name} is {' or '.join(known)}, not {value!r}")
    shares = data.text_share, data.audio_share, data.vision_share
    if min(shares) < 0.0 or sum(shares) > 1.0:
        raise UsageError(f"{where}: text_share, audio_share and vision_share add up to 1 at most")
    for name, n in (("epochs", optim.epochs), ("batch_size", optim.batch_size)):
        if n < 1:
            raise UsageError(f"{where}: optim.{name} must be 1 or more")


def _fill(kind: Any, table: dict[str, Any], where: str) -> Any:
    defaults = {item.name: item for item in fields(kind)}
    values: dict[str, Any] = {}
    for name, value in table.items():
        if name not in defaults:
            known = ", ".join(defaults)
            raise UsageError(f"{where}: unknown option {name!r}; the options here are: {known}")
        default = getattr(kind(), name)
        if dataclasses.is_dataclass(default):
            if not isinstance(value, dict):
                raise UsageError(f"{where}: {name} is a section, not a value")
            values[name] = _fill(type(default), value, where)
        elif type(value) is type(default) or (type(default) is float and type(value) is int):
            values[name] = type(default)(value)
        else:
            raise UsageError(f"{where}: {name} must be {type(default).__name__}, got {value!r}")
    return kind(**values)
