"""What a bundle's speed is compared with: its checkpoint in torch, and the published model.

Speed does not depend on weights: BERT-base and the published model have random ones here.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.bench.run import JUDGED, Case, Target, contract_inputs
from runtime.engines.base import Arrays, Engine
from runtime.errors import BundleError

__all__ = ["LAYOUTS", "TorchEngine", "about", "of_checkpoint", "of_published_code", "published"]

_CONFIG = Path(__file__).parent.parent / "configs" / "paper_mosi.toml"
# Steps of text, audio and vision in the files of CMU-MOSI that the published code reads (its
# dmd.py); its default is aligned. Five audio and twenty vision features a step (its config.json).
LAYOUTS = {"aligned": (50, 50, 50), "unaligned": (50, 375, 500)}
_WIDTHS = {"audio": 5, "vision": 20}


def about() -> str:
    """How the published model is measured, in a sentence."""
    steps = "; ".join(f"{name}: {a} and {v} steps" for name, (_, a, v) in LAYOUTS.items())
    return (
        "published: the published architecture (configs/paper_mosi.toml) with BERT-base in torch, "
        "weights random, on 50 word pieces and CMU-MOSI's 5 audio and 20 vision features in its "
        f"fixed lengths ({steps})."
    )


class TorchEngine:
    """A torch function behind the interface of engines. `forward` takes tensors by name and
    returns some, which `infer` numbers."""

    name, precision = "torch", "fp32"

    def __init__(self, forward: Callable[[dict[str, Any]], Any], n_threads: int) -> None:
        import torch

        torch.set_num_threads(n_threads)
        self._forward = forward

    def infer(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """See `Engine.infer`."""
        import torch

        with torch.inference_mode():
            outputs = self._forward({n: torch.from_numpy(values) for n, values in inputs.items()})
        return {str(k): tensor.numpy() for k, tensor in enumerate(outputs)}


def of_checkpoint(folder: Path, info: dict[str, Any], n_threads: int) -> Target:
    """The model that a bundle was exported from, in torch. `info`: the bundle's description.

    Raises BundleError when the folder holds another checkpoint, or none.
    """
    try:
        source = json.loads((folder / "checkpoint.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{folder}: no checkpoint ({error})") from error
    if info.get("provenance", {}).get("weights_sha256") != source.get("weights_sha256"):
        raise BundleError(f"{folder}: the bundle was not exported from this checkpoint")
    return Target(
        engine="torch",
        precision="fp32",
        open=partial(_open_checkpoint, folder, n_threads),
        inputs=partial(contract_inputs, folder / "tokenizer.json"),
        size=partial(_folder_bytes, folder),
    )


def _open_checkpoint(folder: Path, n_threads: int) -> Engine:
    from train import checkpoint

    return TorchEngine(checkpoint.load(folder).model.predict, n_threads)


def _folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())


def published(layout: str, n_threads: int) -> Target:
    """Our implementation of the published model, with a BERT-base; `layout`: of `LAYOUTS`."""
    return Target(
        engine=f"published {layout}",
        precision="fp32",
        open=partial(_open_published, layout, n_threads),
        inputs=partial(_published_inputs, layout),
        size=partial(_published_bytes, layout),
        cases=(JUDGED,),
        batches=(8,),
    )


def _published_inputs(layout: str, case: Case, batch: int) -> Arrays:
    """The lengths of the data files, whatever the case."""
    rng = np.random.default_rng(0)
    steps = dict(zip(("text", "audio", "vision"), LAYOUTS[layout], strict=True))
    return {
        "input_ids": rng.integers(1_000, 30_000, (batch, steps["text"])),
        **{m: rng.standard_normal((batch, steps[m], w), np.float32) for m, w in _WIDTHS.items()},
        **{f"{m}_mask": np.ones((batch, n), bool) for m, n in steps.items()},
    }


def _published_model(layout: str) -> Any:
    from transformers import BertConfig, BertModel

    from train import config
    from train.models.dmd import DMD
    from train.models.language import LanguageEncoder

    text, audio, vision = LAYOUTS[layout]
    model = replace(
        config.load(_CONFIG).model, n_steps_text=text, n_steps_audio=audio, n_steps_vision=vision
    )
    return DMD(model, LanguageEncoder(BertModel(BertConfig())), n_emotions=0).eval()


def _open_published(layout: str, n_threads: int) -> Engine:
    model = _published_model(layout)
    return TorchEngine(lambda batch: [model(batch).outputs], n_threads)


def _published_bytes(layout: str) -> int:
    """Of its weights in fp32, without what only training needs."""
    import torch

    with torch.device("meta"):
        return _weight_bytes(_published_model(layout))


def of_published_code(clone: Path, n_threads: int) -> Target:
    """The published code itself, a checkout of mdswyz/DMD, aligned; its BERT-base is made here.

    Raises UsageError when the folder is not one.
    """
    from train.bench import check_clone

    check_clone(clone)
    return replace(
        published("aligned", n_threads),
        engine="published code",
        open=partial(_open_code, clone, n_threads),
        size=partial(_code_bytes, clone),
    )


def _open_code(clone: Path, n_threads: int) -> Engine:
    model, bert = _code(clone)

    def forward(batch: dict[str, Any]) -> Any:
        text = bert(batch["input_ids"], batch["text_mask"].long()).last_hidden_state
        # It takes `is_distill` in its tests too.
        return [model(text, batch["audio"], batch["vision"], is_distill=True)["output_logit"]]

    return TorchEngine(forward, n_threads)


def _code(clone: Path) -> tuple[Any, Any]:
    from transformers import BertConfig, BertModel

    from train.bench import published_code

    code = published_code(clone, "mosi", "cpu")
    return code.dmd.DMD(code.args).eval(), BertModel(BertConfig()).eval()


def _code_bytes(clone: Path) -> int:
    """Of all weights that it stores."""
    import torch

    with torch.device("meta"):
        return sum(_weight_bytes(part) for part in _code(clone))


def _weight_bytes(model: Any) -> int:
    return sum(4 * parameter.numel() for parameter in model.parameters())
