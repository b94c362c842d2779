"""Which engine runs a bundle: the one that is named, or the fastest that runs here."""

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ..bundle import Bundle
from ..errors import BundleError, EngineError, UsageError
from ..features.pack import Rows, pack
from ..features.spec import SPEC
from ..models import cache_folder
from . import gpu
from .base import Engine
from .golden import check
from .ort import PROVIDERS, OrtEngine
from .trt import BACKENDS, TrtEngine

__all__ = ["ENGINES", "fastest", "open_engine"]

ENGINES = ("auto", *PROVIDERS, *BACKENDS)
_N_WARM, _N_TIMED = 5, 30
_FILE = "engines.json"
_logger = logging.getLogger("dmd_live")


def open_engine(bundle: Bundle, wanted: str = "auto") -> Engine:
    """The engine `wanted`, one of `ENGINES`, after its self-test.

    An engine other than the CPU's that cannot be opened or computes wrong gives way to it, and one
    line says so. `auto` measures what can run here at the first start and remembers it. Raises
    UsageError for an unknown name, BundleError or EngineError when the CPU cannot run the bundle.
    """
    if wanted not in ENGINES:
        raise UsageError(f"no engine {wanted!r}; there are: {', '.join(ENGINES)}")
    if wanted == "auto":
        names = _possible(bundle)
        wanted = names[0]
        if len(names) > 1:
            key = f"{bundle.info['bundle_sha256'][:16]} {' '.join(names)} {gpu.driver_version()}"
            makers = {name: lambda name=name: _open(bundle, name) for name in names}
            return fastest(makers, key, cache_folder())
    if wanted != "cpu":
        try:
            return _open(bundle, wanted)
        except (EngineError, BundleError) as error:
            _logger.warning("engine %s: %s; the CPU is used", wanted, error)
    return _open(bundle, "cpu")


def fastest(makers: Mapping[str, Callable[[], Engine]], key: str, folder: Path) -> Engine:
    """The engine that takes least time, or the one that did when `key` was measured before.

    One that cannot be made is left out with a line that says why; the last error is raised when
    none can. What was found is kept in `folder`; where that cannot be written, a line says so.
    """
    path = folder / _FILE
    known = _read(path)
    if known.get(key) in makers:
        try:
            return makers[known[key]]()
        except (EngineError, BundleError) as error:
            _logger.warning("engine %s ran before and does not now (%s)", known[key], error)
    engines: dict[str, tuple[float, Engine]] = {}
    for name, make in makers.items():
        try:
            engine = make()
            engines[name] = _milliseconds(engine), engine
        except (EngineError, BundleError) as error:
            _logger.warning("engine %s: %s", name, error)
            failure = error
    if not engines:
        raise failure
    best = min(engines, key=lambda name: engines[name][0])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        partial.write_text(json.dumps({**known, key: best}, indent=1), encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        _logger.warning("%s: %s; engines are measured again next time", path, error.strerror)
    return engines[best][1]


def _read(path: Path) -> dict[str, str]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _possible(bundle: Bundle) -> list[str]:
    """Engines worth a try, the CPU first: none but it without a GPU."""
    try:
        gpu.capability()
    except EngineError:
        return ["cpu"]
    import onnxruntime

    found = onnxruntime.get_available_providers()
    names = ["cpu"]
    if _float_precision(bundle):
        names += [n for n, provider in PROVIDERS.items() if n != "cpu" and provider in found]
    for backend, module in BACKENDS.items():
        if find_spec(module) and list((bundle.folder / "engines").glob(f"{backend}-*.json")):
            names.append(backend)
    return names


def _open(bundle: Bundle, name: str) -> Engine:
    if name in BACKENDS:
        engine = TrtEngine(bundle, name)
        check(engine, bundle)
        return engine
    if name != "cpu":  # a GPU does not run a CPU's int8
        precision = _float_precision(bundle)
        if precision is None:
            raise EngineError("the bundle has no fp16 or fp32 model, which a GPU needs")
        bundle = Bundle.load(bundle.folder, precision)
    made = OrtEngine(bundle.model, precision=bundle.precision, provider=name)
    check(made, bundle)
    return made


def _float_precision(bundle: Bundle) -> str | None:
    return next((p for p in ("fp16", "fp32") if p in bundle.info["models"]), None)


def _milliseconds(engine: Engine) -> float:
    """Median time of an utterance of 4 s with all modalities."""
    inputs = pack(
        Rows(
            text=np.full(20, 2_000, np.int64),
            audio=np.zeros((round(4 * SPEC.audio_rate_hz), SPEC.audio_dim), np.float32),
            vision=np.zeros((round(4 * SPEC.vision_rate_hz), SPEC.vision_dim), np.float32),
        )
    )
    times = []
    for k in range(_N_WARM + _N_TIMED):
        start = time.monotonic()
        engine.infer(inputs)
        if k >= _N_WARM:
            times.append(time.monotonic() - start)
    return 1e3 * float(np.median(times))
