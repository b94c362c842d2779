"""fp32 graph -> int8 graph by dynamic quantization: weights in int8, activations on the fly."""

import logging
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from runtime.bundle import Bundle
from runtime.config import option, parse
from runtime.errors import DmdLiveError

from . import bundle

__all__ = ["Options", "quantize"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Add an int8 model to a bundle (matrix products and embeddings; the rest stays fp32)."""

    bundle: str = option("bundle", metavar="FOLDER", help="a bundle with an fp32 model")


def main() -> int:
    """Run the command; returns the exit code."""
    options = parse(Options, None, prog="python -m export.quantize")
    try:
        quantize(Path(options.bundle))
    except DmdLiveError as error:
        print(f"export.quantize: {error}", file=sys.stderr)
        return 2
    return 0


def quantize(folder: Path) -> None:
    """Write `model.int8.onnx` next to the fp32 model. Raises BundleError for a damaged bundle."""
    from onnxruntime.quantization import QuantType, quant_pre_process, quantize_dynamic

    source = Bundle.load(folder, "fp32")
    logging.getLogger().setLevel(logging.ERROR)  # the quantizer advises on the root logger
    with tempfile.TemporaryDirectory(dir=folder, prefix=".int8-") as temporary:
        fp32, prepared, int8 = (Path(temporary) / f"{n}.onnx" for n in ("fp32", "ready", "int8"))
        fp32.write_bytes(source.model)
        quant_pre_process(fp32, prepared, skip_symbolic_shape=True)
        quantize_dynamic(
            prepared,
            int8,
            op_types_to_quantize=["MatMul", "Gather"],
            per_channel=True,
            # Seven bits: eight would overflow the 16-bit sums of x86 processors without VNNI.
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )
        bundle.write_file(folder / "model.int8.onnx", int8.read_bytes())
    # What was measured for an earlier int8 model does not speak of this one.
    bundle.update(folder, {"models": {"int8": "model.int8.onnx"}, "parity": None})
    sizes = [(folder / f"model.{p}.onnx").stat().st_size / 1e6 for p in ("fp32", "int8")]
    print(f"export.quantize: {sizes[0]:.1f} MB fp32 -> {sizes[1]:.1f} MB int8")


if __name__ == "__main__":
    sys.exit(main())
