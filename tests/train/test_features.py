"""Feature files of other projects: what is read of them, what is refused, and a model of each."""

import json
import pickle
import sys
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from runtime.errors import UsageError
from tests.train import feature_files, mmsa_file
from train import evaluate, run
from train.config import Config, LossConfig, ModelConfig, load
from train.data.dialogues import dialogues
from train.data.labels import EMOTIONS, DataError
from train.data.mmsa import Mmsa
from train.data.mult import mult
from train.data.open import open_corpus
from train.data.pickles import read_pickle
from train.data.ur_funny import ur_funny
from train.data.utterance import collate
from train.judging import Judge
from train.losses import TrainingDMD, task_loss
from train.metrics import sims_metrics
from train.models.dmd import DMD
from train.unimodal import agreeing, own_labels

NAMES = {
    "sims": ("mmsa", ()),
    "iemocap": ("mult", ("neutral", "happiness", "sadness", "anger")),
    "humor": ("mult", ("no", "yes")),
    "sarcasm": ("mult", ("no", "yes")),
    "IEMOCAP_features": (
        "dialogues",
        ("happiness", "sadness", "neutral", "anger", "excitement", "frustration"),
    ),
    "MELD_features_raw1": ("dialogues", EMOTIONS),
    "MELD_features_raw": ("dialogues", EMOTIONS),
    "ur-funny": ("ur-funny", ("no", "yes")),
}

SMALL = (
    "model.dim=8;model.n_heads=2;model.n_layers=1;model.gd_hidden=4;model.gd_hidden_hetero=4;"
    "model.stride_audio=8;model.stride_vision=4;optim.epochs=1;optim.batch_size=8"
)


def written(name: str, folder: Path, protocol: int = 4) -> Path:
    """A small file, or folder, of that name."""
    if name == "ur-funny":
        return feature_files.ur_funny(folder / name)
    if name == "sims":
        content: Any = feature_files.sims()
    elif name == "iemocap":
        content = feature_files.iemocap()
    elif name in ("humor", "sarcasm"):
        content = feature_files.multibench(0 if name == "humor" else -1)
    else:
        content = feature_files.dialogues(name)
    return feature_files.write(folder / f"{name}.pkl", content, protocol)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_trains_on_it_and_is_evaluated(
    name: str,
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data_format, classes = NAMES[name]
    given = ["--data", str(written(name, tmp_path)), "--data-format", data_format]
    out, config = str(tmp_path / "run"), str(root / "configs" / "features.toml")
    arguments = [*given, "--config", config, "--out", out, "--set", SMALL]
    monkeypatch.setattr(sys, "argv", ["train.run", *arguments])
    assert run.main() == 0
    info = json.loads((tmp_path / "run" / "checkpoint.json").read_text())
    assert info["emotions"] == list(classes)
    table = info["metrics"]["test"]
    wanted = {"accuracy", "weighted_f1"} if classes else {"acc2", "acc3", "acc5", "f1", "mae"}
    assert wanted <= table["text+audio+vision"].keys()
    said = capsys.readouterr().out
    assert all(name in said for name in wanted)
    own = {f"{m} by itself" for m in ("text", "audio", "vision")}
    assert own <= table.keys() if name == "sims" else not own & table.keys()
    monkeypatch.setattr(sys, "argv", ["train.evaluate", *given, "--checkpoint", out])
    assert evaluate.main() == 0
    assert ("acc3" if name == "sims" else "weighted_f1") in capsys.readouterr().out


def test_ch_sims_has_a_label_for_each_modality(tmp_path: Path) -> None:
    tables = feature_files.sims()
    path = feature_files.write(tmp_path / "unaligned_39.pkl", tables)
    found = Mmsa(path, bert=False, padded=False, seed=0)
    assert (found.dataset, found.scale) == ("sims", 1.0)
    assert found.dims == {"text": 768, "audio": 33, "vision": 709}
    test = tables["test"]
    for k, utterance in enumerate(found.held_out("test")):
        assert utterance.sentiment == pytest.approx(3.0 * test["regression_labels"][k])
        own = [3.0 * test[f"regression_labels_{m}"][k] for m in "TAV"]
        assert utterance.own_sentiment == pytest.approx(own)
        assert len(utterance.audio) == test["audio_lengths"][k]
    pieces = Mmsa(path, bert=True, padded=False, seed=0)
    assert all(u.text.ndim == 1 for u in pieces.held_out("test"))
    # The files of version 2's own code differ in steps and widths alone, and have one split more.
    tables = feature_files.sims((925, 25), (232, 177))
    tables["train_mix"] = {}
    path = feature_files.write(tmp_path / "v2.pkl", tables)
    assert Mmsa(path, bert=False, padded=False, seed=0).scale == 1.0


def test_own_labels_that_are_all_unknown_are_none(tmp_path: Path) -> None:
    tables = mmsa_file.content()
    for table in tables.values():
        unknown = np.full(len(table["id"]), np.nan)
        table.update({f"regression_labels_{m}": unknown for m in "TAV"})
    found = Mmsa(mmsa_file.write(tmp_path / "x.pkl", tables), bert=False, padded=False, seed=0)
    assert found.scale == 3.0
    assert all(u.own_sentiment is None for u in found.held_out("test"))


def test_own_labels_are_what_a_modality_s_heads_learn(tmp_path: Path) -> None:
    path = feature_files.write(tmp_path / "unaligned_39.pkl", feature_files.sims())
    utterances = list(Mmsa(path, bert=False, padded=False, seed=0).held_out("test"))
    batch = collate(utterances)
    everywhere = torch.ones(len(utterances), dtype=torch.bool)
    for k in range(3):
        own = own_labels(batch, k)
        told = torch.tensor([u.own_sentiment[k] for u in utterances])  # type: ignore[index]
        torch.testing.assert_close(own["sentiment"], told)
        loss = task_loss(torch.zeros(len(told), 1), own, everywhere, LossConfig(sentiment=1.0))
        torch.testing.assert_close(loss, told.abs().mean())
    agree = agreeing(batch, everywhere[:, None].expand(-1, 3))
    opposed = batch["own_sentiment"].sign() * batch["sentiment"].sign()[:, None] < 0
    assert opposed.any()
    assert torch.equal(agree, ~opposed)


def test_the_losses_of_a_modality_are_of_its_own_label(tmp_path: Path) -> None:
    path = feature_files.write(tmp_path / "unaligned_39.pkl", feature_files.sims())
    data = Mmsa(path, bert=False, padded=False, seed=0)
    size = {"text_dim": 768, "audio_dim": 33, "vision_dim": 709, "dim": 8, "n_heads": 2}
    config = Config(model=ModelConfig(**size, n_layers=1, gd_hidden=4, gd_hidden_hetero=4))
    torch.manual_seed(0)
    model = TrainingDMD(DMD(config.model, None, 0), config).eval()
    batch = collate(list(data.held_out("valid")))
    before = model(batch).terms
    said = model.dmd(batch).homo_outputs["audio"][:, 0]
    expected = config.loss.sentiment * (said - batch["own_sentiment"][:, 1]).abs().mean()
    torch.testing.assert_close(before["task_homo_audio"], expected)
    judge = Judge(model.dmd, "fp32", scale=1.0)
    alone = judge.table(list(data.held_out("valid")))["audio by itself"]
    gap = (said / 3.0).clamp(-1.0, 1.0) - batch["own_sentiment"][:, 1] / 3.0
    assert alone["mae"] == pytest.approx(float(gap.detach().abs().mean()), abs=1e-5)
    batch["own_sentiment"][:, 1] += 0.5
    after = model(batch).terms
    changed = {name for name in before if before[name] != after[name]}
    assert changed >= {"task_homo_audio", "task_hetero_audio"}
    assert not {name for name in changed if name.startswith("task_") and "audio" not in name}


def test_without_own_labels_the_whole_counts_where_the_emotion_is_the_same() -> None:
    batch = {
        "emotion": torch.tensor([1, 2]),
        "shown": torch.tensor([[1, 1, 1], [2, 3, 2]]),
        "sentiment": torch.tensor([0.5, -1.0]),
    }
    own = own_labels(batch, 1)
    assert own["emotion"].tolist() == [1, 3]
    assert own["sentiment"][0] == 0.5
    assert own["sentiment"][1].isnan()
    present = torch.ones(2, 3, dtype=torch.bool)
    assert agreeing(batch, present).tolist() == [[True] * 3, [True, False, True]]


def test_metrics_of_ch_sims_are_mmsa_s() -> None:
    labels = np.array([-1.0, -0.8, -0.6, -0.2, 0.0, 0.0, 0.2, 0.6, 0.8, 1.0])
    predicted = np.array([-1.4, -0.7, -0.71, 0.05, 0.0, 0.1, 0.11, 0.7, 0.71, -0.2])
    found = sims_metrics(predicted, labels)
    # By hand, from __eval_sims_regression of MMSA's utils/metricsTop.py.
    assert found["acc2"] == pytest.approx(7 / 10)
    assert found["acc3"] == pytest.approx(8 / 10)
    assert found["acc5"] == pytest.approx(7 / 10)
    assert found["mae"] == pytest.approx(np.abs(predicted.clip(-1, 1) - labels).mean())


@pytest.mark.parametrize("protocol", [2, 4])
def test_iemocap_of_four_emotions(tmp_path: Path, protocol: int) -> None:
    tables = feature_files.iemocap()
    tables["test"]["labels"][1, :] = [1, 0]  # none of the four
    tables["test"]["labels"][2, 3] = [0, 1]  # two
    path = feature_files.write(tmp_path / "iemocap_data.pkl", tables, protocol)
    found = mult(path, padded=False, seed=0)
    test = list(found.held_out("test"))
    assert [u.emotion for u in test[:5]] == [0, -1, -1, 3, 0]
    for k, utterance in enumerate(test):
        assert utterance.text[0].any()  # padding in front is cut off
        np.testing.assert_array_equal(
            utterance.text, tables["test"]["text"][k, -len(utterance.text) :]
        )
    assert {len(u.text) for u in mult(path, padded=True, seed=0).held_out("test")} == {20}


@pytest.mark.parametrize("no", [0, -1])
def test_two_classes(tmp_path: Path, no: int) -> None:
    path = feature_files.write(tmp_path / "sarcasm.pkl", feature_files.multibench(no))
    test = list(mult(path, padded=False, seed=0).held_out("test"))
    assert [u.emotion for u in test] == [0, 1] * 5
    assert test[3].id == ("1_3" if no else "3")


@pytest.mark.parametrize("name", ["IEMOCAP_features", "MELD_features_raw1", "MELD_features_raw"])
def test_dialogues(tmp_path: Path, name: str) -> None:
    parts = feature_files.dialogues(name)
    found = dialogues(feature_files.write(tmp_path / "x.pkl", parts), seed=0)
    heard = {s: {u.id.rsplit("_", 1)[0] for u in found.held_out(s)} for s in ("train", "valid")}
    assert (len(heard["train"]), len(heard["valid"])) == (11, 1)
    assert not heard["train"] & heard["valid"]
    test = list(found.held_out("test"))
    (first, *_) = sorted(parts[8] if "raw1" in name or "IEMO" in name else parts[7], key=str)
    told = [found.classes[u.emotion] for u in test[:3]]
    names = (
        ("happiness", "sadness", "neutral", "anger", "excitement", "frustration")
        if name == "IEMOCAP_features"
        else ("neutral", "surprise", "fear", "sadness", "happiness", "disgust", "anger")
    )
    assert told == [names[k] for k in parts[2][first][:3]]
    np.testing.assert_allclose(test[0].audio[0], parts[4][first][0], rtol=1e-6)
    assert len(test[0].vision) == (name != "MELD_features_raw")


def test_a_pickle_of_python_2(tmp_path: Path) -> None:
    # An array and a set as Python 2 wrote them: bytes as text, and the old names of modules.
    old = (
        b"\x80\x02(cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U\x10" + np.array([1.5, -2.0]).tobytes() + b"tb"
        b"c__builtin__\nset\n]U\x03abca\x85Rt."
    )
    (tmp_path / "x.pkl").write_bytes(old)
    array, names = read_pickle(tmp_path / "x.pkl")
    assert array.tolist() == [1.5, -2.0]
    assert names == {"abc"}


def test_plain_containers_of_other_names_are_read(tmp_path: Path) -> None:
    held = {"a": defaultdict(list, {"x": [1]}), "b": OrderedDict(y=2), "c": {3}}
    path = feature_files.write(tmp_path / "x.pkl", held, protocol=2)
    assert read_pickle(path) == {"a": {"x": [1]}, "b": {"y": 2}, "c": {3}}
    path = feature_files.write(tmp_path / "x.pkl", defaultdict(print))
    with pytest.raises(DataError, match=r"asks for (builtins|__builtin__)\.print"):
        read_pickle(path)


def test_a_wrong_format_is_one_line(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written("sarcasm", tmp_path)
    for data_format in ("mmsa", "dialogues", "ur-funny"):
        given = ["--data", str(path), "--data-format", data_format, "--out", str(tmp_path / "out"),
                 "--config", str(root / "configs" / "features.toml")]  # fmt: skip
        monkeypatch.setattr(sys, "argv", ["train.run", *given])
        assert run.main() == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert said.startswith(f"train.run: {path}")


def test_each_emotion_against_the_rest() -> None:
    label, said = np.array([0, 0, 1, 2, -1]), np.array([0, 1, 1, 0, 0])
    found = {"emotion_label": label, "emotion": np.eye(4)[said]}
    rows = {row.name: row.metrics for row in evaluate.by_class(found, ("n", "h", "s", "a"))}
    assert [rows[name]["accuracy"] for name in "nhsa"] == [0.5, 0.75, 0.75, 1.0]
    # MulT's: f1_score(truth == emotion, predicted == emotion, average="weighted")
    assert rows["h"]["weighted_f1"] == pytest.approx(0.75 * 0.8 + 0.25 * 2 / 3)


def test_ur_funny(tmp_path: Path) -> None:
    folder = feature_files.ur_funny(tmp_path / "features")
    found = ur_funny(folder, seed=0)
    assert found.dims == {"text": 300, "audio": 81, "vision": 371}
    train = list(found.held_out("train"))
    assert [u.emotion for u in train[:3]] == [1, 0, 1]
    assert len(train[0].audio) == 0
    chosen = pickle.loads((folder / "language_sdk.pkl").read_bytes())[2]
    assert len(train[1].text) == len(chosen["punchline_embedding_indexes"])


def wrong_sims(kind: str) -> dict[str, Any]:
    tables = feature_files.sims()
    if kind == "one split":
        del tables["test"]["regression_labels_A"]
    elif kind == "own label":
        tables["valid"]["regression_labels_V"][2] = 1.2
    elif kind == "fewer":
        tables["train"]["regression_labels_T"] = tables["train"]["regression_labels_T"][:-1]
    return tables


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("one split", "only train has regression_labels_T"),
        ("own label", r"valid/regression_labels_V: row 2 is 1.2\d*, outside \[-1, 1\]"),
        ("fewer", "train/regression_labels_T: 23 entries for 24"),
    ],
)
def test_a_wrong_file_of_ch_sims_is_refused(tmp_path: Path, kind: str, message: str) -> None:
    path = feature_files.write(tmp_path / "x.pkl", wrong_sims(kind))
    with pytest.raises(DataError, match=message):
        Mmsa(path, bert=False, padded=False, seed=0)


def test_a_wrong_file_of_mult_is_refused(tmp_path: Path) -> None:
    def refused(change: Any, message: str) -> None:
        tables = feature_files.iemocap()
        change(tables)
        path = feature_files.write(tmp_path / "x.pkl", tables)
        with pytest.raises(DataError, match=message):
            mult(path, padded=False, seed=0)

    refused(lambda t: t.pop("valid"), "valid: no such split")
    refused(lambda t: t["test"].pop("audio"), "test: lacks audio")
    refused(lambda t: t["test"].update(labels=np.zeros(10) + 0.4), r"test/labels of shape \(10,\)")
    refused(lambda t: t["test"].update(labels=np.ones(10)), "splits differ")
    refused(lambda t: t["test"].update(text=np.ones((9, 20, 300))), r"test/text has shape \(9, 20")
    refused(lambda t: t["test"].update(text=np.ones((10, 9, 300))), "all splits need the same")


def test_a_wrong_file_of_dialogues_is_refused(tmp_path: Path) -> None:
    def refused(change: Any, message: str) -> None:
        parts = list(feature_files.dialogues("IEMOCAP_features"))
        change(parts)
        path = feature_files.write(tmp_path / "x.pkl", tuple(parts))
        with pytest.raises(DataError, match=message) as caught:
            dialogues(path, seed=0)
        assert "\n" not in str(caught.value)

    first = "Ses01F_impro00"
    refused(lambda parts: parts.pop(), "not a tuple of 9 or 10 parts")
    refused(lambda parts: parts[2][first].__setitem__(0, 6), "label 6; there are 0 to 5")
    refused(lambda parts: parts[4].pop(first), f"dialogue {first} is not in all parts")
    refused(lambda parts: parts[4][first].pop(), r"audio: \(\d+, 1582\) for \d+ labels")
    refused(lambda parts: parts[3][first].__setitem__(0, np.ones(3)), "text: vectors of different")
    refused(lambda parts: parts[8].add(first), "in training and in test")
    refused(lambda parts: parts.__setitem__(8, 3), "no lists of training and test dialogues")


def test_a_wrong_folder_of_ur_funny_is_refused(tmp_path: Path) -> None:
    folder = feature_files.ur_funny(tmp_path / "features")
    feature_files.write(folder / "humor_label_sdk.pkl", {1: 2})
    with pytest.raises(DataError, match="segment 1 is not complete"):
        ur_funny(folder, seed=0)
    (folder / "covarep_features_sdk.pkl").unlink()
    with pytest.raises(DataError, match=r"no covarep_features_sdk\.pkl; pass the folder"):
        ur_funny(folder, seed=0)


def test_a_model_of_fixed_lengths_is_told_what_to_take(root: Path, tmp_path: Path) -> None:
    settings = load(root / "configs" / "paper_mosi.toml")
    with pytest.raises(UsageError, match=r"take --config configs/features\.toml"):
        open_corpus(tmp_path / "x.pkl", "dialogues", settings, None, tmp_path)
