"""A bundle: the folder that carries a model from training to a device, verified on load.

`bundle.json` names every file with its SHA-256 and holds its own hash (`bundle_sha256`, over the
file's bytes with that value zeroed), so that no byte of a bundle can change unnoticed.
"""

import hashlib
import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BundleError
from ..features.spec import SPEC
from ..judging.calibration import Calibration

__all__ = ["CERTIFICATE", "DEFAULT", "FORMAT", "Bundle", "own_hash"]

FORMAT = 2
CERTIFICATE = "certificate.json"  # what export cost the models; export.parity writes it
DEFAULT = Path(__file__).parent.parent / "default_bundle"
# Smallest and fastest first.
_PREFERENCE = ("int8", "fp16", "fp32")
_logger = logging.getLogger("dmd_live")
_OWN_HASH = re.compile(rb'("bundle_sha256": ")([0-9a-f]{64})(")')


@dataclass(frozen=True)
class Bundle:
    """A verified bundle. `model` is the chosen graph's content, `info` all of `bundle.json`."""

    folder: Path
    precision: str
    model: bytes
    emotions: tuple[str, ...]
    info: dict[str, Any]

    @property
    def calibration(self) -> Calibration:
        """How its logits become probabilities; raises BundleError when that is malformed."""
        return Calibration.from_dict(self.emotions, self.info.get("calibration", {}))

    @property
    def tokenizer_json(self) -> Path:
        """Path of the WordPiece tokenizer."""
        return self.folder / "tokenizer.json"

    @classmethod
    def load(cls, folder: Path | str | None = None, precision: str | None = None) -> "Bundle":
        """Read and verify a bundle folder (default: the one inside the package).

        `precision`: one that `bundle.json` lists; default the one that export.quantize found the
        fastest (--recipe auto), else the smallest, or the only one. Raises BundleError in one line
        when a file is missing or altered, or when the feature contract is another one.
        """
        folder = DEFAULT if folder is None else Path(folder)
        info = _read_info(folder)
        if info["feature_spec_sha256"] != SPEC.sha256():
            raise BundleError(
                f"{folder}: made for feature spec {info['feature_spec_sha256'][:12]}, this runtime "
                f"computes {SPEC.sha256()[:12]}; export the bundle with this version"
            )
        models: dict[str, str] = info["models"]
        preferred = (info.get("fastest"), *_PREFERENCE, *(models if len(models) == 1 else ()))
        chosen = precision or next((p for p in preferred if p in models), None)
        if chosen is None or chosen not in models:
            have = ", ".join(models) or "none"
            raise BundleError(f"{folder}: no {precision or 'usable'} model in it; it has: {have}")
        model = b""
        for name, sha in info["files"].items():
            content = _verified(folder, name, sha)
            if name == models[chosen]:
                model = content
        try:
            Calibration.from_dict(info["emotions"], info.get("calibration", {}))
        except BundleError as error:
            raise BundleError(f"{folder}: {error}; export it again") from None
        if info.get("unsigned"):
            _logger.warning("%s: this bundle has no certificate of what export cost", folder)
        return cls(folder, chosen, model, tuple(info["emotions"]), info)


def own_hash(content: bytes) -> tuple[str, str]:
    """(stated, computed) hash of `bundle.json`'s bytes; stated is "" when there is none."""
    found = _OWN_HASH.search(content)
    if not found:
        return "", hashlib.sha256(content).hexdigest()
    zeroed = content[: found.start(2)] + b"0" * 64 + content[found.end(2) :]
    return found.group(2).decode(), hashlib.sha256(zeroed).hexdigest()


def _read_info(folder: Path) -> dict[str, Any]:
    path = folder / "bundle.json"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(
            f"{folder}: not a bundle ({error.strerror}: bundle.json); name a folder that "
            "`python -m export.graph` wrote, or leave --bundle out for the built-in one"
        ) from error
    stated, computed = own_hash(content)
    if stated != computed:
        raise BundleError(f"{path}: altered or damaged (its own hash differs); copy it again")
    try:
        info = json.loads(content)
        missing = {"format", "files", "models", "emotions", "feature_spec_sha256"} - info.keys()
    except (ValueError, AttributeError) as error:
        raise BundleError(f"{path}: not a bundle description ({error})") from error
    if missing:
        raise BundleError(f"{path}: lacks {', '.join(sorted(missing))}; export the bundle again")
    if info["format"] != FORMAT:
        raise BundleError(
            f"{path}: format {info['format']}, this runtime reads format {FORMAT}; export the "
            "bundle with this version"
        )
    files, listed = info["files"], info["models"]
    if not (
        all(isinstance(names, dict) for names in (files, listed))
        and all(isinstance(text, str) for text in (*files.values(), *listed.values()))
        and set(listed.values()) <= files.keys()
        and isinstance(info["emotions"], list)
        and isinstance(info["feature_spec_sha256"], str)
        and isinstance(info.get("calibration", {}), dict)
        and isinstance(info.get("fastest", ""), str)
    ):
        raise BundleError(
            f"{path}: its files, models, emotions, feature spec or calibration are malformed; "
            "export it again"
        )
    return dict(info)


def _verified(folder: Path, name: str, sha256: str) -> bytes:
    if Path(name).name != name:
        raise BundleError(f"{folder}: bundle.json names a file outside the bundle: {name!r}")
    try:
        content = (folder / name).read_bytes()
    except OSError as error:
        raise BundleError(f"{folder}: {name}: {error.strerror}; copy the bundle again") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise BundleError(
            f"{folder}: {name} is altered or damaged (SHA-256 differs); copy it again"
        )
    return content
