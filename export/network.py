"""ONNX graph -> serialized TensorRT engine: what TensorRT itself does, for every backend alike."""

import contextlib
import json
from collections import Counter
from pathlib import Path
from typing import Any, TextIO

from runtime.engines.profiles import PROFILES
from runtime.engines.trt import logger
from runtime.errors import BundleError
from runtime.features.pack import INPUTS, OPTIONAL
from runtime.system.files import write_file

__all__ = ["build"]


def build(
    trt: Any, model: bytes, targets: list[str], log: TextIO, timings: Path | None
) -> tuple[bytes, dict[str, Any]]:
    """Serialized engine and a report: `inputs` with their types, `layers` with their precision, how
    many layers of each (`precisions`), and the layers after fusion (`fused`), which only a GPU
    tells. Raises BundleError for a graph that TensorRT does not parse or build.

    `targets`: compute capabilities to set; none for a backend that builds for its own GPU. All
    that TensorRT says goes to `log`. `timings`: file of the timing cache; None without one.
    """
    with contextlib.ExitStack() as bars:
        # Both must live as long as the objects that TensorRT makes.
        said, progress = logger(trt, log), _progress(trt, bars)
        builder = trt.Builder(said)
        network = _parse(trt, builder, said, model)
        config = _configured(trt, builder, network, targets)
        config.progress_monitor = progress
        cache = None if timings is None else _timing_cache(config, timings)
        said.errors.clear()  # those of a timing cache that does not fit stay in the log
        engine = builder.build_serialized_network(network, config)
        if engine is None:
            reason = said.errors[0] if said.errors else "it gives no reason"
            raise BundleError(f"TensorRT cannot build the engine: {reason} (log: {log.name})")
        if timings is not None:
            _keep(cache, timings)
        inputs = [network.get_input(k) for k in range(network.num_inputs)]
        layers = _layers(network)
        return bytes(engine), {
            "inputs": {tensor.name: tensor.dtype.name.lower() for tensor in inputs},
            "precisions": dict(Counter(layer["precision"] for layer in layers).most_common()),
            "layers": layers,
            "fused": None if targets else _inspected(trt, said, engine),
        }


def _parse(trt: Any, builder: Any, said: Any, model: bytes) -> Any:
    """The graph as TensorRT network. Raises BundleError."""
    # Since TensorRT 11 every network is strongly typed and the flag may be missing.
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = trt.OnnxParser(network, said)
    if not parser.parse(model):
        errors = [parser.get_error(k) for k in range(parser.num_errors)]
        problems = [f"{e.node_operator()} {e.node_name()!r}: {e.desc()}" for e in errors]
        raise BundleError(
            f"TensorRT does not parse the graph: {' '.join('; '.join(problems).split())}"
        )
    names = _names(network)
    if names | OPTIONAL != set(INPUTS):
        raise BundleError(
            f"the graph's inputs {sorted(names)} are not the contract's; export again"
        )
    return network


def _names(network: Any) -> set[str]:
    return {network.get_input(k).name for k in range(network.num_inputs)}


def _configured(trt: Any, builder: Any, network: Any, targets: list[str]) -> Any:
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.clear_flag(trt.BuilderFlag.TF32)  # fp32 is the reference: 10 bits of TF32 are not
    names = _names(network)
    for shapes in PROFILES.values():
        profile = builder.create_optimization_profile()
        for name, shape in shapes.items():
            if name in names:
                profile.set_shape(name, shape["min"], shape["opt"], shape["max"])
        config.add_optimization_profile(profile)
    if targets:
        config.num_compute_capabilities = len(targets)
    for k, target in enumerate(targets):
        config.set_compute_capability(getattr(trt.ComputeCapability, target.upper()), k)
    return config


def _timing_cache(config: Any, path: Path) -> Any:
    """Times of kernels that earlier builds measured; an unusable file counts as none."""
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    if cache is None or not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _keep(cache: Any, path: Path) -> None:
    """For the next build, where the cache can be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, bytes(cache.serialize()))
    except OSError as error:
        print(f"export.trt: {path}: {error.strerror}; the next build takes as long")


def _layers(network: Any) -> list[dict[str, Any]]:
    """Each layer's name, type and precision, which are settled before a strongly typed network is
    built. A layer computes in the type of what it reads; one that reads dequantized values only,
    in the type that they were quantized to, since TensorRT fuses it with the Q/DQ pairs."""
    kinds: dict[str, str] = {}  # of tensors, by what they are computed with
    found = []
    for k in range(network.num_layers):
        layer = network.get_layer(k)
        read = [layer.get_input(j) for j in range(layer.num_inputs)]
        made = [layer.get_output(j) for j in range(layer.num_outputs)]
        seen = [kinds.get(tensor.name, tensor.dtype.name) for tensor in read if tensor is not None]
        widest = [kind for kind in ("FLOAT", "HALF", "INT8") if kind in seen]
        precision = (widest or seen or [made[0].dtype.name])[0]
        if layer.type.name == "DEQUANTIZE":
            precision = kinds[made[0].name] = read[0].dtype.name
        found.append(
            {
                "name": layer.name,
                "type": layer.type.name,
                "precision": precision,
                "outputs": [tensor.dtype.name for tensor in made],
            }
        )
    return found


def _inspected(trt: Any, said: Any, content: Any) -> Any:
    """What the engine inspector tells, from JSON; None for an engine that does not open here."""
    engine = trt.Runtime(said).deserialize_cuda_engine(content)
    if engine is None:
        return None
    told = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    try:
        return json.loads(told)
    except ValueError:  # some versions write no valid JSON
        return told


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
