"""TensorRT and TensorRT for RTX, with device memory by cuda-python."""

import hashlib
import importlib
import threading
import weakref
from contextlib import suppress
from typing import Any, NoReturn, TextIO

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError, FeatureError
from ..features.pack import INPUTS, OPTIONAL, OUTPUTS
from ..store.bundle import Bundle
from ..store.models import cache_folder
from ..system.files import write_file
from . import gpu
from .base import Arrays, checked, require_finite
from .profiles import PROFILES
from .stored import BACKENDS, find

__all__ = ["TrtEngine", "logger"]

_INSTALL = {
    "tensorrt": "on a Jetson JetPack has it, seen by `python3 -m venv --system-site-packages`",
    "rtx": "pip install tensorrt-rtx-cu13",
}
_LIVE, _BATCH = range(len(PROFILES))


def logger(trt: Any, file: TextIO | None = None) -> Any:
    """Keeps TensorRT's errors, each in one line, in `errors`; all it says goes to `file`."""
    severities = trt.ILogger.Severity

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if file is not None and severity != severities.VERBOSE:
                file.write(f"{severity.name}: {message}\n")
            if severity in (severities.ERROR, severities.INTERNAL_ERROR):
                self.errors.append(" ".join(message.split()))

    return Logger()


class TrtEngine:
    """An engine on the first GPU, from one thread at a time (others wait). `backend`: of
    `BACKENDS`; `precision`: the only one wanted.

    Batch 1 runs in the live profile, larger ones (32 at most) in the other. Raises EngineError when
    the backend, the GPU or a fitting engine is missing.
    """

    def __init__(self, bundle: Bundle, backend: str, precision: str | None = None) -> None:
        capability, driver = gpu.capability(), gpu.driver_version()
        trt, self._cuda = _libraries(backend, driver)
        content, self.precision = find(
            bundle,
            backend,
            version=trt.__version__,
            capability=capability,
            driver=driver,
            precision=precision,
        )
        self.name = backend
        self._lock = threading.Lock()
        self._log = logger(trt)  # TensorRT does not keep it alive
        self._runtime = trt.Runtime(self._log)
        self._engine = self._runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            self._fail(f"{backend} {trt.__version__} does not load its engine")
        self._stream = self._call("cudaStreamCreate")
        self._memory: dict[str, int] = {}
        weakref.finalize(self, _release, self._cuda, self._stream, self._memory)
        self._sizes = _sizes(self._engine, trt)
        for name, n_bytes in self._sizes.items():
            self._memory[name] = int(self._call("cudaMalloc", n_bytes))
        self._kernels: Any = None
        self._has_kernels = False
        self._kernels_path = (
            cache_folder() / f"kernels-{hashlib.sha256(content).hexdigest()[:16]}.rtx"
        )
        self._context = self._new_context(trt)
        if self._context is None:
            self._fail(f"{backend} has no memory or kernels for its engine")
        self._set_addresses()

    def infer(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """See `Engine.infer`."""
        arrays = checked(inputs, self._sizes)
        with self._lock:
            self._select(len(arrays["input_ids"]))
            for name, values in arrays.items():
                if values.nbytes > self._sizes[name] or not self._context.set_input_shape(
                    name, values.shape
                ):
                    raise FeatureError(f"input {name!r} of shape {values.shape} is too large")
                self._copy(self._memory[name], values.ctypes.data, values.nbytes, "HostToDevice")
            outputs = {
                name: np.empty(tuple(self._context.get_tensor_shape(name)), np.float32)
                for name in OUTPUTS
            }
            if not self._context.execute_async_v3(int(self._stream)):
                self._fail(f"{self.name} does not run")
            for name, values in outputs.items():
                self._copy(values.ctypes.data, self._memory[name], values.nbytes, "DeviceToHost")
            self._call("cudaStreamSynchronize", self._stream)
        require_finite(outputs, "output", EngineError)
        return outputs

    def keep_kernels(self) -> None:
        """Store what TensorRT for RTX compiled for this GPU, so that the next start need not.

        Raises OSError when the cache cannot be written.
        """
        if self._kernels is None or self._has_kernels:
            return
        content = self._kernels.serialize()
        if content is not None:
            self._kernels_path.parent.mkdir(parents=True, exist_ok=True)
            write_file(self._kernels_path, bytes(content))

    def _new_context(self, trt: Any) -> Any:
        if not hasattr(trt, "IRuntimeCache"):
            return self._engine.create_execution_context()
        config = self._engine.create_runtime_config()
        # Each utterance has another shape: kernels made for each would compile all the time, and
        # the same utterance would give other bits once they are ready.
        strategies = trt.DynamicShapesKernelSpecializationStrategy
        config.dynamic_shapes_kernel_specialization_strategy = strategies.NONE
        self._kernels = config.create_runtime_cache()
        with suppress(OSError):  # none are stored yet; those of another driver or GPU are refused
            self._has_kernels = self._kernels.deserialize(self._kernels_path.read_bytes())
        config.set_runtime_cache(self._kernels)
        return self._engine.create_execution_context(config)

    def _select(self, n: int) -> None:
        """The profile for a batch of `n`."""
        profile = _LIVE if n == 1 else _BATCH
        if self._context.active_optimization_profile == profile:
            return
        if not self._context.set_optimization_profile_async(profile, int(self._stream)):
            self._fail(f"{self.name} has no profile for a batch of {n}")
        self._call("cudaStreamSynchronize", self._stream)
        self._set_addresses()

    def _set_addresses(self) -> None:
        for name, address in self._memory.items():
            if not self._context.set_tensor_address(name, address):
                self._fail(f"{self.name} refuses the memory of {name!r}")

    def _copy(self, to: int, source: int, n_bytes: int, direction: str) -> None:
        kind = getattr(self._cuda.cudaMemcpyKind, f"cudaMemcpy{direction}")
        self._call("cudaMemcpyAsync", to, source, n_bytes, kind, self._stream)

    def _call(self, function: str, *arguments: Any) -> Any:
        """A function of the CUDA runtime: its result. Raises EngineError with CUDA's reason."""
        status, *results = getattr(self._cuda, function)(*arguments)
        if status != self._cuda.cudaError_t.cudaSuccess:
            raise EngineError(f"{function}: {status.name}")
        return results[0] if results else None

    def _fail(self, what: str) -> NoReturn:
        reason = self._log.errors[0] if self._log.errors else "TensorRT gives no reason"
        raise EngineError(f"{what} ({reason})")


def _libraries(backend: str, driver: int) -> tuple[Any, Any]:
    """TensorRT's and CUDA's Python modules. Raises EngineError that says how to get them."""
    try:
        trt = importlib.import_module(BACKENDS[backend])
    except (ImportError, OSError) as error:  # OSError: a library that the module loads itself
        raise EngineError(
            f"{BACKENDS[backend]} cannot be imported ({' '.join(str(error).split())}); "
            f"{_INSTALL[backend]}"
        ) from error
    try:
        return trt, importlib.import_module("cuda.bindings.runtime")
    except (ImportError, OSError) as error:
        raise EngineError(f"{backend} needs cuda-python: {gpu.bindings(driver)}") from error


def _sizes(engine: Any, trt: Any) -> dict[str, int]:
    """Bytes that each tensor takes at most. Raises EngineError for tensors not of the contract."""
    names = [engine.get_tensor_name(k) for k in range(engine.num_io_tensors)]
    kinds = {name: np.dtype(trt.nptype(engine.get_tensor_dtype(name))) for name in names}
    taken = [name for name in INPUTS if name in kinds or name not in OPTIONAL]
    wanted = {name: np.dtype(INPUTS[name][0]) for name in taken}
    wanted |= dict.fromkeys(OUTPUTS, np.dtype(np.float32))
    if kinds != wanted or engine.num_optimization_profiles != len(PROFILES):
        raise EngineError("the engine's inputs and outputs are not the contract's; build it again")
    shapes = {name: [*engine.get_tensor_profile_shape(name, _BATCH)[2]] for name in taken}
    n_most = shapes["input_ids"][0]
    for name in OUTPUTS:
        shapes[name] = [n_most if n < 0 else n for n in engine.get_tensor_shape(name)]
    return {name: int(np.prod(shapes[name])) * kinds[name].itemsize for name in names}


def _release(cuda: Any, stream: Any, memory: dict[str, int]) -> None:
    for address in memory.values():
        cuda.cudaFree(address)
    cuda.cudaStreamDestroy(stream)
