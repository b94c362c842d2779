"""Stands in for the GPU where there is none: device memory is host memory, a loaded engine is the
ONNX graph in onnxruntime. Both refuse what CUDA and TensorRT would; all else is the real thing."""

import ctypes
import enum
import itertools
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort

from runtime.engines.profiles import PROFILES
from runtime.features.pack import INPUTS, OUTPUTS

SHAPES = {
    name: [-1 if isinstance(a, str) else a for a in axes] for name, (_, axes) in INPUTS.items()
}
SHAPES |= {name: [-1, 7] if name == "emotion" else [-1, 3] for name in OUTPUTS}
SHAPES["sentiment"] = SHAPES["arousal"] = [-1]


class Status(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1


class Cuda:
    """`cuda.bindings.runtime`."""

    cudaError_t = Status
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)

    def __init__(self) -> None:
        self.memory: dict[int, ctypes.Array[ctypes.c_char]] = {}
        self.streams: set[int] = set()
        self._handles = itertools.count(1)

    def cudaStreamCreate(self) -> tuple[Status, int]:
        stream = next(self._handles)
        self.streams.add(stream)
        return Status.cudaSuccess, stream

    def cudaStreamSynchronize(self, stream: int) -> tuple[Status]:
        return (Status.cudaSuccess if stream in self.streams else Status.cudaErrorInvalidValue,)

    def cudaStreamDestroy(self, stream: int) -> tuple[Status]:
        self.streams.remove(stream)
        return (Status.cudaSuccess,)

    def cudaMalloc(self, size: int) -> tuple[Status, int]:
        block = ctypes.create_string_buffer(size)
        self.memory[ctypes.addressof(block)] = block
        return Status.cudaSuccess, ctypes.addressof(block)

    def cudaFree(self, address: int) -> tuple[Status]:
        del self.memory[address]
        return (Status.cudaSuccess,)

    def cudaMemcpyAsync(
        self, to: int, source: int, n: int, kind: int, stream: int
    ) -> tuple[Status]:
        device = to if kind == self.cudaMemcpyKind.cudaMemcpyHostToDevice else source
        if device not in self.memory or n > len(self.memory[device]):
            return (Status.cudaErrorInvalidValue,)
        ctypes.memmove(to, source, n)
        return self.cudaStreamSynchronize(stream)


class Context:
    """`IExecutionContext`."""

    def __init__(self, model: bytes, cuda: Cuda) -> None:
        self._session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
        self._cuda = cuda
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self.active_optimization_profile = 0

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self.active_optimization_profile = profile
        self._shapes, self._addresses = {}, {}
        return stream in self._cuda.streams

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        limits = list(PROFILES.values())[self.active_optimization_profile][name]
        low, high = limits["min"], limits["max"]
        if not all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True)):
            return False
        self._shapes[name] = shape
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return address in self._cuda.memory

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        n = self._shapes["input_ids"][0] if len(self._shapes) == len(INPUTS) else -1
        return tuple(n if size < 0 else size for size in SHAPES[name])

    def execute_async_v3(self, stream: int) -> bool:
        if len(self._shapes) < len(INPUTS) or stream not in self._cuda.streams:
            return False
        inputs = {
            name: np.frombuffer(
                self._cuda.memory[self._addresses[name]], kind, int(np.prod(self._shapes[name]))
            ).reshape(self._shapes[name])
            for name, (kind, _) in INPUTS.items()
        }
        for name, values in zip(OUTPUTS, self._session.run(list(OUTPUTS), inputs), strict=True):
            ctypes.memmove(self._addresses[name], values.tobytes(), values.nbytes)
        return True


class Kernels:
    """`IRuntimeCache`."""

    def __init__(self) -> None:
        self.content = b""

    def deserialize(self, blob: bytes) -> bool:
        self.content = blob
        return blob.startswith(b"kernels")

    def serialize(self) -> bytes:
        return b"kernels of this GPU"


class Config:
    """`IRuntimeConfig`."""

    dynamic_shapes_kernel_specialization_strategy: Any = None

    def create_runtime_cache(self) -> Kernels:
        return Kernels()

    def set_runtime_cache(self, cache: Kernels) -> bool:
        return True


class Engine:
    """`ICudaEngine`."""

    num_optimization_profiles = len(PROFILES)
    num_io_tensors = len(SHAPES)

    def __init__(self, model: bytes, cuda: Cuda, trt: ModuleType) -> None:
        self._model, self._cuda, self._trt = model, cuda, trt

    def create_execution_context(self, config: Config | None = None) -> Context:
        return Context(self._model, self._cuda)

    def create_runtime_config(self) -> Config:
        return Config()

    def get_tensor_name(self, k: int) -> str:
        return list(SHAPES)[k]

    def get_tensor_dtype(self, name: str) -> Any:
        types = self._trt.DataType
        kinds = {"int64": types.INT64, "bool": types.BOOL, "float32": types.FLOAT}
        return kinds[INPUTS[name][0] if name in INPUTS else "float32"]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(SHAPES[name])

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        shapes = list(PROFILES.values())[profile][name]
        return [tuple(shapes[bound]) for bound in ("min", "opt", "max")]


def tensorrt(real: ModuleType, cuda: Cuda, model: bytes) -> ModuleType:
    """The real module, but for a runtime whose engines compute `model`."""

    class Runtime:
        def __init__(self, logger: Any) -> None:
            assert isinstance(logger, real.ILogger)

        def deserialize_cuda_engine(self, content: bytes) -> Engine:
            return Engine(model, cuda, real)

    stand_in = ModuleType(real.__name__)
    stand_in.__dict__.update(real.__dict__, Runtime=Runtime)
    return stand_in


# Each stands in for a class of TensorRT and may have nothing that it has not.
ORIGINALS = {
    Context: "IExecutionContext",
    Engine: "ICudaEngine",
    Config: "IRuntimeConfig",
    Kernels: "IRuntimeCache",
}
