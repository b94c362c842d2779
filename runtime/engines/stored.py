"""Engine files of TensorRT: where they lie, and which of them fits this machine.

An engine fits one graph, one version of TensorRT and some GPUs. One that does not fit is not
loaded: TensorRT would refuse it late, or worse, run it. `python -m export.trt` writes them, each
with a JSON that says what it is.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from ..errors import EngineError
from ..store.bundle import Bundle
from ..store.models import cache_folder

__all__ = ["BACKENDS", "SOURCES", "built", "find", "folders"]

# Backend -> its Python module.
BACKENDS = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}
# An engine's precision -> models of a bundle that it may be built from, the first that is there.
# In the order in which engines are taken: fp16 halves the traffic of fp32 at next to no loss, and
# int8 is seldom faster than it on a transformer of this size, only less exact. `auto` measures.
SOURCES = {
    "fp16": ("fp16", "fp32"),
    "mixed": ("mixed",),
    "int8": ("int8-qdq",),
    "fp32": ("fp32",),
}
_DAMAGED = (ValueError, KeyError, TypeError, AttributeError)  # what JSON of another form raises


def folders(bundle: Bundle) -> tuple[Path, Path]:
    """Where engines lie: in the bundle, and in the cache for a bundle that cannot be written."""
    return bundle.folder / "engines", cache_folder() / "engines"


def built(bundle: Bundle, backend: str) -> list[str]:
    """Precisions of the bundle's engines, the preferred first; whether they fit here is open."""
    found = []
    for about in _descriptions(bundle, backend):
        try:
            facts = json.loads(about.read_text(encoding="utf-8"))
            if _is_of(facts, bundle):
                found.append(str(facts["precision"]))
        except (OSError, *_DAMAGED):
            continue
    return list(dict.fromkeys(found))


def find(
    bundle: Bundle,
    backend: str,
    *,
    version: str,
    capability: str,
    driver: int,
    precision: str | None = None,
) -> tuple[bytes, str]:
    """The first engine that fits this TensorRT and GPU, and its precision, in `SOURCES`' order.

    `version` of the backend, `capability` and `driver` as `gpu` tells; `precision`: the only one
    wanted. Raises EngineError that says of each engine that is there why it does not fit.
    """
    inside, reasons = folders(bundle)[0], []
    for about in _descriptions(bundle, backend):
        try:
            facts = json.loads(about.read_text(encoding="utf-8"))
            if precision not in (None, facts["precision"]):
                continue
            if not _is_of(facts, bundle):
                if about.parent == inside:  # those in the cache are of any bundle
                    reasons.append(f"{about.stem} was built from another graph")
                continue
            reason = _misfit(facts, version, capability, driver)
            if not reason:
                content = (about.parent / Path(facts["engine"]).name).read_bytes()
                if hashlib.sha256(content).hexdigest() == facts["engine_sha256"]:
                    return content, str(facts["precision"])
                reason = "is truncated or altered"
        except OSError as error:
            reason = f"cannot be read ({error.strerror})"
        except _DAMAGED:
            reason = "has a damaged description"
        reasons.append(f"{about.stem} {reason}")
    found = "; ".join(reasons) or f"no engine for it in {inside}"
    raise EngineError(
        f"{found}; build one: python -m export.trt --bundle {bundle.folder} --backend {backend}"
    )


def _descriptions(bundle: Bundle, backend: str) -> list[Path]:
    """The JSON files beside engines, named backend-precision-key, the preferred first."""
    paths = [p for folder in folders(bundle) for p in sorted(folder.glob(f"{backend}-*-*.json"))]
    order = list(SOURCES)
    named = [p for p in paths if p.suffixes == [".json"] and p.stem.split("-")[1] in order]
    return sorted(named, key=lambda path: order.index(path.stem.split("-")[1]))


def _is_of(facts: dict[str, Any], bundle: Bundle) -> bool:
    """Whether the engine was built from a graph of this bundle that gives its precision."""
    model = bundle.info["models"].get(facts["model"])
    return (
        model is not None
        and facts["model"] in SOURCES[facts["precision"]]
        and facts["onnx_sha256"] == bundle.info["files"][model]
    )


def _misfit(facts: dict[str, Any], version: str, capability: str, driver: int) -> str:
    """Why an engine of the bundle does not fit this machine, "" when it does."""
    if facts["version"] != version:
        return f"was built by version {facts['version']}, {version} is here"
    if capability not in facts["targets"]:
        return f"was built for {', '.join(facts['targets'])}, this GPU is {capability}"
    if facts.get("driver", driver) != driver:
        return f"was built with CUDA driver {facts['driver']}, {driver} is here"
    return ""
