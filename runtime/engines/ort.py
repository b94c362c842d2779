"""onnxruntime, on the CPU or with its CUDA and TensorRT providers."""

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BundleError, EngineError, FeatureError
from ..features.pack import OPTIONAL
from ..store.models import cache_folder
from .base import Arrays, checked, require_finite
from .profiles import PROFILES

__all__ = ["PROVIDERS", "OrtEngine"]

# Engine -> onnxruntime's provider; what one cannot compute goes to those before it.
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "ort-tensorrt": "TensorrtExecutionProvider",
}


class OrtEngine:
    """An ONNX graph in onnxruntime, from any number of threads. `model`: the file's content;
    `precision`: what the bundle calls it; `n_threads`: for one inference; `provider`: of
    `PROVIDERS`. Raises BundleError for a graph that does not load, and EngineError when the
    provider does not work here."""

    def __init__(
        self, model: bytes, *, precision: str = "fp32", n_threads: int = 2, provider: str = "cpu"
    ) -> None:
        import onnxruntime as ort

        self.name, self.precision = provider, precision
        options = ort.SessionOptions()
        options.intra_op_num_threads = n_threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        # Threads that spin while they wait would keep a robot's core busy between utterances.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if provider == "cpu":
            try:
                self._session = _session(model, options, provider, precision)
            except Exception as error:  # onnxruntime's exceptions share no public base class
                raise BundleError(
                    f"the bundle's graph does not load ({_first_line(error)}); export it again"
                ) from error
        else:
            self._session = _on_gpu(model, options, provider, precision)
        self._inputs = {value.name for value in self._session.get_inputs()}
        self._unread = OPTIONAL - self._inputs
        self._outputs = [output.name for output in self._session.get_outputs()]

    def infer(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """See `Engine.infer`."""
        if self.name != "cpu":
            return self._on_gpu(checked(inputs, self._inputs))
        require_finite(inputs, "input")  # quantized, NaN would come out as a number
        try:
            outputs = self._run({n: v for n, v in inputs.items() if n not in self._unread})
        except Exception as error:
            raise FeatureError(f"the graph refused its inputs: {_first_line(error)}") from error
        require_finite(outputs, "output")
        return outputs

    def _on_gpu(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """The outputs for inputs that are the contract's, so it is the GPU that fails."""
        try:
            outputs = self._run(inputs)
        except Exception as error:
            raise EngineError(f"{self.name} does not run: {_first_line(error)}") from error
        require_finite(outputs, "output", EngineError)
        return outputs

    def _run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        values = self._session.run(self._outputs, dict(inputs))
        return dict(zip(self._outputs, map(np.asarray, values), strict=True))


def _session(model: bytes, options: Any, provider: str, precision: str) -> Any:
    import onnxruntime as ort

    names = list(PROVIDERS)[list(PROVIDERS).index(provider) :: -1]
    return ort.InferenceSession(
        model,
        options,
        providers=[(PROVIDERS[name], _settings(name, model, precision)) for name in names],
        # Its kernel is slower than the sum and the normalisation that it replaces.
        disabled_optimizers=["SkipLayerNormFusion"],
        enable_fallback=False,  # in several lines, to the CPU; `choose` does it in one
    )


def _on_gpu(model: bytes, options: Any, provider: str, precision: str) -> Any:
    """A session that runs on the GPU for sure. Raises EngineError."""
    import onnxruntime as ort

    wanted = PROVIDERS[provider]
    if wanted not in ort.get_available_providers():
        raise EngineError(f"this onnxruntime has no {wanted}; pip install onnxruntime-gpu")
    try:
        with _silence():
            session = _session(model, options, provider, precision)
    except Exception as error:
        raise EngineError(f"{wanted} does not start here ({_first_line(error)})") from error
    if session.get_providers()[0] != wanted:  # it goes on without, and raises nothing
        raise EngineError(
            f"{wanted} does not start here: no usable GPU, or its libraries are missing "
            "(pip install 'onnxruntime-gpu[cuda,cudnn]'; on a Jetson JetPack has them)"
        )
    return session


@contextmanager
def _silence() -> Iterator[None]:
    """A provider that cannot load says so in many lines on stdout and stderr, besides failing."""
    import onnxruntime as ort

    ort.set_default_logger_severity(4)
    try:
        with redirect_stdout(io.StringIO()):
            if hasattr(ort, "preload_dlls"):  # since 1.21: CUDA libraries that pip installed
                ort.preload_dlls()
            yield
    finally:
        ort.set_default_logger_severity(2)  # warnings: its default


def _settings(provider: str, model: bytes, precision: str) -> dict[str, str]:
    """onnxruntime's options of the provider for this graph."""
    if provider == "cuda":
        return {"use_tf32": "0"}  # fp32 is the reference: 10 bits of TF32 are not
    if provider == "cpu":
        return {}
    folder = str(cache_folder() / "onnxruntime")
    live, batch = PROFILES.values()
    # Without shapes, TensorRT would build anew at each utterance longer than all before.
    bounds = {"min": live, "opt": live, "max": batch}
    shapes = {
        f"trt_profile_{bound}_shapes": ",".join(
            f"{name}:{'x'.join(map(str, shape[bound]))}"
            for name, shape in profile.items()
            if name not in OPTIONAL or name.encode() in model
        )
        for bound, profile in bounds.items()
    }
    return {
        "trt_fp16_enable": str(precision == "fp16"),
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": folder,
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": folder,
        **shapes,
    }


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]  # a MemoryError says nothing
