"""What users of MMSA bring and take: configuration names, and its table of results."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.train import mmsa_file
from train.comparison import mmsa_csv
from train.config import load
from train.data.corpora import DataError
from train.data.mmsa import Mmsa
from train.data.mmsa_config import feature_file
from train.data.open import open_corpus
from train.metrics import sentiment_metrics, sims_metrics


def configuration(folder: Path, root: str = "Datasets") -> Path:
    """The part of MMSA's config_regression.json that names data sets."""
    path = folder / "config_regression.json"
    layout = {"seq_lens": [50, 50, 50], "feature_dims": [768, 5, 20], "KeyEval": "Loss"}
    sets: dict[str, Any] = {
        "dataset_root_dir": root,
        "mosi": {
            "aligned": {"featurePath": "MOSI/Processed/aligned_50.pkl", **layout},
            "unaligned": {"featurePath": "MOSI/Processed/unaligned_50.pkl", **layout},
        },
    }
    path.write_text(json.dumps({"datasetCommonParams": sets, "lf_dnn": {}}))
    return path


def test_a_data_set_is_found_by_its_name(tmp_path: Path, root: Path) -> None:
    path = configuration(tmp_path)
    folder = tmp_path / "Datasets" / "MOSI" / "Processed"
    folder.mkdir(parents=True)
    mmsa_file.write(folder / "aligned_50.pkl", mmsa_file.content())
    data = Path(f"{path}#mosi/aligned")
    assert feature_file(data) == folder / "aligned_50.pkl"
    settings = load(root / "configs" / "paper_mosi.toml")
    corpus = open_corpus(data, "mmsa", settings, None, tmp_path)
    assert isinstance(corpus, Mmsa)
    assert (corpus.dataset, corpus.n_training) == ("mosi", 24)
    elsewhere = configuration(tmp_path, "/data/MMSA-Standard")
    found = feature_file(Path(f"{elsewhere}#mosi/unaligned"))
    assert found == Path("/data/MMSA-Standard/MOSI/Processed/unaligned_50.pkl")
    assert feature_file(Path("aligned_50.pkl")) == Path("aligned_50.pkl")


def test_labels_of_another_scale_are_refused(tmp_path: Path) -> None:
    tables = mmsa_file.content()
    for table in tables.values():
        table["regression_labels"] = table["regression_labels"] / 3.0
    path = mmsa_file.write(tmp_path / "unaligned_39.pkl", tables)
    with pytest.raises(DataError, match="the scale of CH-SIMS"):
        Mmsa(path, bert=False, padded=False, seed=0)


def test_what_is_wrong_with_a_name_is_said(tmp_path: Path) -> None:
    path = configuration(tmp_path)
    with pytest.raises(DataError, match="no sims/aligned; there are mosi/aligned, mosi/unaligned"):
        feature_file(Path(f"{path}#sims/aligned"))
    with pytest.raises(DataError, match="No such file"):
        feature_file(tmp_path / "other.json#mosi/aligned")
    path.write_text("{}")
    with pytest.raises(DataError, match="not a configuration of MMSA"):
        feature_file(Path(f"{path}#mosi/aligned"))


def test_results_are_in_mmsa_s_table(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.round(rng.uniform(-3, 3, 60), 1)
    runs = [sentiment_metrics(labels + rng.normal(0, 1, 60), labels) for _ in range(3)]
    whole = {name: {"values": [run[name] for run in runs]} for name in runs[0]}
    found = {"misa": {"subsets": {"text+audio+vision": whole}}}
    assert mmsa_csv.write(tmp_path / "mosi.csv", found)
    with (tmp_path / "mosi.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert list(row) == ["Model", "Has0_acc_2", "Has0_F1_score", "Non0_acc_2", "Non0_F1_score",
                         "Mult_acc_5", "Mult_acc_7", "MAE", "Corr"]  # fmt: skip
    assert row["Model"] == "misa"
    values = [round(run["mae"], 4) for run in runs]
    assert row["MAE"] == str(
        (round(float(np.mean(values)) * 100, 2), round(float(np.std(values)) * 100, 2))
    )
    whole.pop("acc5")
    assert not mmsa_csv.write(tmp_path / "none.csv", found)
    assert not (tmp_path / "none.csv").exists()


def test_results_of_ch_sims_have_its_columns(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.round(rng.uniform(-1, 1, 60), 1)
    runs = [sims_metrics(labels + rng.normal(0, 0.3, 60), labels) for _ in range(3)]
    whole = {name: {"values": [run[name] for run in runs]} for name in runs[0]}
    assert mmsa_csv.write(tmp_path / "x.csv", {"dmd": {"subsets": {"text+audio+vision": whole}}})
    with (tmp_path / "x.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert list(row) == ["Model", "Mult_acc_2", "Mult_acc_3", "Mult_acc_5", "F1_score", "MAE",
                         "Corr"]  # fmt: skip


def test_accuracy_of_five_classes_is_mmsa_s() -> None:
    labels = np.array([-3.0, -1.6, 0.4, 2.6, 1.2])
    predicted = np.array([-2.0, -2.5, -0.4, 1.4, 1.4])
    expected = np.mean(np.round(np.clip(labels, -2, 2)) == np.round(np.clip(predicted, -2, 2)))
    assert sentiment_metrics(predicted, labels)["acc5"] == expected == 0.8
