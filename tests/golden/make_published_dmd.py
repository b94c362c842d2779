"""Makes published_dmd.json: what the published DMD code predicts from known weights and inputs.

Run once, with a clone of mdswyz/DMD (of which nothing is kept but names, shapes and predictions):

    python tests/golden/make_published_dmd.py CLONE > tests/golden/published_dmd.json
"""

import json
import sys
from itertools import product
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))
from tests.train.published import inputs, weights  # noqa: E402

clone = Path(sys.argv[1])
sys.modules["pynvml"] = ModuleType("pynvml")
sys.path.append(str(clone))
from trains.singleTask.model.dmd import DMD  # noqa: E402

settings = json.loads((clone / "config" / "config.json").read_text())
golden = {}
for dataset, layout in product(("mosi", "mosei"), ("aligned", "unaligned")):
    args = SimpleNamespace(
        **settings["dmd"]["commonParams"],
        **settings["dmd"]["datasetParams"][dataset],
        **settings["datasetCommonParams"][dataset][layout],
    )
    args.dataset_name, args.need_data_aligned = dataset, layout == "aligned"
    args.use_bert = False
    model = DMD(args).eval()
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    model.load_state_dict(weights(shapes))
    batch = inputs(dataset, layout)
    with torch.no_grad():
        predicted = model(*(batch[m].clone() for m in ("text", "audio", "vision")))
    golden[f"{dataset} {layout}"] = {
        "predictions": [round(float(y), 6) for y in predicted["output_logit"][:, 0]],
        "shapes": shapes,
    }
json.dump(golden, sys.stdout)
print()
