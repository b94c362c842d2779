"""Results in the table that MMSA writes (`results/normal/DATASET.csv`)."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from runtime.features.spec import MODALITIES

__all__ = ["COLUMNS", "SIMS_COLUMNS", "write"]

# MMSA's name -> ours, in its order (utils/metricsTop.py).
COLUMNS = {
    "Has0_acc_2": "acc2_haszero",
    "Has0_F1_score": "f1_haszero",
    "Non0_acc_2": "acc2_nonzero",
    "Non0_F1_score": "f1_nonzero",
    "Mult_acc_5": "acc5",
    "Mult_acc_7": "acc7",
    "MAE": "mae",
    "Corr": "corr",
}
SIMS_COLUMNS = {
    "Mult_acc_2": "acc2",
    "Mult_acc_3": "acc3",
    "Mult_acc_5": "acc5",
    "F1_score": "f1",
    "MAE": "mae",
    "Corr": "corr",
}


def write(path: Path, found: Mapping[str, Mapping[str, Any]]) -> bool:
    """One row for each model, all modalities given; False where no sentiment is rated.

    As there, each seed's metric is rounded to four digits, and a cell is the mean and the deviation
    (of the population) times 100, MAE and correlation included.
    """
    whole = "+".join(MODALITIES)
    given = set.intersection(*(set(row["subsets"][whole]) for row in found.values()))
    columns = next((c for c in (COLUMNS, SIMS_COLUMNS) if set(c.values()) <= given), None)
    if columns is None:
        return False
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["Model", *columns])
        for model, row in found.items():
            cells = []
            for name in columns.values():
                values = np.round(row["subsets"][whole][name]["values"], 4)
                cells.append((_percent(float(values.mean())), _percent(float(values.std()))))
            table.writerow([model, *cells])
    partial.replace(path)
    return True


def _percent(value: float) -> float:
    return round(100.0 * value, 2)
