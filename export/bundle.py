"""Writing bundles: files, hashes, the description, and the copy that ships in the package."""

import hashlib
import json
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.config import option, parse
from runtime.errors import BundleError, DmdLiveError, UsageError
from runtime.store.bundle import CERTIFICATE, FORMAT, Bundle, own_hash
from runtime.system.files import write_file
from train.config import Config, from_dict

__all__ = ["Options", "publish", "read", "read_of", "require_free", "settings", "update", "written"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Copy one precision of a bundle to a new folder, ready to ship: model, tokenizer, card.

    Only a model that passed `python -m export.parity` is published, unless --unsigned says so.
    """

    bundle: str = option("bundle", metavar="FOLDER", help="the bundle to publish from")
    precision: str | None = option(
        None, help="the model to publish; default: the one that the runtime would load"
    )
    card: str | None = option(None, metavar="FILE", help="model card (Markdown) to put beside it")
    unsigned: bool = option(False, help="publish without a certificate; the runtime will say so")
    out: str = option(
        metavar="FOLDER", help="where to publish; must not exist, or must hold a bundle"
    )


def main() -> int:
    """Run the command; returns the exit code."""
    options = parse(Options, None, prog="python -m export.bundle")
    try:
        card = None if options.card is None else Path(options.card)
        publish(
            Path(options.bundle),
            options.precision,
            card,
            Path(options.out),
            unsigned=options.unsigned,
        )
    except DmdLiveError as error:
        print(f"export.bundle: {error}", file=sys.stderr)
        return 2
    return 0


def read(folder: Path) -> dict[str, Any]:
    """The description of an existing, verified bundle. Raises BundleError."""
    return Bundle.load(folder).info


def read_of(folder: Path, checkpoint: Path, weights_sha256: str) -> dict[str, Any]:
    """The same of a bundle that must have been exported from that checkpoint."""
    info = read(folder)
    if info.get("provenance", {}).get("weights_sha256") != weights_sha256:
        raise BundleError(
            f"{folder}: was not exported from {checkpoint}; run python -m export.graph first"
        )
    return info


def settings(source: Bundle) -> Config:
    """How a bundle's model was trained. Raises BundleError where the bundle does not say so."""
    try:
        return from_dict(source.info["provenance"]["config"])
    except KeyError as error:
        raise BundleError(
            f"{source.folder}: does not say how its model was trained (no {error}); export it again"
        ) from error


def update(folder: Path, changes: Mapping[str, Any]) -> None:
    """Write `bundle.json` with `changes` merged in and all hashes renewed.

    A dictionary is merged into the existing one. The file appears whole or not at all.
    """
    path = folder / "bundle.json"
    info: dict[str, Any] = {"format": FORMAT}
    if path.exists():
        info = json.loads(path.read_text(encoding="utf-8"))
    for name, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(info.get(name), dict)
        info[name] = {**info[name], **value} if both else value
    listed = {"tokenizer.json", *info["models"].values(), *info.get("documents", [])}
    info["files"] = {name: _sha256(folder / name) for name in sorted(listed)}
    info["bundle_sha256"] = "0" * 64
    content = (json.dumps(info, indent=2, ensure_ascii=False) + "\n").encode()
    _, computed = own_hash(content)
    sealed = re.sub(rb'("bundle_sha256": ")0{64}', rb"\g<1>" + computed.encode(), content, count=1)
    write_file(path, sealed)


def require_free(out: Path) -> None:
    """Raises UsageError for a folder that is there and is not a bundle."""
    if out.exists() and not (out / "bundle.json").exists():
        raise UsageError(f"{out}: exists and is not a bundle; pass another folder")


@contextmanager
def written(out: Path) -> Iterator[Path]:
    """An empty folder to write a bundle into; it takes the place of `out` once that is done."""
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    if out.exists():
        shutil.rmtree(out)
    partial.rename(out)


def publish(
    folder: Path, precision: str | None, card: Path | None, out: Path, *, unsigned: bool = False
) -> None:
    """Copy one precision of a bundle. Raises UsageError or BundleError, leaving `out` as it was."""
    bundle = Bundle.load(folder, precision)
    precision = bundle.precision
    require_free(out)
    if card is not None and not card.is_file():
        raise UsageError(f"{card}: no such model card")
    if not unsigned:
        _require_certificate(bundle)
    info = {k: value for k, value in bundle.info.items() if k not in ("files", "fastest")}
    info["models"] = {precision: bundle.info["models"][precision]}
    info.pop("unsigned", None)
    if unsigned:
        info["unsigned"] = True
    with written(out) as partial:
        write_file(partial / info["models"][precision], bundle.model)
        shutil.copyfile(bundle.tokenizer_json, partial / "tokenizer.json")
        for name in info.get("documents", []):
            shutil.copyfile(folder / name, partial / name)
        if card is not None:
            shutil.copyfile(card, partial / "MODEL_CARD.md")
            info["documents"] = sorted({*info.get("documents", []), "MODEL_CARD.md"})
        update(partial, info)
    Bundle.load(out, precision)
    size_mb = sum(file.stat().st_size for file in out.iterdir()) / 1e6
    print(f"{out}: {precision} bundle of {size_mb:.1f} MB")


def _require_certificate(bundle: Bundle) -> None:
    """Raises BundleError unless certificate.json says that this very model passed."""
    name, way_out = bundle.info["models"][bundle.precision], "or publish with --unsigned"
    try:
        certificate = json.loads((bundle.folder / CERTIFICATE).read_bytes())
        verdict = certificate["models"][bundle.precision]
    except (OSError, ValueError, KeyError) as error:
        raise BundleError(
            f"{bundle.folder}: no certificate for {name}; run python -m export.parity {way_out}"
        ) from error
    if verdict["sha256"] != hashlib.sha256(bundle.model).hexdigest():
        raise BundleError(
            f"{bundle.folder}: the certificate is for another {name}; run python -m export.parity "
            f"again {way_out}"
        )
    if not verdict["passed"]:
        raise BundleError(
            f"{bundle.folder}: {name} failed: {verdict['metric']} of {verdict['subset']} changed "
            f"by {verdict['largest_change_points']:.2f} points; quantize less {way_out}"
        )


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}; export the bundle again") from error


if __name__ == "__main__":
    sys.exit(main())
