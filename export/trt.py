"""Bundle -> TensorRT engine in `engines/` of the bundle.

The network is strongly typed: its precision is that of the ONNX graph, which TensorRT 10, 11 and
TensorRT for RTX all build alike. TensorRT for RTX builds without a GPU; TensorRT builds for the GPU
of the machine it runs on.
"""

import contextlib
import hashlib
import importlib
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from runtime.bundle import Bundle
from runtime.config import option, parse
from runtime.engines import gpu
from runtime.engines.trt import BACKENDS
from runtime.errors import BundleError, DmdLiveError, EngineError, UsageError
from runtime.features.pack import INPUTS
from runtime.features.spec import SPEC
from train.provenance import commit

from . import bundle
from .half import FP32_OPS, to_fp16

__all__ = ["PROFILES", "Options", "build"]

# Not sm75: Turing has no fp32 matrix product in TensorRT for RTX, and NVIDIA advises against
# engines for it and later GPUs together (docs: "CPU-Only AOT and TensorRT-RTX Engines").
_RTX_TARGETS = ("sm80", "sm86", "sm89", "sm120", "sm121")

# Smallest, most likely and largest size of each dynamic axis: one piece or row up to the longest
# utterance of the contract, tuned for one of 4 s.
_LENGTHS = {
    "Tt": (1, 24, SPEC.max_pieces),
    "Ta": (1, round(4 * SPEC.audio_rate_hz), round(SPEC.max_utterance_s * SPEC.audio_rate_hz)),
    "Tv": (1, round(4 * SPEC.vision_rate_hz), round(SPEC.max_utterance_s * SPEC.vision_rate_hz)),
}
_BATCHES = {"live": (1, 1, 1), "batch": (1, 8, 32)}


def _shapes(batch: tuple[int, int, int]) -> dict[str, dict[str, list[int]]]:
    sizes = {"B": batch, **_LENGTHS}
    return {
        name: {
            bound: [sizes[axis][k] if isinstance(axis, str) else axis for axis in axes]
            for k, bound in enumerate(("min", "opt", "max"))
        }
        for name, (_, axes) in INPUTS.items()
    }


# In the order of TensorRT's profile numbers.
PROFILES = {name: _shapes(batch) for name, batch in _BATCHES.items()}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Build a TensorRT engine from a bundle's fp32 graph."""

    bundle: str = option("bundle", metavar="FOLDER", help="the bundle; the engine goes into it")
    backend: str | None = option(
        None,
        choices=tuple(BACKENDS),
        help="tensorrt (for this machine's GPU) or rtx (needs no GPU); default: tensorrt when it"
        " is installed, else rtx",
    )
    precision: str = option("fp32", choices=("fp32", "fp16"), help="precision of the engine")
    targets: str | None = option(
        None,
        metavar="SM,SM",
        help="GPU generations to build for, such as sm86,sm89 (rtx only; default: "
        + ",".join(_RTX_TARGETS)
        + ")",
    )
    force: bool = option(False, help="build even if the same engine is there")


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
    """Build the engine, unless it is there; returns the path of the JSON that describes it.

    The engine, its JSON and TensorRT's log share a name that changes with anything that makes
    another engine. Raises BundleError for a damaged bundle or a graph that TensorRT refuses, and
    UsageError for a backend that is not installed or a target that it does not know.
    """
    source = Bundle.load(options.bundle, "fp32")
    backend, trt = _backend(options.backend)
    targets = _targets(trt, backend, options.targets)
    identity: dict[str, Any] = {
        "onnx_sha256": hashlib.sha256(source.model).hexdigest(),
        "backend": backend,
        "version": str(trt.__version__),
        "targets": targets,
        "precision": options.precision,
        "profiles": PROFILES,
    }
    if backend == "tensorrt":
        identity["driver"] = gpu.driver_version()
    if options.precision == "fp16":
        identity["fp32_ops"] = FP32_OPS
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    folder = source.folder / "engines"
    about = folder / f"{backend}-{options.precision}-{key}.json"
    if not options.force and _is_complete(about):
        print(f"export.trt: {about.with_suffix('.engine')} is there; --force builds it again")
        return about
    folder.mkdir(exist_ok=True)
    print(
        f"export.trt: {backend} {trt.__version__}, {options.precision}, {' '.join(targets)}: "
        "building, this can take minutes",
        flush=True,
    )
    started = time.perf_counter()
    model = source.model if options.precision == "fp32" else to_fp16(source.model)
    engine, details = _build(
        trt, model, targets if backend == "rtx" else [], about.with_suffix(".log")
    )
    facts = {
        **identity,
        **details,
        "engine": about.with_suffix(".engine").name,
        "engine_sha256": hashlib.sha256(engine).hexdigest(),
        "engine_bytes": len(engine),
        "build_s": round(time.perf_counter() - started, 1),
        "commit": commit(),
    }
    _write(about, facts, engine)
    size_mb = len(engine) / 1e6
    print(f"export.trt: {folder / facts['engine']}: {size_mb:.1f} MB in {facts['build_s']:.1f} s")
    return about


def _backend(name: str | None) -> tuple[str, Any]:
    """Name and Python module of the wanted backend, or of the first that is installed."""
    reasons = []
    for backend in BACKENDS if name is None else (name,):
        try:
            return backend, importlib.import_module(BACKENDS[backend])
        except (ImportError, OSError) as error:  # OSError: a library that the module loads itself
            reasons.append(_one_line(error))
    raise UsageError(
        f"no TensorRT backend to import ({'; '.join(reasons)}); `pip install tensorrt-rtx-cu13` "
        "builds without a GPU, on a Jetson use JetPack's tensorrt"
    )


def _targets(trt: Any, backend: str, wanted: str | None) -> list[str]:
    """Names such as `sm86`, in ascending order."""
    if backend == "tensorrt":
        try:
            here = gpu.capability()
        except EngineError as error:
            raise UsageError(f"{error}, which tensorrt builds on; use --backend rtx") from error
        if wanted not in (None, here):
            raise UsageError(
                f"--targets {wanted}: tensorrt builds for its own GPU, {here}; use rtx"
            )
        return [here]
    known = [name.lower() for name in trt.ComputeCapability.__members__ if name.startswith("SM")]
    targets = _RTX_TARGETS if wanted is None else tuple(wanted.lower().split(","))
    for target in targets:
        if target not in known:
            raise UsageError(f"--targets: unknown target {target!r}; rtx has {', '.join(known)}")
    return sorted(set(targets), key=known.index)


def _build(trt: Any, model: bytes, targets: list[str], log: Path) -> tuple[bytes, dict[str, Any]]:
    """Serialized engine, and what only TensorRT knows of it. Raises BundleError.

    `targets`: compute capabilities to set; none for a backend that builds for its own GPU.
    """
    with log.open("w", encoding="utf-8") as file, contextlib.ExitStack() as bars:
        # Both must live as long as the objects that TensorRT makes.
        logger, progress = _logger(trt, file), _progress(trt, bars)
        builder = trt.Builder(logger)
        network = _parse(trt, builder, logger, model)
        inputs = [network.get_input(k) for k in range(network.num_inputs)]
        config = builder.create_builder_config()
        config.progress_monitor = progress
        for shapes in PROFILES.values():
            profile = builder.create_optimization_profile()
            for name, shape in shapes.items():
                profile.set_shape(name, shape["min"], shape["opt"], shape["max"])
            config.add_optimization_profile(profile)
        if targets:
            config.num_compute_capabilities = len(targets)
        for k, target in enumerate(targets):
            config.set_compute_capability(getattr(trt.ComputeCapability, target.upper()), k)
        engine = builder.build_serialized_network(network, config)
        if engine is None:
            reason = logger.errors[0] if logger.errors else "it gives no reason"
            raise BundleError(f"TensorRT cannot build the engine: {reason} (log: {log})")
        for error in logger.errors:
            print(f"export.trt: TensorRT: {error}", file=sys.stderr)
        return bytes(engine), {
            "inputs": {tensor.name: tensor.dtype.name.lower() for tensor in inputs},
            "tf32": bool(config.get_flag(trt.BuilderFlag.TF32)),
        }


def _parse(trt: Any, builder: Any, logger: Any, model: bytes) -> Any:
    """The graph as TensorRT network. Raises BundleError."""
    # Since TensorRT 11 every network is strongly typed and the flag may be missing.
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model):
        errors = [parser.get_error(k) for k in range(parser.num_errors)]
        problems = [f"{e.node_operator()} {e.node_name()!r}: {e.desc()}" for e in errors]
        raise BundleError(f"TensorRT does not parse the graph: {_one_line('; '.join(problems))}")
    names = {network.get_input(k).name for k in range(network.num_inputs)}
    if names != set(INPUTS):
        raise BundleError(
            f"the graph's inputs {sorted(names)} are not the contract's; export again"
        )
    return network


def _logger(trt: Any, file: TextIO) -> Any:
    """Writes what TensorRT says to `file`; `errors` keeps its errors, each in one line."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity == trt.ILogger.Severity.VERBOSE:
                return
            file.write(f"{severity.name}: {message}\n")
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(_one_line(message))

    return Logger()


def _progress(trt: Any, bars: contextlib.ExitStack) -> Any:
    """Shows on a terminal, and nowhere else, the phase that TensorRT is in and its steps so far."""
    from tqdm import tqdm

    bar_format = "{desc}, {n_fmt} steps, {elapsed}"
    bar = bars.enter_context(tqdm(disable=None, leave=False, bar_format=bar_format))

    class Progress(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, name: str, parent: str | None, n_steps: int) -> None:
            bar.set_description_str(name)

        def step_complete(self, name: str, step: int) -> bool:
            bar.update()
            return True

        def phase_finish(self, name: str) -> None:
            pass

    return Progress()


def _is_complete(about: Path) -> bool:
    """Whether the JSON is there and the engine is the one that it describes."""
    try:
        facts = json.loads(about.read_text(encoding="utf-8"))
        engine = about.with_suffix(".engine").read_bytes()
        return bool(hashlib.sha256(engine).hexdigest() == facts["engine_sha256"])
    except (OSError, ValueError, KeyError):
        return False


def _write(about: Path, facts: dict[str, Any], engine: bytes) -> None:
    """Engine and JSON under temporary names, then both renamed; on failure neither remains."""
    final = about.with_suffix(".engine")
    partial = final.with_name(final.name + ".partial")
    about.unlink(missing_ok=True)  # an engine without its JSON does not count
    try:
        partial.write_bytes(engine)
        os.replace(partial, final)
        bundle.write_file(about, (json.dumps(facts, indent=2) + "\n").encode())
    except BaseException:
        for path in (partial, final):
            path.unlink(missing_ok=True)
        raise


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


if __name__ == "__main__":
    sys.exit(main())
