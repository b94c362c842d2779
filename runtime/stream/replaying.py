"""What a replay takes from its recording, and what a recording says of who judged it."""

import logging
from typing import Any

from ..engines.base import Engine
from ..engines.choose import ENGINES
from ..features.spec import SPEC
from ..judging.calibration import CONVERSATION, PRIORS
from ..outputs.recording import Recording
from ..sources.base import Source
from ..store.bundle import Bundle
from .options import StreamOptions

__all__ = [
    "compare",
    "described",
    "engine_name",
    "explained",
    "identity",
    "per_person",
    "prior_of",
]

_logger = logging.getLogger("dmd_live")


def described(engine: Engine) -> dict[str, str]:
    """The engine's name and precision."""
    return {"engine": engine.name, "precision": engine.precision}


def engine_name(options: StreamOptions, source: Source | Recording) -> str:
    """A recording is judged by the engine it was made with: only that one gives equal bits."""
    if options.engine != "auto" or not isinstance(source, Recording):
        return options.engine
    recorded = source.header.get("engine")
    return recorded if recorded in ENGINES else "auto"


def prior_of(options: StreamOptions, source: Source | Recording) -> str:
    """How common emotions are: as asked, as in the recording, or as in conversation."""
    if options.prior is None and isinstance(source, Recording):
        recorded = source.header["prior"]
        return recorded if recorded in PRIORS else CONVERSATION
    return options.prior or CONVERSATION


def per_person(options: StreamOptions, source: Source | Recording) -> bool:
    """Whether each person is kept apart: as in the recording, or as asked."""
    return options.per_person or _recorded(source, "per_person")


def explained(options: StreamOptions, source: Source | Recording) -> bool:
    """Whether reasons name words: as in the recording, or as asked."""
    return options.explain or _recorded(source, "explain")


def _recorded(source: Source | Recording, switch: str) -> bool:
    """Whether it was on; in a recording that does not say so it was off."""
    return isinstance(source, Recording) and bool(source.header.get(switch, False))


def identity(bundle: Bundle, engine: Engine) -> dict[str, Any]:
    """What a recording says about who judged it."""
    return {
        "feature_spec_sha256": SPEC.sha256(),
        "bundle_sha256": bundle.info["bundle_sha256"],
        **described(engine),
    }


def compare(recording: Recording, now: dict[str, Any]) -> None:
    """Say it when a recording was judged by another model or engine than it now will be."""
    was = {"engine": "cpu", **recording.header}
    if any(was[name] != now[name] for name in ("bundle_sha256", "precision", "engine")):
        _logger.warning(
            "recorded with bundle %s (%s, %s), judged with %s (%s, %s): events may differ",
            was["bundle_sha256"][:12],
            was["engine"],
            was["precision"],
            now["bundle_sha256"][:12],
            now["engine"],
            now["precision"],
        )
