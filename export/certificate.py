"""A bundle's certificate: of every model, whether it passed, and the rows that say why."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime.store.bundle import CERTIFICATE
from runtime.system.files import write_file
from train.provenance import commit

from . import bundle

__all__ = [
    "SHOWN",
    "Metrics",
    "Row",
    "certify",
    "note_fit",
    "verdict",
    "verdicts",
    "worst_change",
    "write",
]

Metrics = Mapping[str, Mapping[str, float]]  # of every subset of modalities

TABLE = "CERTIFICATE.md"
SHOWN = ("accuracy", "uar", "macro_f1", "ece", "ks", "mae", "corr")
# Shown, not judged: it moves by a point when a few samples cross the edge of a bin. `ks` has none.
_BINNED = "ece"
# What CERTIFICATE.md says after export.readout.
_SINCE = "\n## Fitted since\n"
_FITTED = """
`python -m export.readout --bundle bundle --data DATA --out fitted`

Sentiment and arousal were then fitted anew on the {} graph itself. The verdicts and the table above
are of the graph before that, whose emotions are the same bit for bit. The figures in the wild and
in the studio are of the graph as it is now.
"""
# The head of CERTIFICATE.md. Its tables are filled by export.tables, once all is measured.
_HEAD = """# Certificate

## In the wild

Pictures, sentences and voices that were not trained on, the product's own way, with the prior
`conversation`.

```bash
python -m train.data.held_out --data DATA --out PEOPLE
python -m export.evaluate --bundle bundle --data PEOPLE/SOURCE --json found/SOURCE.json
python -m export.tables --bundle bundle --found found --files bundle/CERTIFICATE.md
```

<!-- table wild -->
Not measured yet.
<!-- /table -->

<!-- table rated -->
Not measured yet.
<!-- /table -->

## In the studio

Held-out people and sentences of the corpora that were trained on, with the same prior.

```bash
python -m export.measure --checkpoint checkpoint --bundle bundle --data DATA
```

<!-- table studio -->
Not measured yet.
<!-- /table -->

## What each model costs

```bash
python -m export.parity --checkpoint checkpoint --bundle bundle --data DATA
```
"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A model on a subset of modalities: its metrics, and how it differs from torch.

    `change`: metric minus torch's. `max_difference` and `mean_difference` are over all outputs.
    `same_emotion`: share of utterances with the same top class.
    """

    subset: str
    model: str
    metrics: dict[str, float]
    change: dict[str, float]
    max_difference: float
    mean_difference: float
    same_emotion: float


def certify(rows: Sequence[Row], hashes: Mapping[str, str], budget: float) -> dict[str, Any]:
    """What certificate.json holds: the rows, the hash of each model and whether it passed, and
    whether each engine on this machine's GPU did."""
    by_model: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
    for row in rows:
        by_model[row.model][row.subset] = row.metrics
    verdicts = {}
    for name in by_model.keys() - {"torch"}:
        reference = "torch" if name == "fp32" or "fp32" not in by_model else "fp32"
        change, metric, where = worst_change(by_model[name], by_model[reference])
        verdicts[name] = {
            "passed": change <= budget,
            "against": reference,
            "largest_change_points": change,
            "metric": metric,
            "subset": where,
        }
    return {
        "format": 1,
        "budget_points": budget,
        "commit": commit(),
        "models": {p: {"sha256": sha256, **verdicts.pop(p)} for p, sha256 in hashes.items()},
        "engines": verdicts,
        "rows": [asdict(row) for row in rows],
    }


def worst_change(found: Metrics, reference: Metrics) -> tuple[float, str, str]:
    """Largest absolute change of a metric, in points (hundredths of its unit), the metric and the
    subset; the calibration error that counts is `ks`. Two NaN are no change, one is an infinite
    change."""
    changes = []
    for subset, metrics in found.items():
        for name, value in metrics.items():
            if name == _BINNED:
                continue
            other = reference[subset][name]
            gap = 100.0 * abs(value - other)
            both = np.isnan(value) and np.isnan(other)
            points = 0.0 if both else float("inf") if np.isnan(gap) else gap
            changes.append((points, name, subset))
    return max(changes)


def verdicts(certificate: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Name and verdict of every model, then of every engine."""
    return [*certificate["models"].items(), *sorted(certificate["engines"].items())]


def verdict(name: str, found: Mapping[str, Any], budget: float) -> str:
    """One line for people."""
    passed = "passed" if found["passed"] else "FAILED"
    return (
        f"{name} {passed}: {found['largest_change_points']:.2f} of {budget} points at most"
        f" against {found['against']} ({found['metric']} of {found['subset']})"
    )


def write(
    folder: Path, info: Mapping[str, Any], certificate: Mapping[str, Any], rows: Sequence[Row]
) -> None:
    """certificate.json and CERTIFICATE.md, each whole or not at all, listed in bundle.json."""
    lines = [
        _HEAD,
        f"{certificate['n_utterances']} composed utterances of the {certificate['split']} split,"
        f" with the prior `{certificate['prior']}`.",
        "",
        *(f"* {verdict(n, v, certificate['budget_points'])}" for n, v in verdicts(certificate)),
        "",
        "Composed utterances have no Acc-2, its F1 and Acc-7: their weak sentiment labels are"
        " nearly 0 for neutral and surprise; these would count the signs and roundings of noise."
        " ece is over ten bins and not judged; ks is the calibration error without bins.",
        "",
        "| Modalities | Model | " + " | ".join(SHOWN) + " | Largest difference | Same emotion |",
        "| --- | --- |" + " --- |" * (len(SHOWN) + 2),
    ]
    for row in rows:
        cells = [f"{row.metrics[m]:.4f}" if m in row.metrics else "" for m in SHOWN]
        lines.append(
            f"| {row.subset} | {row.model} | {' | '.join(cells)} | {row.max_difference:.1e} |"
            f" {row.same_emotion:.1%} |"
        )
    write_file(folder / CERTIFICATE, (json.dumps(certificate, indent=1) + "\n").encode())
    write_file(folder / TABLE, ("\n".join(lines) + "\n").encode())
    documents = {*info.get("documents", []), CERTIFICATE, TABLE}
    bundle.update(folder, {"documents": sorted(documents)})


def note_fit(folder: Path, precision: str, model: bytes) -> None:
    """The certificate of a model that export.readout has made of the certified one: it keeps its
    verdict, and says so. The hash of the bundle's files is the caller's."""
    certificate = json.loads((folder / CERTIFICATE).read_bytes())
    found = certificate["models"].get(precision)
    if found is None:  # not certified
        return
    found.setdefault("certified_sha256", found["sha256"])
    found["sha256"] = hashlib.sha256(model).hexdigest()
    write_file(folder / CERTIFICATE, (json.dumps(certificate, indent=1) + "\n").encode())
    text = (folder / TABLE).read_text(encoding="utf-8").partition(_SINCE)[0]
    write_file(folder / TABLE, (text + _SINCE + _FITTED.format(precision)).encode())
