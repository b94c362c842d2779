"""Backends that run a bundle's graph, all behind one `infer(dict) -> dict`."""
