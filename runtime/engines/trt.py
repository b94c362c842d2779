"""Engines of TensorRT and TensorRT for RTX, as `python -m export.trt` builds them.

An engine fits one graph, one version of TensorRT and some GPUs. One that fits nothing here is not
loaded: TensorRT would refuse it late, or worse, run it.
"""

import hashlib
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle import Bundle
from ..errors import EngineError, FeatureError
from ..features.pack import INPUTS, OUTPUTS
from . import gpu
from .base import Arrays

__all__ = ["BACKENDS", "TrtEngine", "find"]

# Backend -> its Python module.
BACKENDS = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}


def find(bundle: Bundle, backend: str, version: str, capability: str) -> tuple[bytes, str]:
    """The engine in the bundle's `engines/` that fits, and its precision; fp16 before fp32.

    Raises EngineError that says of the engines that are there why none fits.
    """
    folder, reasons, fitting = bundle.folder / "engines", [], {}
    for about in sorted(folder.glob(f"{backend}-*.json")):
        try:
            facts = json.loads(about.read_text(encoding="utf-8"))
            content = (folder / Path(facts["engine"]).name).read_bytes()
            reason = _misfit(facts, content, bundle, version, capability)
            precision = str(facts["precision"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = f"cannot be read ({error})"
        if reason:
            reasons.append(f"{about.stem} {reason}")
            continue
        fitting[precision] = content
    for precision in ("fp16", "fp32"):
        if precision in fitting:
            return fitting[precision], precision
    found = "; ".join(reasons) or f"no {backend} engine in {folder}"
    raise EngineError(f"{found}; build one: python -m export.trt --backend {backend}")


def _misfit(
    facts: dict[str, Any], content: bytes, bundle: Bundle, version: str, capability: str
) -> str:
    """Why an engine does not fit, "" when it does."""
    graph = bundle.info["files"].get(bundle.info["models"].get("fp32", ""))
    if facts["onnx_sha256"] != graph:
        return "was built from another graph"
    if facts["version"] != version:
        return f"was built by version {facts['version']}, {version} is here"
    if capability not in facts["targets"]:
        return f"was built for {', '.join(facts['targets'])}, this GPU is {capability}"
    if hashlib.sha256(content).hexdigest() != facts["engine_sha256"]:
        return "is truncated or altered"
    return ""


class TrtEngine:
    """An engine on the first GPU, batch 1 to the profile's largest. `backend`: of `BACKENDS`.

    Memory on the GPU is allocated once for the longest utterance. Raises EngineError when the
    backend, the GPU or a fitting engine is missing.
    """

    def __init__(self, bundle: Bundle, backend: str) -> None:
        try:
            trt = importlib.import_module(BACKENDS[backend])
            self._cuda = importlib.import_module("cuda.bindings.runtime")
        except (ImportError, OSError) as error:
            raise EngineError(f"{backend} cannot be loaded ({error})") from error
        content, self.precision = find(bundle, backend, trt.__version__, gpu.capability())
        self._logger = trt.Logger(trt.Logger.ERROR)  # must live as long as the engine
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            raise EngineError(f"{backend} {trt.__version__} does not load its engine; build again")
        self._context = self._engine.create_execution_context()
        self.name = backend
        self._stream = self._call("cudaStreamCreate")
        self._buffers: dict[str, Any] = {}
        self._sizes: dict[str, int] = {}

    def infer(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """See `Engine.infer`."""
        kinds, stream = self._cuda.cudaMemcpyKind, self._stream
        kept = []  # the sources of copies under way
        for name, (dtype, _) in INPUTS.items():
            if name not in inputs:
                raise FeatureError(f"input {name!r} is missing")
            values = np.ascontiguousarray(inputs[name], dtype)
            if not np.isfinite(values).all():
                raise FeatureError(f"input {name!r} holds NaN or infinite values")
            if not self._context.set_input_shape(name, values.shape):
                raise FeatureError(f"the engine refused shape {values.shape} of {name!r}")
            kept.append(values)
            device = self._buffer(name, values.nbytes)
            self._call("cudaMemcpyAsync", device, values.ctypes.data, values.nbytes,
                       kinds.cudaMemcpyHostToDevice, stream)  # fmt: skip
        outputs = {}
        for name in OUTPUTS:
            outputs[name] = np.empty(tuple(self._context.get_tensor_shape(name)), np.float32)
            self._buffer(name, outputs[name].nbytes)
        if not self._context.execute_async_v3(int(stream)):
            raise FeatureError("TensorRT refused to run; see its messages above")
        for name, values in outputs.items():
            self._call("cudaMemcpyAsync", values.ctypes.data, self._buffers[name], values.nbytes,
                       kinds.cudaMemcpyDeviceToHost, stream)  # fmt: skip
        self._call("cudaStreamSynchronize", stream)
        for name, values in outputs.items():
            if not np.isfinite(values).all():
                raise FeatureError(f"output {name!r} is not finite")
        return outputs

    def _buffer(self, name: str, n_bytes: int) -> Any:
        """Device memory of a tensor, at least `n_bytes`, known to the engine by its address."""
        if n_bytes > self._sizes.get(name, 0):
            if name in self._buffers:
                self._call("cudaFree", self._buffers[name])
            self._buffers[name] = self._call("cudaMalloc", n_bytes)
            self._sizes[name] = n_bytes
            self._context.set_tensor_address(name, int(self._buffers[name]))
        return self._buffers[name]

    def _call(self, function: str, *arguments: Any) -> Any:
        """A function of the CUDA runtime: its result. Raises EngineError with CUDA's reason."""
        status, *results = getattr(self._cuda, function)(*arguments)
        if status != self._cuda.cudaError_t.cudaSuccess:
            raise EngineError(f"{function}: {status.name}")
        return results[0] if results else None
