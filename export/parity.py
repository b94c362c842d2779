"""What export cost: torch against every ONNX model of a bundle, on the same held-out utterances."""

from dataclasses import dataclass

from runtime.config import option

__all__ = ["Options", "compare"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Compare torch with the bundle's ONNX models: differences, metrics, per subset of modalities.

    Each model runs as on the device: one utterance at a time, unpadded. The table is printed and
    written into bundle.json.
    """

    checkpoint: str = option("checkpoint", metavar="FOLDER", help="what train.run wrote")
    bundle: str = option("bundle", metavar="FOLDER", help="what export.graph wrote")
    data: str = option(metavar="DIR", help="folder of the corpora that the model was trained on")
    cache: str = option("build/features", metavar="DIR", help="extracted features, made once")
    split: str = option("test", choices=("valid", "test"), help="which held-out utterances")
    limit: int = option(0, help="compare only the first N utterances; 0: all")


@dataclass(frozen=True)
class Row:
    """One line of the table: a model on a subset of modalities, against torch."""

    subset: str
    model: str
    metrics: dict[str, float]
    change: dict[str, float]
    max_difference: float
    mean_difference: float
    same_top_class: float
