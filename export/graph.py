"""Checkpoint -> bundle with the fp32 ONNX graph."""

import ast
import logging
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from runtime.config import option, parse
from runtime.engines.golden import GOLDEN, record
from runtime.engines.ort import OrtEngine
from runtime.errors import BundleError, DmdLiveError, UsageError
from runtime.features.audio import audio_rows
from runtime.features.embedding import EMBEDDING_DIM
from runtime.features.normal import SpeechStatistics
from runtime.features.pack import INPUTS, OPTIONAL, OUTPUTS, Rows
from runtime.features.spec import MODALITIES, SPEC
from runtime.features.text import TextFeatures
from runtime.judging.calibration import Calibration
from runtime.store.bundle import FORMAT
from runtime.system.files import write_file
from train import calibrate, checkpoint
from train.data.corpora import EMOTIONS
from train.data.prototypes import prototypes
from train.models.dmd import DMD
from train.provenance import commit

from . import bundle, fusions

__all__ = ["OPSET", "Options", "export_graph"]

# Opset 18 is the first with all operators of this model's exporter; onnxruntime >= 1.14 and
# TensorRT >= 10 read it.
OPSET = 18
# Of the checkpoint's JSON, what the bundle keeps.
_PROVENANCE = ("config", "seed", "commit", "inputs", "weights_sha256", "data", "metrics")
_AXES = {
    "B": (1, 256),
    "Tt": (1, SPEC.max_pieces),
    "Ta": (1, round(SPEC.max_utterance_s * SPEC.audio_rate_hz)),
    "Tv": (1, round(SPEC.max_utterance_s * SPEC.vision_rate_hz)),
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Export a checkpoint to a bundle: fp32 ONNX graph, tokenizer, description."""

    checkpoint: str = option("checkpoint", metavar="FOLDER", help="what train.run wrote")
    out: str = option(
        "bundle", metavar="FOLDER", help="the bundle to write; an existing one is replaced"
    )
    calibration: str | None = option(
        None,
        metavar="FILE",
        help="what train.calibrate wrote, instead of the checkpoint's own calibration",
    )


class _Deployed(nn.Module):
    """The contract's inputs and outputs as positional tensors, for the tracer."""

    def __init__(self, dmd: DMD) -> None:
        super().__init__()
        self.dmd = dmd

    def forward(
        self,
        input_ids: Tensor,
        text_mask: Tensor,
        audio: Tensor,
        audio_mask: Tensor,
        vision: Tensor,
        vision_mask: Tensor,
        audio_embedding: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        batch = {
            "input_ids": input_ids,
            "text_mask": text_mask,
            "audio": audio,
            "audio_mask": audio_mask,
            "vision": vision,
            "vision_mask": vision_mask,
        }
        if audio_embedding is not None:
            batch["audio_embedding"] = audio_embedding
        return self.dmd.predict(batch)


def main() -> int:
    """Run the command; returns the exit code."""
    options = parse(Options, None, prog="python -m export.graph")
    try:
        source = checkpoint.load(Path(options.checkpoint))
        calibration = source.calibration
        if options.calibration is not None:
            calibration = calibrate.read(Path(options.calibration), source.info["emotions"])
        write_bundle(source, Path(options.out), calibration)
    except DmdLiveError as error:
        print(f"export.graph: {error}", file=sys.stderr)
        return 2
    return 0


def write_bundle(
    source: checkpoint.Checkpoint, out: Path, calibration: Calibration | None = None
) -> None:
    """Write a new bundle folder at `out`, replacing a bundle that is there; `calibration` instead
    of the checkpoint's own."""
    calibration = calibration or source.calibration
    _check(source, out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".bundle-") as temporary:
        folder = Path(temporary) / "bundle"
        folder.mkdir()
        print("export.graph: tracing and writing model.fp32.onnx", flush=True)
        export_graph(source.model, folder / "model.fp32.onnx")
        shutil.copyfile(source.folder / "tokenizer.json", folder / "tokenizer.json")
        engine = OrtEngine((folder / "model.fp32.onnx").read_bytes())
        known = _known_utterances(folder / "tokenizer.json")
        write_file(folder / GOLDEN, record(engine, known))
        bundle.update(
            folder,
            {
                "format": FORMAT,
                "feature_spec": asdict(SPEC),
                "feature_spec_sha256": SPEC.sha256(),
                "modalities": list(MODALITIES),
                "emotions": source.info["emotions"],
                "calibration": calibration.to_dict(),
                "inputs": {
                    name: {"dtype": kind, "shape": list(shape)}
                    for name, (kind, shape) in _inputs(source.model).items()
                },
                "outputs": {name: list(shape) for name, shape in OUTPUTS.items()},
                "opset": OPSET,
                "models": {"fp32": "model.fp32.onnx"},
                "documents": [GOLDEN],
                "provenance": {
                    name: source.info[name] for name in _PROVENANCE if name in source.info
                },
                "exported_by_commit": commit(),
            },
        )
        if (out / "bundle.json").exists():
            shutil.rmtree(out)
        folder.rename(out)
    print(f"export.graph: {out} written")


def _check(source: checkpoint.Checkpoint, out: Path) -> None:
    """Raises BundleError for a model that no device can feed, UsageError for a folder to keep."""
    config = source.model.config
    rows = config.audio_dim, config.vision_dim
    if source.model.language is None or rows != (SPEC.audio_dim, SPEC.vision_dim):
        raise BundleError(f"{source.folder}: reads a feature file's numbers, which no device makes")
    replaced = not out.exists() or (out / "bundle.json").exists()
    if not replaced and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out}: is no bundle, and is not replaced; pass another --out")


def export_graph(model: DMD, path: Path) -> None:
    """Write the fp32 graph with dynamic batch and time axes (opset `OPSET`)."""
    inputs = _inputs(model)
    axes = {name: torch.export.Dim(name, min=low, max=high) for name, (low, high) in _AXES.items()}
    dynamic = tuple(
        {k: axes[axis] for k, axis in enumerate(shape) if isinstance(axis, str)}
        for _, shape in inputs.values()
    )
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's notes on its own internals
        program: Any = torch.onnx.export(
            _Deployed(model).eval(),
            _example(inputs),
            dynamo=True,
            dynamic_shapes=dynamic,
            input_names=list(inputs),
            output_names=list(OUTPUTS),
            opset_version=OPSET,
            custom_translation_table={torch.ops.aten.gelu.default: fusions.gelu},
            verbose=False,
        )
    fusions.share(program.model)
    proto = program.model_proto
    _name_nodes(proto.graph)
    fusions.share_norms(proto.graph)
    path.write_bytes(proto.SerializeToString())


def _known_utterances(tokenizer_json: Path) -> list[Rows]:
    """Utterances for the self-test of engines: words alone, a voice and a face, and all three. They
    are nobody's: the voice is a buzz in syllables, the faces are made up."""
    text = TextFeatures(tokenizer_json)
    seconds = np.arange(SPEC.sample_rate_hz) / SPEC.sample_rate_hz
    pitch_hz = 160.0 + 40.0 * np.sin(2.0 * np.pi * 0.5 * seconds)
    phase = 2.0 * np.pi * np.cumsum(pitch_hz) / SPEC.sample_rate_hz
    buzz = np.sum([np.sin(k * phase) / k for k in range(1, 20)], axis=0)
    voice = SpeechStatistics().normalise(
        audio_rows((0.1 * buzz * np.abs(np.sin(2.0 * np.pi * 2.0 * seconds))).astype("f4"))
    )
    faces = {r.emotion: np.tile(row, (12, 1)) for r, row in prototypes() if r.split == "test"}
    happy, angry = (faces[EMOTIONS.index(name)] for name in ("happiness", "anger"))
    heard = np.sin(np.arange(EMBEDDING_DIM, dtype=np.float32))
    words = [text.ids(s) for s in ("I am so happy to see you", "the meeting is at three")]
    return [
        Rows(text=words[0], audio=voice[:0], vision=happy[:0]),
        Rows(text=words[0][:0], audio=voice, vision=angry, audio_embedding=heard),
        Rows(text=words[1], audio=voice, vision=happy),
    ]


def _name_nodes(graph: Any) -> None:
    """Name each node by the module that it comes from, as in
    `language.encoder.encoder.layer.0.intermediate.dense/MatMul`; and drop the exporter's notes,
    which hold paths of this machine."""
    n_named: Counter[str] = Counter()
    for node in graph.node:
        notes = {note.key: note.value for note in node.metadata_props}
        scopes = ast.literal_eval(notes.get("pkg.torch.onnx.name_scopes", "[]"))
        module = next((s for s in reversed(scopes) if s == "dmd" or s.startswith("dmd.")), "dmd")
        name = f"{module.removeprefix('dmd').lstrip('.') or 'dmd'}/{node.op_type}"
        n_named[name] += 1
        node.name = name if n_named[name] == 1 else f"{name}_{n_named[name]}"
    for item in (*graph.node, *graph.value_info, *graph.initializer, *graph.input, *graph.output):
        del item.metadata_props[:]


def _inputs(model: DMD) -> dict[str, tuple[str, tuple[str | int, ...]]]:
    """The contract's inputs that the model reads."""
    left_out = OPTIONAL if model.embedding is None else frozenset()
    return {name: described for name, described in INPUTS.items() if name not in left_out}


def _example(inputs: dict[str, tuple[str, tuple[str | int, ...]]]) -> tuple[Tensor, ...]:
    """Inputs to trace with: two utterances, sizes that no constant of the model equals."""
    sizes = {"B": 2, "Tt": 11, "Ta": 53, "Tv": 37}
    shapes = [
        tuple(sizes[a] if isinstance(a, str) else a for a in shape) for _, shape in inputs.values()
    ]
    kinds = [kind for kind, _ in inputs.values()]
    return tuple(
        torch.zeros(s, dtype=torch.float32)
        if k == "float32"
        else torch.ones(s, dtype=getattr(torch, k))
        for k, s in zip(kinds, shapes, strict=True)
    )


if __name__ == "__main__":
    sys.exit(main())
