"""Makes published_others.json: what public code of the models compared with says on known weights.

Run once, with clones of which nothing is kept but names, shapes and numbers: declare-lab/MISA, and
SZU-AdvTech-2022/332-Progressive-Modality-Reinforcement-... (of PMR the authors published nothing;
this is a re-implementation, whose unit of reinforcement is taken), and yuxiaochen1103/FDT, whose
dictionary DHMD has:

    python tests/golden/make_published_others.py MISA PMR FDT > tests/golden/published_others.json
"""

import ast
import json
import math
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))
from tests.train.published import WIDTHS, utterances, weights  # noqa: E402


class Vectors(nn.Module):
    """Stands for BERT: the vectors that it is given."""

    @staticmethod
    def from_pretrained(*_: Any, **__: Any) -> "Vectors":
        return Vectors()

    def forward(self, input_ids: Tensor, **_: Any) -> tuple[Tensor]:
        return (input_ids,)


def misa(clone: Path) -> dict[str, Any]:
    """Predictions and losses of MISA."""
    sys.modules["gensim"] = ModuleType("gensim")
    sys.path.insert(0, str(clone / "src"))
    import models
    import solver
    from utils import CMD, MSE, DiffLoss

    models.BertModel, models.BertConfig = Vectors, Vectors
    config = SimpleNamespace(
        embedding_size=WIDTHS["text"], visual_size=WIDTHS["vision"], hidden_size=16, dropout=0.5,
        acoustic_size=WIDTHS["audio"], num_classes=8, activation=nn.ReLU, rnncell="lstm",
        use_bert=True, use_cmd_sim=True,
    )  # fmt: skip
    model = models.MISA(config).eval()
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    model.load_state_dict(weights(shapes))
    rows, mask = utterances()
    lengths = mask["audio"].sum(dim=1)
    with torch.no_grad():
        said = model(
            None, rows["vision"].transpose(0, 1), rows["audio"].transpose(0, 1), lengths,
            rows["text"], None, mask["text"].float(),
        )  # fmt: skip
        judge: Any = solver.Solver.__new__(solver.Solver)
        judge.model, judge.train_config = model, config
        judge.loss_cmd, judge.loss_diff, judge.loss_recon = CMD(), DiffLoss(), MSE()
        losses = [judge.get_cmd_loss(), judge.get_diff_loss(), judge.get_recon_loss()]
    return {
        "predictions": said.tolist(),
        "losses": [float(loss) for loss in losses],
        "shapes": shapes,
    }


def pmr(clone: Path) -> dict[str, Any]:
    """What the unit of reinforcement makes of rows and a source, causal or not."""
    sys.path.insert(0, str(clone))
    from modules.transformer import MRUEncoderBlock

    found: dict[str, Any] = {}
    rows, _ = utterances()
    query, source = rows["hub"], rows["other"]
    for causal in (False, True):
        unit = MRUEncoderBlock(16, num_heads=4, attn_mask=causal).eval()
        shapes = {name: list(tensor.shape) for name, tensor in unit.state_dict().items()}
        unit.load_state_dict(weights(shapes))
        with torch.no_grad():
            key = source.transpose(0, 1)
            said = unit(query.transpose(0, 1), key, key)
        found["causal" if causal else "free"] = said.transpose(0, 1).tolist()
        found["shapes"] = shapes
    return found


def fdt(clone: Path) -> dict[str, Any]:
    """What FDT's dictionary makes of rows: activations, some of them 0, and features."""
    sys.path.insert(0, str(clone / "prototype" / "model"))
    from sparsemax import Sparsemax

    source = (clone / "prototype" / "model" / "clip_fdt.py").read_text()
    (query,) = (
        node for node in ast.parse(source).body if getattr(node, "name", "") == "Query_model"
    )
    known: dict[str, Any] = {"nn": nn, "torch": torch, "math": math, "Sparsemax": Sparsemax}
    exec(compile(ast.Module([query], []), "clip_fdt.py", "exec"), known)
    unit = known["Query_model"](16, 16, att_func_type="sparsemax", pool_type="max").eval()
    shapes = {name: list(tensor.shape) for name, tensor in unit.state_dict().items()}
    unit.load_state_dict(weights(shapes))
    rows, _ = utterances()
    atoms = weights({"space_dict": [12, 16]})["space_dict"]
    with torch.no_grad():
        activation, feature, _ = unit(rows["hub"], 100.0 * atoms)
    return {"activation": activation.tolist(), "feature": feature.tolist(), "shapes": shapes}


misa_clone, pmr_clone, fdt_clone = map(Path, sys.argv[1:])
found = {"misa": misa(misa_clone), "pmr": pmr(pmr_clone), "fdt": fdt(fdt_clone)}
json.dump(found, sys.stdout)
print()
