"""The first NVIDIA GPU, asked through the driver's own library: no CUDA toolkit is needed."""

import ctypes

from ..errors import EngineError

__all__ = ["bindings", "capability", "driver_version"]


def capability() -> str:
    """Compute capability, such as `sm87` (Jetson Orin). Raises EngineError without a GPU."""
    cuda, device = _driver(), ctypes.c_int()
    major, minor = ctypes.c_int(), ctypes.c_int()
    failed = (
        cuda.cuDeviceGet(ctypes.byref(device), 0)
        # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR in cuda.h
        or cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, device)
        or cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)
    )
    if failed:
        raise EngineError(f"no NVIDIA GPU answers (CUDA error {failed})")
    return f"sm{major.value}{minor.value}"


def driver_version() -> int:
    """CUDA version of the driver, such as 12060 for 12.6. Raises EngineError without a GPU."""
    version = ctypes.c_int()
    if failed := _driver().cuDriverGetVersion(ctypes.byref(version)):
        raise EngineError(f"the NVIDIA driver does not answer (CUDA error {failed})")
    return version.value


def bindings(driver: int) -> str:
    """The command that installs CUDA's Python modules for a driver of this `driver_version`."""
    return f"pip install 'cuda-python>={driver // 1000},<{driver // 1000 + 1}'"


def _driver() -> ctypes.CDLL:
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise EngineError("no NVIDIA GPU here (libcuda.so.1 is missing)") from error
    if failed := cuda.cuInit(0):
        raise EngineError(f"no NVIDIA GPU answers (CUDA error {failed})")
    return cuda
