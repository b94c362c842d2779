"""MMSA's files: what they hold, what they may not hold, and a model trained on one."""

import csv
import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.train import mmsa_file, published
from train import evaluate, run
from train.data.corpora import EMOTIONS, DataError
from train.data.mmsa import Mmsa
from train.import_reference import main as import_reference


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_rows_are_those_of_the_file(tmp_path: Path, protocol: int) -> None:
    tables = mmsa_file.content(layout="unaligned")
    path = mmsa_file.write(tmp_path / "unaligned_50.pkl", tables, protocol)
    found = Mmsa(path, bert=False, padded=False, seed=0)
    assert (found.dataset, found.aligned, found.n_training) == ("mosi", False, 24)
    assert found.dims == {"text": 768, "audio": 5, "vision": 20}
    assert found.lengths == {"text": 50, "audio": 375, "vision": 500}
    assert found.n_not_finite == 2
    test = list(found.held_out("test"))
    assert [u.id for u in test] == tables["test"]["id"]
    for k, utterance in enumerate(test):
        n = tables["test"]["audio_lengths"][k]
        np.testing.assert_array_equal(utterance.audio, tables["test"]["audio"][k, :n])
        assert not tables["test"]["text"][k, len(utterance.text) :].any()
        assert utterance.text[-1].any()
        assert utterance.sentiment == tables["test"]["regression_labels"][k]
        assert utterance.emotion == -1
    first = next(iter(found.held_out("train")))
    assert first.audio[0, 0] == 0.0
    again = list(found.held_out("test"))
    assert len(again) == len(test)  # a split can be read twice


def test_padded_rows_and_word_pieces(tmp_path: Path) -> None:
    tables = mmsa_file.content()
    path = mmsa_file.write(tmp_path / "aligned_50.pkl", tables)
    (first, *_) = Mmsa(path, bert=True, padded=True, seed=0).held_out("valid")
    np.testing.assert_array_equal(first.text, tables["valid"]["text_bert"][0, 0])
    assert first.text.dtype == np.int64
    assert first.audio.shape == (50, 5)
    (cut, *_) = Mmsa(path, bert=True, padded=False, seed=0).held_out("valid")
    assert len(cut.text) == tables["valid"]["text_bert"][0, 1].sum()


def test_every_epoch_has_its_own_order(tmp_path: Path) -> None:
    path = mmsa_file.write(tmp_path / "aligned_50.pkl", mmsa_file.content())
    found = Mmsa(path, bert=False, padded=False, seed=3)
    orders = [[found.training(epoch, k).id for k in range(24)] for epoch in (0, 1, 0)]
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])


def test_emotions_of_mosei(tmp_path: Path) -> None:
    tables = mmsa_file.content("mosei")
    for table in tables.values():
        strength = np.zeros((len(table["id"]), 6))
        strength[1, 2], strength[2, [0, 5]] = 1.0, (0.3, 2.0)
        table["emotion_labels"] = strength
    path = mmsa_file.write(tmp_path / "aligned_50.pkl", tables)
    found = list(Mmsa(path, bert=False, padded=False, seed=0).held_out("test"))
    assert [EMOTIONS[u.emotion] for u in found[:3]] == ["neutral", "anger", "fear"]


def wrong(kind: str) -> dict[str, dict]:
    tables = mmsa_file.content()
    train = tables["train"]
    if kind == "split":
        del tables["valid"]
    elif kind == "key":
        del train["vision"]
    elif kind == "shape":
        train["audio"] = train["audio"][:, :, 0]
    elif kind == "rows":
        train["audio"] = train["audio"][:-1]
    elif kind == "width":
        tables["test"]["audio"] = tables["test"]["audio"][:, :, :4]
    elif kind == "label":
        train["regression_labels"][5] = 3.5
    elif kind == "nan label":
        train["regression_labels"][5] = np.nan
    elif kind == "ids":
        train["id"] = train["id"][:-1]
    return tables


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("split", "valid: no such split"),
        ("key", "train: lacks vision"),
        ("shape", r"train/audio has shape \(24, 50\)"),
        ("rows", r"train/audio has shape \(23, 50, 5\)"),
        ("width", r"test/audio has shape \(8, 50, 4\)"),
        ("label", "row 5 is 3.5"),
        ("nan label", "row 5 is nan"),
        ("ids", "train/id: 23 entries for 24"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, kind: str, message: str) -> None:
    path = mmsa_file.write(tmp_path / "aligned_50.pkl", wrong(kind))
    with pytest.raises(DataError, match=message):
        Mmsa(path, bert=False, padded=False, seed=0)


class Calls:
    """Pickles as a call of `function(*arguments)`."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.call


@pytest.mark.parametrize("kind", ["system", "eval", "path", "memmap", "load", "getattr"])
def test_a_hostile_pickle_does_nothing(tmp_path: Path, kind: str) -> None:
    import os

    target = tmp_path / "touched"
    attack = {
        "system": Calls(os.system, f"touch {target}"),
        "eval": Calls(eval, f"open({str(target)!r}, 'w')"),
        "path": Calls(Path.touch, target),
        "memmap": Calls(np.memmap, str(target), "uint8", "w+", 0, (4,)),
        "load": Calls(np.load, str(target), None, True),
        "getattr": Calls(getattr, "text", "upper"),
    }[kind]
    tables = mmsa_file.content()
    tables["train"]["raw_text"] = np.array([attack], dtype=object)
    with pytest.raises(DataError, match="refused"):
        Mmsa(mmsa_file.write(tmp_path / "x.pkl", tables), bert=False, padded=False, seed=0)
    assert not target.exists()


def test_an_array_subclass_is_refused(tmp_path: Path) -> None:
    # _reconstruct is allowed, but only for plain arrays: a memory map would open a file.
    hostile = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(I0\ntVb\ntR."
    (tmp_path / "x.pkl").write_bytes(hostile)
    with pytest.raises(DataError, match="refused"):
        Mmsa(tmp_path / "x.pkl", bert=False, padded=False, seed=0)


_O = b"cnumpy\ndtype\n(VO\nI00\nI01\ntR"
# A dtype whose state gives it a field of objects and no flag that says so.
_STRUCTURE = b"cnumpy\ndtype\n(VV8\nI00\nI01\ntR(I3\nV|\nN(Va\nt}Va\n(%sI0\ntsI8\nI1\nI0\ntb" % _O
_BYTES = b"C\x08AAAAAAAA"
_EMPTY = b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntC\x01btR"


@pytest.mark.parametrize(
    "hostile",
    [
        b"cnumpy\nndarray\n((I1\nt" + _O + _BYTES + b"tR.",
        b"cnumpy\nndarray\n((I1\nt" + _STRUCTURE + _BYTES + b"tR.",
        b"cnumpy._core.numeric\n_frombuffer\n(" + _BYTES + _STRUCTURE + b"(I1\ntVC\ntR.",
        b"cnumpy._core.multiarray\nscalar\n(" + _STRUCTURE + _BYTES + b"tR.",
        _EMPTY + b"(I1\n(I1\nt" + _STRUCTURE + b"I00\n" + _BYTES + b"tb.",
        _EMPTY + b"(I1\n(I1\nt" + _O + b"I00\n" + _BYTES + b"tb.",
    ],
)
def test_bytes_never_become_addresses_of_objects(tmp_path: Path, hostile: bytes) -> None:
    # numpy's own functions do as they are told by these, and the process dies at the first look.
    (tmp_path / "x.pkl").write_bytes(hostile)
    with pytest.raises(DataError, match=r"refused|not a complete pickle"):
        Mmsa(tmp_path / "x.pkl", bert=False, padded=False, seed=0)


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "missing", "list"])
def test_what_is_no_file_of_mmsa(tmp_path: Path, damage: str) -> None:
    path = mmsa_file.write(tmp_path / "x.pkl", mmsa_file.content())
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:50_000])
    elif damage == "text":
        path.write_text("not a pickle")
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "list":
        path.write_bytes(pickle.dumps([1, 2, 3]))
    else:
        path.unlink()
    with pytest.raises(DataError) as caught:
        Mmsa(path, bert=False, padded=False, seed=0)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_preset_trains_and_is_evaluated(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = mmsa_file.write(tmp_path / "aligned_50.pkl", mmsa_file.content())
    small = "model.text_dim=768;model.dim=20;model.n_heads=2;model.n_layers=1;optim.epochs=1"
    given = ("--data", str(path), "--data-format", "mmsa")
    config = str(root / "configs" / "paper_mosi.toml")
    out = str(tmp_path / "run")
    command = ["train.run", *given, "--config", config, "--out", out, "--set", small]
    monkeypatch.setattr(sys, "argv", command)
    assert run.main() == 0
    info = json.loads((tmp_path / "run" / "checkpoint.json").read_text())
    assert info["config"]["model"]["n_steps_audio"] == 50
    assert {"mae", "corr", "acc7", "acc2_nonzero", "f1_haszero"} <= set(
        info["metrics"]["test"]["text+audio+vision"]
    )
    predictions = str(tmp_path / "p.csv")
    command = ["train.evaluate", *given, "--checkpoint", out, "--predictions", predictions]
    monkeypatch.setattr(sys, "argv", command)
    assert evaluate.main() == 0
    with (tmp_path / "p.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    gaps = [abs(float(row["label"]) - float(row["prediction"])) for row in rows]
    mae = info["metrics"]["test"]["text+audio+vision"]["mae"]
    assert sum(gaps) / 8 == pytest.approx(mae, abs=1e-4)


def test_an_imported_model_predicts_the_same_from_a_file(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden = json.loads((root / "tests" / "golden" / "published_dmd.json").read_text())
    golden = golden["mosi aligned"]
    torch.save(published.weights(golden["shapes"]), tmp_path / "dmd.pth")
    where = ("--dataset", "mosi", "--layout", "aligned", "--out", str(tmp_path / "imported"))
    assert import_reference([str(tmp_path / "dmd.pth"), *where]) == 0
    tables = mmsa_file.content(n=(3, 3, 3))
    for table in tables.values():
        rows = published.inputs("mosi", "aligned")
        table.update({m: rows[m].numpy() for m in ("text", "audio", "vision")})
    path = mmsa_file.write(tmp_path / "aligned_50.pkl", tables)
    command = ["train.evaluate", "--data", path, "--data-format", "mmsa", "--checkpoint",
               tmp_path / "imported", "--predictions", tmp_path / "p.csv"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", [str(part) for part in command])
    assert evaluate.main() == 0
    with (tmp_path / "p.csv").open(newline="") as file:
        found = [float(row["prediction"]) for row in csv.DictReader(file)]
    np.testing.assert_allclose(found, golden["predictions"], atol=1e-4)
