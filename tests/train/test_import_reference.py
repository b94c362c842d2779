"""Checkpoints of the published code: same predictions, clear refusals."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.train.published import DIMS, LENGTHS, inputs, weights
from train import checkpoint
from train.import_reference import main

Golden = dict[str, dict]


@pytest.fixture(scope="module")
def golden(root: Path) -> Golden:
    return json.loads((root / "tests" / "golden" / "published_dmd.json").read_text())


@pytest.mark.parametrize(
    "name", ["mosi aligned", "mosi unaligned", "mosei aligned", "mosei unaligned"]
)
def test_predictions_are_those_of_the_published_code(
    golden: Golden, tmp_path: Path, name: str
) -> None:
    dataset, layout = name.split()
    torch.save(weights(golden[name]["shapes"]), tmp_path / "dmd.pth")
    command = [str(tmp_path / "dmd.pth"), "--dataset", dataset, "--layout", layout]
    assert main([*command, "--out", str(tmp_path / "checkpoint")]) == 0
    model = checkpoint.load(tmp_path / "checkpoint").model
    batch = inputs(dataset, layout)
    for m in list(batch):
        batch[f"{m}_mask"] = torch.ones(batch[m].shape[:2], dtype=torch.bool)
    with torch.no_grad():
        predicted = model(batch).outputs[:, 0].numpy()
    np.testing.assert_allclose(predicted, golden[name]["predictions"], atol=1e-4)
    assert main([*command, "--out", str(tmp_path / "checkpoint")]) == 2  # nothing is overwritten


def test_with_a_bert_inside(golden: Golden, tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    size = {"hidden_size": 768, "num_hidden_layers": 1, "num_attention_heads": 12}
    bert = BertModel(BertConfig(vocab_size=50, intermediate_size=16, **size)).eval()
    bert.save_pretrained(tmp_path / "bert")
    state = weights(golden["mosi aligned"]["shapes"])
    inside = {f"text_model.model.{name}": tensor for name, tensor in bert.state_dict().items()}
    torch.save(state | inside, tmp_path / "dmd.pth")
    torch.save(state, tmp_path / "plain.pth")
    batch = inputs("mosi", "aligned")
    for m in list(batch):
        batch[f"{m}_mask"] = torch.ones(batch[m].shape[:2], dtype=torch.bool)
    ids = torch.randint(1, 50, (3, 50), generator=torch.Generator().manual_seed(0))
    ids[0, 20:] = 0
    with torch.no_grad():
        text = bert(input_ids=ids, attention_mask=(ids != 0).long()).last_hidden_state
    outputs = []
    for file, given, extra in (
        ("plain", {"text": text}, ()),
        ("dmd", {"input_ids": ids}, ("--bert", str(tmp_path / "bert"))),
    ):
        out = tmp_path / f"checkpoint-{file}"
        command = [str(tmp_path / f"{file}.pth"), "--dataset", "mosi", "--layout", "aligned"]
        assert main([*command, "--out", str(out), *extra]) == 0
        with torch.no_grad():
            outputs.append(checkpoint.load(out).model(batch | given).outputs[:, 0])
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-4, rtol=0)
    command = [str(tmp_path / "dmd.pth"), "--dataset", "mosi", "--layout", "aligned"]
    assert main([*command, "--out", str(tmp_path / "x")]) == 2  # holds a BERT, none is named


class Hostile:
    """Touches a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("kind", ["missing", "text", "hostile", "other", "layout", "dataset"])
def test_what_does_not_fit_is_one_line(
    golden: Golden, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path, dataset, layout = tmp_path / "dmd.pth", "mosi", "aligned"
    if kind == "text":
        path.write_text("no weights")
    elif kind == "hostile":
        torch.save(Hostile(tmp_path / "touched"), path)
    elif kind == "other":
        torch.save({"weight": torch.zeros(3)}, path)
    elif kind != "missing":
        torch.save(weights(golden["mosi aligned"]["shapes"]), path)
        dataset = "mosei" if kind == "dataset" else "mosi"
        layout = "unaligned" if kind == "layout" else "aligned"
    out = tmp_path / "out"
    code = main([str(path), "--dataset", dataset, "--layout", layout, "--out", str(out)])
    lines = capsys.readouterr().err.splitlines()
    assert code == 2
    assert len(lines) == 1
    assert lines[0].startswith("train.import_reference: ")
    assert not out.exists()
    assert not (tmp_path / "touched").exists()


def test_the_presets_are_the_published_numbers(root: Path) -> None:
    from train import config, import_reference

    for dataset, heads, d in (("mosi", 10, 50), ("mosei", 6, 30)):
        model = config.load(root / "configs" / f"paper_{dataset}.toml").model
        assert (model.dim, model.n_heads, model.n_layers) == (d, heads, 4)
        assert (model.audio_dim, model.vision_dim) == DIMS[dataset][1:]
    assert import_reference._STEPS == LENGTHS
