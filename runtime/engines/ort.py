"""onnxruntime, on the CPU or with its CUDA and TensorRT providers."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BundleError, EngineError, FeatureError
from .base import Arrays

__all__ = ["PROVIDERS", "OrtEngine"]

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "ort-tensorrt": "TensorrtExecutionProvider",
}


class OrtEngine:
    """An ONNX graph in onnxruntime. `model`: the file's content; `precision`: what the bundle calls
    it; `n_threads`: for one inference; `provider`: of `PROVIDERS`. Raises BundleError for a graph
    that does not load, and EngineError when the provider is not here."""

    def __init__(
        self, model: bytes, *, precision: str = "fp32", n_threads: int = 2, provider: str = "cpu"
    ) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = n_threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        # Threads that spin while they wait would keep a robot's core busy between utterances.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        wanted = PROVIDERS[provider]
        if wanted not in ort.get_available_providers():
            raise EngineError(f"this onnxruntime has no {wanted}; pip install onnxruntime-gpu")
        try:
            self._session = ort.InferenceSession(
                model,
                options,
                providers=list(dict.fromkeys((wanted, PROVIDERS["cpu"]))),
                # Its kernel is slower than the sum and the normalisation that it replaces.
                disabled_optimizers=["SkipLayerNormFusion"],
            )
        except Exception as error:  # onnxruntime's exceptions share no public base class
            reason = str(error).splitlines()[0]
            raise BundleError(
                f"the bundle's graph does not load ({reason}); export it again"
            ) from error
        if self._session.get_providers()[0] != wanted:  # it goes on without, and says nothing
            raise EngineError(f"{wanted} does not start here; are its CUDA libraries installed?")
        self.name, self.precision = provider, precision
        self._outputs = [output.name for output in self._session.get_outputs()]

    def infer(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """See `Engine.infer`."""
        for name, value in inputs.items():
            if not np.isfinite(value).all():  # quantized, NaN would come out as a number
                raise FeatureError(f"input {name!r} holds NaN or infinite values")
        try:
            values = self._session.run(self._outputs, dict(inputs))
        except Exception as error:
            reason = str(error).splitlines()[0]
            raise FeatureError(f"the graph refused its inputs: {reason}") from error
        outputs = dict(zip(self._outputs, map(np.asarray, values), strict=True))
        for name, value in outputs.items():
            if not np.isfinite(value).all():
                raise FeatureError(f"output {name!r} is not finite")
        return outputs
