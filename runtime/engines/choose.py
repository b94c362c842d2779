"""Which engine runs a bundle: the one that is named, or the fastest that runs here."""

import json
import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ..errors import DmdLiveError, EngineError, UsageError
from ..features.pack import Rows, pack
from ..features.spec import SPEC
from ..store.bundle import Bundle
from ..store.models import cache_folder
from ..system.files import write_file
from . import gpu
from .base import Engine
from .golden import check
from .ort import PROVIDERS, OrtEngine
from .stored import BACKENDS, built
from .trt import TrtEngine

__all__ = ["ENGINES", "candidates", "fastest", "open_engine"]

ENGINES = ("auto", *PROVIDERS, *BACKENDS)
_N_WARM, _N_TIMED = 5, 30
_FILE = "engines.json"
_logger = logging.getLogger("dmd_live")

Makers = Mapping[str, Callable[[], Engine]]


def open_engine(bundle: Bundle, wanted: str = "auto") -> Engine:
    """The engine `wanted`, one of `ENGINES`, after its self-test.

    An engine other than the CPU's that cannot be opened or computes wrong gives way to it, and one
    line says so. `auto` measures what can run here at the first start and remembers it. Raises
    UsageError for an unknown name, BundleError or EngineError when the CPU cannot run the bundle.
    """
    if wanted not in ENGINES:
        raise UsageError(f"no engine {wanted!r}; there are: {', '.join(ENGINES)}")
    if wanted == "auto":
        makers = candidates(bundle)
        if len(makers) > 1:
            key = f"{bundle.info['bundle_sha256'][:16]} {gpu.driver_version()} {', '.join(makers)}"
            return fastest(makers, key, cache_folder())
    elif wanted != "cpu":
        try:
            return _open(bundle, wanted)
        except DmdLiveError as error:
            _logger.warning("engine %s: %s; the CPU is used", wanted, error)
    return _open(bundle, "cpu")


def fastest(makers: Makers, key: str, folder: Path) -> Engine:
    """The engine that takes least time, or the one that did when `key` was measured before.

    One that cannot be made is left out with a line that says why; the last error is raised when
    none can. What was found is kept in `folder`; where that cannot be written, a line says so.
    """
    path = folder / _FILE
    known = _read(path)
    if known.get(key) in makers:
        try:
            return makers[known[key]]()
        except DmdLiveError as error:
            _logger.warning("engine %s ran before and does not now: %s", known[key], error)
    _logger.warning("first start like this: measuring %s", ", ".join(makers))
    best, engine = _measured(makers)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_file(path, json.dumps({**known, key: best}, indent=1).encode())
    except OSError as error:
        _logger.warning("%s: %s; engines are measured again next time", path, error.strerror)
    return engine


def _measured(makers: Makers) -> tuple[str, Engine]:
    """Name and engine of the fastest."""
    best: tuple[float, str, Engine] | None = None
    reasons: dict[str, DmdLiveError] = {}
    for name, make in makers.items():
        try:
            engine = make()
            took_ms = _milliseconds(engine)
        except DmdLiveError as error:
            if str(error) not in reasons:  # one line for all precisions of a backend
                _logger.warning("engine %s: %s", name, error)
            reasons[str(error)] = error
            continue
        if best is None or took_ms < best[0]:
            best = took_ms, name, engine
    if best is None:
        raise list(reasons.values())[-1]
    return best[1:]


def _read(path: Path) -> dict[str, str]:
    """What was measured before; nothing where that is not known."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    pairs = known.items() if isinstance(known, dict) else ()
    return {key: name for key, name in pairs if isinstance(name, str)}


def candidates(bundle: Bundle) -> dict[str, Callable[[], Engine]]:
    """What is worth a try here, by name, the CPU first; nothing but it without a GPU. Each raises
    DmdLiveError when it cannot be opened or computes wrong."""
    makers: dict[str, Callable[[], Engine]] = {"cpu": partial(_open, bundle, "cpu")}
    try:
        gpu.capability()
    except EngineError:
        return makers
    import onnxruntime

    floats, here = _float_precision(bundle), onnxruntime.get_available_providers()
    for name, provider in PROVIDERS.items():
        if name != "cpu" and floats is not None and provider in here:
            makers[f"{name} {floats}"] = partial(_open, bundle, name)
    for backend, module in BACKENDS.items():
        for precision in built(bundle, backend) if find_spec(module) else ():
            makers[f"{backend} {precision}"] = partial(_open, bundle, backend, precision)
    return makers


def _open(bundle: Bundle, name: str, precision: str | None = None) -> Engine:
    """The engine after its self-test; `precision`: the only one wanted, of TensorRT's."""
    engine: Engine
    if name in BACKENDS:
        engine = TrtEngine(bundle, name, precision)
        check(engine, bundle)
        _keep_kernels(engine)
        return engine
    if name != "cpu":
        gpu.capability()
        chosen = _float_precision(bundle)
        if chosen is None:
            raise EngineError("the bundle has no fp16 or fp32 model, and a GPU runs no other")
        bundle = Bundle.load(bundle.folder, chosen)
    engine = OrtEngine(bundle.model, precision=bundle.precision, provider=name)
    check(engine, bundle)
    return engine


def _keep_kernels(engine: TrtEngine) -> None:
    try:
        engine.keep_kernels()
    except OSError as error:
        folder, reason = cache_folder(), error.strerror
        _logger.warning("%s: %s; kernels are compiled again next time", folder, reason)


def _float_precision(bundle: Bundle) -> str | None:
    """The model that onnxruntime runs on a GPU: a CPU's int8 would go back and forth."""
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
