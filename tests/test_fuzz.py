"""A small share of `python -m tests.fuzz`."""

from collections import Counter
from pathlib import Path

from tests import fuzz


def test_damaged_files_are_read_or_refused_in_one_line(tmp_path: Path) -> None:
    counts, failures = fuzz.run(240, seed=1, jobs=1, sources=fuzz.prepare(tmp_path))
    assert failures == {}
    outcomes: Counter[str] = Counter()
    for kind, n in counts.items():
        outcomes[kind.split(": ")[1]] += n
    assert outcomes.total() == 240
    assert outcomes["refused"] > 100
    assert outcomes["read"] > 10


def test_a_failure_is_told(tmp_path: Path) -> None:
    """The harness itself: a case that fails is named with its traceback."""
    outcome = fuzz.case(0, 1, tmp_path)  # its sources are not there
    assert "FileNotFoundError" in outcome
