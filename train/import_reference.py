"""Read a checkpoint of the published DMD code: `python -m train.import_reference FILE.pth`.

The published code (mdswyz/DMD) saves the `state_dict` of its model, with BERT inside when it was
trained with one. Its weights become those of `configs/paper_mosi.toml` or `paper_mosei.toml`, and
the predictions stay the same. Decoders and heads that only its training used are left behind.
"""

import hashlib
import pickle
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runtime.config import option, parse
from runtime.errors import BundleError, DmdLiveError, ModelError, UsageError

from . import checkpoint, config
from .config import Config
from .models.dmd import DMD
from .models.language import LanguageEncoder, locate
from .provenance import commit

__all__ = ["Options", "convert", "import_reference"]

_CONFIGS = Path(__file__).parent.parent / "configs"
_LETTERS = {"text": "l", "audio": "a", "vision": "v"}
# Steps of text, audio, vision in the data files that the published code reads (its dmd.py).
_STEPS = {
    ("mosi", "aligned"): (50, 50, 50),
    ("mosi", "unaligned"): (50, 375, 500),
    ("mosei", "aligned"): (50, 50, 50),
    ("mosei", "unaligned"): (50, 500, 500),
}
_BERT = "text_model.model."


@dataclass(frozen=True, kw_only=True)
class Options:
    """Turn a checkpoint of the published DMD code into one of ours; predictions stay the same."""

    file: str = option(
        metavar="FILE.pth", positional=True, help="state_dict saved by the published code"
    )
    dataset: str = option(choices=("mosi", "mosei"), help="the data set it was trained on")
    layout: str = option(
        choices=("aligned", "unaligned"), help="whether the modalities are aligned"
    )
    bert: str | None = option(
        None,
        metavar="NAME_OR_FOLDER",
        help="where BERT's config and tokenizer are, if FILE.pth holds a BERT",
    )
    out: str = option(metavar="DIR", help="where the checkpoint goes")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = parse(Options, argv, prog="python -m train.import_reference")
    try:
        import_reference(options)
    except DmdLiveError as error:
        print(f"train.import_reference: {error}", file=sys.stderr)
        return 2
    return 0


def import_reference(options: Options) -> DMD:
    """Convert and write; raises DmdLiveError for a file that is not what the options say."""
    path, out = Path(options.file), Path(options.out)
    if (out / "checkpoint.json").exists():
        raise UsageError(f"{out}: already holds a checkpoint; pass another --out")
    weights = _read(path)
    settings = _settings(options, weights)
    language, tokenizer = _language(options, weights)
    model = DMD(settings.model, language, n_emotions=0)
    converted = convert(weights, settings.model.dim)
    _check(model, converted, f"{path}: is no {options.layout} {options.dataset.upper()} model")
    model.load_state_dict(converted)
    info = {
        "emotions": [],
        "commit": commit(),
        "imported": {
            "file": path.name,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "dataset": options.dataset,
            "layout": options.layout,
        },
        "n_parameters": sum(p.numel() for p in model.parameters()),
    }
    checkpoint.save(out, model, settings, tokenizer, info)
    n_all, n_kept = (sum(t.numel() for t in w.values()) for w in (weights, converted))
    print(f"{out} written: {n_kept} of {n_all} numbers; the rest served training only")
    return model


def convert(weights: Mapping[str, Tensor], d: int) -> dict[str, Tensor]:
    """The published names and layouts -> those of `DMD`; `d` is the common width."""
    out: dict[str, Tensor] = {}
    for m, letter in _LETTERS.items():
        out[f"project.{m}.conv.weight"] = weights[f"proj_{letter}.weight"]
        out[f"encode_private.{m}.weight"] = weights[f"encoder_s_{letter}.weight"].squeeze(-1)
        out |= _transformer(weights, f"self_attentions_c_{letter}", f"self_common.{m}", d)
        out |= _transformer(weights, f"trans_{letter}_mem", f"memory.{m}", 2 * d)
        for source, other in _LETTERS.items():
            if source != m:
                old, new = f"trans_{letter}_with_{other}", f"crossmodal.{source}_to_{m}"
                out |= _transformer(weights, old, new, d)
        for old, new in (("proj1", "down"), ("proj2", "up"), ("out_layer", "out")):
            out |= _linear(weights, f"{old}_{letter}_low", f"homo_heads.{m}.{new}")
        out |= _linear(weights, f"weight_{letter}", f"fusion.hetero.{m}")
    out["encode_common.weight"] = weights["encoder_c.weight"].squeeze(-1)
    # The published order is text, vision, audio; ours text, audio, vision.
    common = torch.cat([torch.arange(k * d, (k + 1) * d) for k in (0, 2, 1)])
    fused = torch.cat([torch.arange(k * 2 * d, (k + 1) * 2 * d) for k in (0, 2, 1)])
    fused = torch.cat([fused, 6 * d + common])
    out["fusion.homo.weight"] = weights["weight_c.weight"][common][:, common]
    out["fusion.homo.bias"] = weights["weight_c.bias"][common]
    out |= _linear(weights, "proj1", "fused_head.down")
    out |= _linear(weights, "proj2", "fused_head.up")
    out |= _linear(weights, "out_layer", "fused_head.out")
    for name in ("down", "out"):
        out[f"fused_head.{name}.weight"] = out[f"fused_head.{name}.weight"][:, fused]
    for name in ("weight", "bias"):
        out[f"fused_head.up.{name}"] = out[f"fused_head.up.{name}"][fused]
    for name, tensor in weights.items():
        if name.startswith(_BERT) and ".pooler." not in name and "position_ids" not in name:
            out[f"language.encoder.{name.removeprefix(_BERT)}"] = tensor
    return {name: tensor.contiguous().float() for name, tensor in out.items()}


def _transformer(weights: Mapping[str, Tensor], old: str, new: str, dim: int) -> dict[str, Tensor]:
    out = _linear(weights, f"{old}.layer_norm", f"{new}.norm")
    n = 0
    while f"{old}.layers.{n}.fc1.weight" in weights:
        layer, ours = f"{old}.layers.{n}", f"{new}.layers.{n}"
        for kind in ("weight", "bias"):
            joint = weights[f"{layer}.self_attn.in_proj_{kind}"]
            out[f"{ours}.query.{kind}"] = joint[:dim]
            out[f"{ours}.key_value.{kind}"] = joint[dim:]
        for theirs, name in (
            ("self_attn.out_proj", "out"),
            ("fc1", "feed_forward.0"),
            ("fc2", "feed_forward.3"),
            ("layer_norms.0", "norm_attention"),
            ("layer_norms.1", "norm_feed_forward"),
        ):
            out |= _linear(weights, f"{layer}.{theirs}", f"{ours}.{name}")
        n += 1
    return out


def _linear(weights: Mapping[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    return {f"{new}.{kind}": weights[f"{old}.{kind}"] for kind in ("weight", "bias")}


def _read(path: Path) -> dict[str, Tensor]:
    """A published `state_dict`; raises BundleError for any other file."""
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror or error}; pass a .pth file") from error
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
        raise BundleError(
            f"{path}: holds more than tensors, so it is not loaded; save model.state_dict()"
        ) from error
    if not isinstance(weights, dict) or not all(isinstance(t, Tensor) for t in weights.values()):
        raise BundleError(f"{path}: not a state_dict; save model.state_dict() of the DMD model")
    missing = {"proj_l.weight", "encoder_c.weight", "weight_c.weight", "out_layer.weight"}
    missing -= weights.keys()
    if missing:
        raise BundleError(
            f"{path}: not from the published DMD: it lacks {', '.join(sorted(missing))}"
        )
    return dict(weights)


def _settings(options: Options, weights: Mapping[str, Tensor]) -> Config:
    """The preset of the data set, with the lengths of the layout and the width of the text."""
    settings = config.load(_CONFIGS / f"paper_{options.dataset}.toml")
    text, audio, vision = _STEPS[options.dataset, options.layout]
    model = replace(
        settings.model,
        language=options.bert or "",
        text_dim=0 if _has_bert(weights) else weights["proj_l.weight"].shape[1],
        n_steps_text=text,
        n_steps_audio=audio,
        n_steps_vision=vision,
    )
    return replace(settings, model=model)


def _language(
    options: Options, weights: Mapping[str, Tensor]
) -> tuple[LanguageEncoder | None, Path | None]:
    if not _has_bert(weights):
        return None, None
    if options.bert is None:
        raise UsageError(
            f"{options.file}: holds a BERT; name it with --bert, such as --bert bert-base-uncased"
        )
    from transformers import AutoConfig

    folder = locate(options.bert)
    try:
        described = AutoConfig.from_pretrained(folder, trust_remote_code=False).to_diff_dict()
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"--bert {options.bert}: no config.json there ({reason})") from error
    tokenizer = Path(folder) / "tokenizer.json"
    return LanguageEncoder.from_config(described), tokenizer if tokenizer.exists() else None


def _has_bert(weights: Mapping[str, Tensor]) -> bool:
    return any(name.startswith(_BERT) for name in weights)


def _check(model: DMD, converted: Mapping[str, Tensor], problem: str) -> None:
    """Raise BundleError, naming the first tensor that does not fit."""
    wanted: dict[str, Any] = dict(model.state_dict())
    for name in sorted(wanted.keys() | converted.keys()):
        shapes = [tuple(w[name].shape) if name in w else None for w in (converted, wanted)]
        if shapes[0] != shapes[1]:
            raise BundleError(f"{problem}: {name} is {shapes[0]}, expected {shapes[1]}")


if __name__ == "__main__":
    sys.exit(main())
