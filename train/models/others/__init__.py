"""Models that the DMD is compared with; each file names its source. `new_model` makes any kind.

MulT and DHMD are the DMD with options (`train/comparison/models.py`).
"""

from runtime.errors import UsageError

from ...config import ModelConfig
from ..dmd import DMD
from ..inputs import Inputs
from ..language import LanguageEncoder
from .base import Comparator, Outcome
from .corrkd import CorrKD
from .late import Late
from .misa import MISA
from .pmr import PMR

__all__ = ["CORRKD", "KINDS", "Comparator", "CorrKD", "Outcome", "new_model"]

CORRKD = "corrkd"
KINDS: dict[str, type[Inputs]] = {
    "dmd": DMD,
    "misa": MISA,
    "pmr": PMR,
    CORRKD: CorrKD,
    "late": Late,
    "text": Late,
    "audio": Late,
    "vision": Late,
}


def new_model(config: ModelConfig, language: LanguageEncoder | None, n_emotions: int) -> Inputs:
    """An untrained model of `config.kind`. Raises UsageError for a kind that there is not."""
    if config.kind not in KINDS:
        raise UsageError(f"model.kind {config.kind!r}: there are {', '.join(KINDS)}")
    return KINDS[config.kind](config, language, n_emotions)
