"""Self-test: an engine must give the known outputs of known utterances.

`golden.json` of a bundle holds a few utterances and what the fp32 graph made of them at export
(`export.readout` renews what it fits). An engine that was built for something else, or a processor
that cannot compute a precision, is found out before it says anything about anybody.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError
from ..features.embedding import no_embedding
from ..features.pack import Rows, pack
from ..features.spec import SPEC
from ..store.bundle import Bundle
from .base import Engine

__all__ = ["GOLDEN", "check", "differences", "record", "renewed"]

GOLDEN = "golden.json"
# Largest difference of any output, in its own unit. Quantized models differ by 0.01 where they are
# right, and by 1.8 where all scales are wrong by half.
_TOLERANCE = {"fp32": 1e-3, "fp16": 0.03}
_QUANTIZED = 0.15


def record(engine: Engine, utterances: Sequence[Rows]) -> bytes:
    """What `golden.json` holds: the rows and what `engine` makes of them."""
    items = []
    for rows in utterances:
        inputs = {name: values.round(3).tolist() for name, values in asdict(rows).items()}
        outputs = engine.infer(pack(_rows(inputs)))
        items.append({"rows": inputs, "outputs": {n: v[0].tolist() for n, v in outputs.items()}})
    return (json.dumps(items) + "\n").encode()


def renewed(known: bytes, engine: Engine, outputs: Sequence[str]) -> bytes:
    """`golden.json` with these outputs as `engine` makes them of the same rows."""
    items = json.loads(known)
    for item in items:
        found = engine.infer(pack(_rows(item["rows"])))
        item["outputs"] |= {name: found[name][0].tolist() for name in outputs}
    return (json.dumps(items) + "\n").encode()


def check(engine: Engine, bundle: Bundle) -> None:
    """Raises EngineError when an output differs by more than the engine's precision explains; a
    bundle without `golden.json` passes."""
    most = _TOLERANCE.get(engine.precision, _QUANTIZED)
    for name, gap in differences(engine, bundle).items():
        if not gap <= most:
            raise EngineError(
                f"the engine computes {engine.precision} wrong here: {name} of a known utterance "
                f"is off by {gap:.2f}, over {most}; use another engine, or a bundle in fp32"
            )


def differences(engine: Engine, bundle: Bundle) -> dict[str, float]:
    """By output, how far the engine is at most from what the bundle's `golden.json` holds, of
    emotions in probability; nothing for a bundle without it."""
    if GOLDEN not in bundle.info["files"]:
        return {}
    gaps: dict[str, float] = {}
    for item in json.loads((bundle.folder / GOLDEN).read_bytes()):
        found = engine.infer(pack(_rows(item["rows"])))
        for name, wanted in item["outputs"].items():
            values = found[name][0], np.asarray(wanted)
            if name == "emotion":  # logits: those of an unlikely emotion may differ by more
                values = _shares(values[0]), _shares(values[1])
            gap = float(np.abs(values[0] - values[1]).max())
            gaps[name] = float(np.maximum(gaps.get(name, 0.0), gap))  # NaN stays
    return gaps


def _shares(logits: NDArray[Any]) -> NDArray[Any]:
    found = np.exp(logits - logits.max())
    return np.asarray(found / found.sum())


def _rows(stored: dict[str, Any]) -> Rows:
    return Rows(
        text=np.asarray(stored["text"], np.int64),
        audio=np.asarray(stored["audio"], np.float32).reshape(-1, SPEC.audio_dim),
        vision=np.asarray(stored["vision"], np.float32).reshape(-1, SPEC.vision_dim),
        audio_embedding=np.asarray(stored.get("audio_embedding", no_embedding()), np.float32),
    )
