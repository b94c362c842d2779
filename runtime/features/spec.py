"""The feature contract: every number that decides what a feature row means, and its hash.

Training writes the hash into the bundle; the runtime refuses a bundle made under another one.
"""

import hashlib
import json
from dataclasses import asdict, dataclass

__all__ = ["BLENDSHAPES", "MODALITIES", "SPEC", "FeatureSpec"]

MODALITIES = ("text", "audio", "vision")

# MediaPipe's face_blendshapes_graph.cc, kBlendshapeNames: the order of the network's 52 outputs.
BLENDSHAPES = tuple(
    [
        "_neutral",
        "browDownLeft",
        "browDownRight",
        "browInnerUp",
        "browOuterUpLeft",
        "browOuterUpRight",
        "cheekPuff",
        "cheekSquintLeft",
        "cheekSquintRight",
        "eyeBlinkLeft",
        "eyeBlinkRight",
        "eyeLookDownLeft",
        "eyeLookDownRight",
        "eyeLookInLeft",
        "eyeLookInRight",
        "eyeLookOutLeft",
        "eyeLookOutRight",
        "eyeLookUpLeft",
        "eyeLookUpRight",
        "eyeSquintLeft",
        "eyeSquintRight",
        "eyeWideLeft",
        "eyeWideRight",
        "jawForward",
        "jawLeft",
        "jawOpen",
        "jawRight",
        "mouthClose",
        "mouthDimpleLeft",
        "mouthDimpleRight",
        "mouthFrownLeft",
        "mouthFrownRight",
        "mouthFunnel",
        "mouthLeft",
        "mouthLowerDownLeft",
        "mouthLowerDownRight",
        "mouthPressLeft",
        "mouthPressRight",
        "mouthPucker",
        "mouthRight",
        "mouthRollLower",
        "mouthRollUpper",
        "mouthShrugLower",
        "mouthShrugUpper",
        "mouthSmileLeft",
        "mouthSmileRight",
        "mouthStretchLeft",
        "mouthStretchRight",
        "mouthUpperUpLeft",
        "mouthUpperUpRight",
        "noseSneerLeft",
        "noseSneerRight",
    ]
)


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """All constants of feature extraction. Lengths are samples at `sample_rate_hz` unless named."""

    version: int = 3
    max_utterance_s: float = 15.0

    max_pieces: int = 64  # WordPieces, [CLS] and [SEP] included
    strip_punctuation: bool = True  # recognisers differ in punctuation; words are what they share

    sample_rate_hz: int = 16_000
    hop: int = 640  # 25 rows a second
    window: int = 1_024  # 64 ms: two periods of the lowest F0 looked for
    n_mels: int = 40
    mel_low_hz: float = 60.0
    mel_high_hz: float = 7_600.0
    log_floor: float = 1e-7  # added to mel and frame energy before the natural logarithm
    f0_low_hz: float = 60.0
    f0_high_hz: float = 500.0
    voicing_threshold: float = 0.5  # normalised autocorrelation above which a frame has an F0

    # Running statistics of a session's speech (normal.py), in voiced rows: how many are remembered,
    # what the prior counts for, and what the utterance itself counts for where deviations are told.
    speech_memory: float = 1_500.0
    speech_prior: float = 75.0
    speech_own: float = 25.0
    # The prior, from the training voices: log-mel bands and log-energy against the mean of the
    # bands, for the gain is unknown; pitch in octaves around 150 Hz; deviations.
    # fmt: off
    speech_shape: tuple[float, ...] = (
        -0.7, 1.6, 3.1, 3.3, 2.9, 2.8, 2.7, 2.6, 2.1, 1.5, 1.1, 0.7, 0.5, 0.5, 0.4, 0.4, 0.3,
        0.3, 0.3, 0.1, -0.1, -0.3, -0.3, -0.2, -0.1, -0.2, -0.5, -0.7, -0.7, -0.9, -1.1, -1.4,
        -1.7, -2.1, -2.4, -2.6, -2.7, -2.8, -2.8, -3.0,
    )
    # fmt: on
    speech_energy: float = 2.1
    speech_f0: float = 0.4
    speech_deviation: float = 3.3
    speech_energy_deviation: float = 2.2
    speech_f0_deviation: float = 0.6

    vision_rate_hz: float = 15.0
    vision_hold_s: float = 0.2  # a row stays valid this long when frames are late or missing
    min_face_score: float = 0.5
    blendshapes: tuple[str, ...] = BLENDSHAPES
    head_pose: tuple[str, ...] = ("yaw", "pitch", "roll", "x", "y", "scale")
    face_model_sha256: str = "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff"
    appearance_size: int = 48  # side of the aligned grey face, pixels
    appearance_dim: int = 32
    appearance_sha256: str = "2e3f982fb1ffec158f75ccd46e0854f28979d8f8c1417d61dabe74ac16cc8892"
    # What hears voices (embedding.py): the encoder of moonshine-tiny-en.
    encoder_sha256: str = "94e90a4654fc45cdfedb77c4c08e1739f48862998e58fada384b25118134f221"

    @property
    def audio_dim(self) -> int:
        """Columns of an audio row: log-mel bands, then log-F0, voicing and log-energy."""
        return self.n_mels + 3

    @property
    def vision_dim(self) -> int:
        """Columns of a vision row: blendshapes, head pose, appearance, face-present flag."""
        return len(self.blendshapes) + len(self.head_pose) + self.appearance_dim + 1

    @property
    def audio_rate_hz(self) -> float:
        """Audio rows a second."""
        return self.sample_rate_hz / self.hop

    def sha256(self) -> str:
        """Hash of the canonical JSON of all fields: the identity of this contract."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


SPEC = FeatureSpec()
