"""The models that `train.compare` and `train.ablate` know: options that differ from the DMD's.

A name is the model's folder too. Tables compare all others with the first one.
"""

from dataclasses import dataclass

from runtime.errors import UsageError

from ..models.gd_unit import RULES

__all__ = ["ABLATIONS", "EDGE_RULES", "MODELS", "Entry", "chosen"]


@dataclass(frozen=True)
class Entry:
    """One model: its `title` in tables, its options, and those of a teacher that goes before it."""

    title: str
    options: tuple[str, ...] = ()
    teacher: tuple[str, ...] | None = None


def _kind(name: str) -> tuple[str, ...]:
    return (f'model.kind="{name}"',)


_WITHOUT_DISTILLATION = ("loss.homo_gd=false", "loss.hetero_gd=false")
_WITHOUT_DECOUPLING = ("loss.decoupling=false", "model.decoupled=false")
MODELS: dict[str, Entry] = {
    "dmd": Entry("DMD"),
    "published": Entry("DMD, edges as published", ('loss.edge_rule="published"',)),
    "fixed": Entry("DMD, fixed edges (conventional)", ("loss.learned_edges=false",)),
    "undistilled": Entry("DMD, no distillation", _WITHOUT_DISTILLATION),
    "undecoupled": Entry("DMD, no decoupling", _WITHOUT_DECOUPLING),
    "mult": Entry(
        "MulT", ("model.common_branch=false", *_WITHOUT_DECOUPLING, *_WITHOUT_DISTILLATION)
    ),
    "misa": Entry("MISA", _kind("misa")),
    "pmr": Entry("PMR", _kind("pmr")),
    "corrkd": Entry(
        "CorrKD", _kind("corrkd"), teacher=(*_kind("corrkd"), "data.modality_dropout=0.0")
    ),
    "dhmd": Entry("DHMD", ("loss.lambda_dictionary=0.1",)),
    "late": Entry("late fusion", _kind("late")),
    "text": Entry("text alone", _kind("text")),
    "audio": Entry("audio alone", _kind("audio")),
    "vision": Entry("vision alone", _kind("vision")),
}
ABLATIONS: dict[str, Entry] = {
    "dmd": MODELS["dmd"],
    "no_homo": Entry("DMD, no HomoGD", ("loss.homo_gd=false",)),
    "no_hetero": Entry("DMD, no HeteroGD", ("loss.hetero_gd=false",)),
    "undistilled": MODELS["undistilled"],
    "undecoupled": MODELS["undecoupled"],
    "no_margin": Entry("DMD, no margin loss", ("loss.use_margin=false",)),
    "fixed": MODELS["fixed"],
    "mult": Entry("DMD, crossmodal branch alone (MulT)", MODELS["mult"].options),
}
# The rules of train/models/gd_unit.py, against no learning at all.
EDGE_RULES: dict[str, Entry] = {
    "fixed": Entry("fixed edges (conventional)", MODELS["fixed"].options),
    **{rule: Entry(rule, (f'loss.edge_rule="{rule}"',)) for rule in RULES},
}


def chosen(names: str) -> dict[str, Entry]:
    """The entries of names with commas between. Raises UsageError for an unknown one, or where the
    DMD, which all are compared with, is not among them."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if unknown := [name for name in wanted if name not in MODELS]:
        raise UsageError(f"--models: no {unknown[0]}; there are {', '.join(MODELS)}")
    if "dmd" not in wanted:
        raise UsageError("--models: dmd must be among them; all others are compared with it")
    return {name: MODELS[name] for name in dict.fromkeys(["dmd", *wanted])}
