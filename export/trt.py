"""Bundle -> TensorRT engine, in `engines/` of the bundle or, where that is read-only, in the cache.

The network is strongly typed: its precision is that of the ONNX graph, which TensorRT 10, 11 and
TensorRT for RTX all build alike. TensorRT for RTX builds without a GPU; TensorRT builds for the GPU
of the machine it runs on.
"""

import errno
import fcntl
import hashlib
import importlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from runtime.config import option, parse
from runtime.engines import gpu
from runtime.engines.profiles import PROFILES
from runtime.engines.stored import BACKENDS, SOURCES, folders
from runtime.errors import DmdLiveError, EngineError, UsageError
from runtime.store.bundle import Bundle
from runtime.store.models import cache_folder
from runtime.system.files import write_file
from train.provenance import commit

from . import network
from .half import FP32_OPS, to_fp16

__all__ = ["Options", "build"]

# Not sm75: Turing has no fp32 matrix product in TensorRT for RTX, and NVIDIA advises against
# engines for it and later GPUs together (docs: "CPU-Only AOT and TensorRT-RTX Engines").
_RTX_TARGETS = ("sm80", "sm86", "sm89", "sm120", "sm121")
_JETSON = {"sm72": "Xavier", "sm87": "Orin", "sm101": "Thor", "sm110": "Thor"}
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Build a TensorRT engine from a graph of a bundle."""

    bundle: str = option("bundle", metavar="FOLDER", help="the bundle; the engine goes into it")
    backend: str | None = option(
        None,
        choices=tuple(BACKENDS),
        help="tensorrt (for this machine's GPU) or rtx (needs no GPU); default: tensorrt when it"
        " is installed, else rtx",
    )
    precision: str = option(
        "fp32",
        choices=tuple(sorted(SOURCES)),
        help="int8 and mixed are built from the recipes int8-qdq and mixed of export.quantize, fp16"
        " from its fp16, or from fp32 where the bundle has none",
    )
    targets: str | None = option(
        None,
        metavar="SM,SM",
        help="GPU generations to build for, such as sm86,sm89 (rtx only; default: "
        + ",".join(_RTX_TARGETS)
        + ")",
    )
    force: bool = option(False, help="build even if the same engine exists")


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = parse(Options, argv, prog="python -m export.trt")
    try:
        build(options)
    except (DmdLiveError, OSError) as error:
        print(f"export.trt: {error}", file=sys.stderr)
        return 2
    return 0


def build(options: Options) -> Path:
    """Build the engine unless it exists; returns the path of the JSON that describes it.

    The engine, its JSON, the report of its layers and TensorRT's log share a name that changes with
    anything that makes another engine. Raises BundleError for a damaged bundle or a graph that
    TensorRT refuses, and UsageError for a backend that is not installed, a target that it does not
    know or a graph that the bundle does not have.
    """
    source = _source(options.bundle, options.precision)
    backend, trt = _backend(options.backend)
    targets = _targets(trt, backend, options)
    identity = _identity(source, options.precision, backend, str(trt.__version__), targets)
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    name = f"{backend}-{options.precision}-{key}.json"
    if not options.force and (found := _complete(source, name)):
        return found
    about = _writable(source) / name
    with _alone(about.with_suffix(".log")) as log:
        # Another process may have built it meanwhile.
        if not options.force and (found := _complete(source, name)):
            return found
        print(
            f"export.trt: {backend} {trt.__version__}, {options.precision}, {' '.join(targets)}: "
            "building, this can take minutes",
            flush=True,
        )
        _build(trt, source, identity, about, log)
    return about


def _source(folder: str, precision: str) -> Bundle:
    """The bundle with the graph that an engine of this precision is built from."""
    bundle = Bundle.load(folder)
    model = next((m for m in SOURCES[precision] if m in bundle.info["models"]), None)
    if model is None:
        last = SOURCES[precision][-1]
        way = "export.graph" if last == "fp32" else f"export.quantize --recipe {last}"
        raise UsageError(f"{folder}: no {last} model; python -m {way} makes one")
    return Bundle.load(folder, model)


def _backend(name: str | None) -> tuple[str, Any]:
    """Name and Python module of the wanted backend, or of the first that is installed."""
    reasons = []
    for backend in BACKENDS if name is None else (name,):
        try:
            return backend, importlib.import_module(BACKENDS[backend])
        except (ImportError, OSError) as error:  # OSError: a library that the module loads itself
            reasons.append(" ".join(str(error).split()))
    raise UsageError(
        f"no TensorRT backend to import ({'; '.join(reasons)}); `pip install tensorrt-rtx-cu13` "
        "builds without a GPU, on a Jetson use JetPack's tensorrt"
    )


def _targets(trt: Any, backend: str, options: Options) -> list[str]:
    """Names such as `sm86`, in ascending order."""
    wanted = None if options.targets is None else options.targets.lower().split(",")
    if backend == "tensorrt":
        try:
            here = gpu.capability()
        except EngineError as error:
            raise UsageError(f"{error}, which tensorrt builds on; use --backend rtx") from error
        if wanted not in (None, [here]):
            raise UsageError(
                f"--targets {options.targets}: tensorrt builds for its own GPU, {here}; use rtx"
            )
        return [here]
    known = [name.lower() for name in trt.ComputeCapability.__members__ if name.startswith("SM")]
    for target in wanted or ():
        if board := _JETSON.get(target) if target not in known else None:
            raise UsageError(
                f"--targets: rtx {trt.__version__} does not know {target!r} (Jetson {board}); build"
                f" on the board with JetPack's: python -m export.trt --backend tensorrt --bundle "
                f"{options.bundle}"
            )
        if target not in known:
            raise UsageError(f"--targets: unknown target {target!r}; rtx has {', '.join(known)}")
    return sorted(set(wanted or _RTX_TARGETS), key=known.index)


def _identity(
    source: Bundle, precision: str, backend: str, version: str, targets: list[str]
) -> dict[str, Any]:
    """Everything that makes another engine."""
    identity: dict[str, Any] = {
        "model": source.precision,
        "onnx_sha256": hashlib.sha256(source.model).hexdigest(),
        "backend": backend,
        "version": version,
        "targets": targets,
        "precision": precision,
        "profiles": PROFILES,
        "tf32": False,
    }
    if backend == "tensorrt":
        identity["driver"] = gpu.driver_version()
    if precision == "fp16" and source.precision == "fp32":
        identity["fp32_ops"] = FP32_OPS
    return identity


def _writable(source: Bundle) -> Path:
    """The bundle's `engines/`, or the cache's when the bundle is read-only. Raises OSError."""
    inside, cached = folders(source)
    try:
        inside.mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=inside):
            return inside
    except OSError as error:
        if error.errno not in _READ_ONLY:
            raise
        print(f"export.trt: {source.folder} is read-only: the engine goes to {cached}")
    cached.mkdir(parents=True, exist_ok=True)
    return cached


@contextmanager
def _alone(log: Path) -> Iterator[TextIO]:
    """The empty log, held by this process alone: another one that builds the same engine waits."""
    with log.open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        yield file


def _build(trt: Any, source: Bundle, identity: dict[str, Any], about: Path, log: TextIO) -> None:
    """Build and write: the engine first, then the JSON without which it does not count."""
    started = time.perf_counter()
    convert = "fp32_ops" in identity
    native = identity["backend"] == "tensorrt"
    engine, report = network.build(
        trt,
        to_fp16(source.model) if convert else source.model,
        [] if native else identity["targets"],
        log,
        _timings(identity) if native else None,
    )
    final = about.with_suffix(".engine")
    facts = {
        **identity,
        "layers": report["precisions"],
        "engine": final.name,
        "engine_sha256": hashlib.sha256(engine).hexdigest(),
        "engine_bytes": len(engine),
        "build_s": round(time.perf_counter() - started, 1),
        "commit": commit(),
    }
    about.unlink(missing_ok=True)
    try:
        write_file(final, engine)
        write_file(about.with_suffix(".layers.json"), _json(report))
        write_file(about, _json(facts))
    except BaseException:
        for suffix in (".engine", ".layers.json"):
            about.with_suffix(suffix).unlink(missing_ok=True)
        raise
    size_mb, counts = len(engine) / 1e6, facts["layers"]
    print(
        f"export.trt: {final}: {size_mb:.1f} MB in {facts['build_s']:.1f} s; layers: "
        + ", ".join(f"{n} {kind}" for kind, n in counts.items())
    )


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


def _timings(identity: dict[str, Any]) -> Path:
    """The timing cache of this TensorRT and GPU.

    Not for RTX: there it changes nothing and would ask for a GPU (docs: "Timing Cache Migration").
    """
    (target,) = identity["targets"]
    return cache_folder() / f"timings-{identity['version']}-{target}.cache"


def _complete(source: Bundle, name: str) -> Path | None:
    """The JSON of an engine that is there, and is what the JSON describes."""
    for about in (folder / name for folder in folders(source)):
        engine = about.with_suffix(".engine")
        try:
            wanted = json.loads(about.read_text(encoding="utf-8"))["engine_sha256"]
            if hashlib.sha256(engine.read_bytes()).hexdigest() == wanted:
                print(f"export.trt: {engine} is there; --force builds it again")
                return about
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


if __name__ == "__main__":
    sys.exit(main())
