"""The small run is the one of tests/small_run.py, for `tests/export` as well."""

from tests.small_run import data, settings, traced, trained

__all__ = ["data", "settings", "traced", "trained"]
