"""Checks of what listens and judges: camera, microphone, pretrained parts, bundle and engine."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..bench.run import contract_inputs, utterance
from ..engines.choose import open_engine
from ..engines.golden import GOLDEN
from ..errors import BundleError, DmdLiveError
from ..features.spec import SPEC
from ..sources.devices import cameras
from ..store import models
from ..store.bundle import CERTIFICATE, Bundle
from .base import FINE, MISSING, NOT_NEEDED, Check, Use

__all__ = ["bundle", "camera", "face", "microphone", "voice", "words"]

_LISTENED_S = 0.5


def camera(use: Use) -> Iterator[Check]:
    """It opens and shows a picture; a network address is not tried."""
    if use.camera is None:
        yield Check(name="camera", state=NOT_NEEDED, detail="none was asked for")
        return
    from ..sources.camera import CameraSource, without_password

    if "://" in str(use.camera):
        shown = without_password(str(use.camera))
        detail = f"{shown} is not tried: the doctor opens no connection"
        yield Check(name="camera", state=NOT_NEEDED, detail=detail)
        return
    try:
        with CameraSource(use.camera) as camera:
            picture: Any = next(camera.packets())
    except DmdLiveError as error:
        here = "; ".join(" ".join(line.split()) for line in cameras())
        detail = f"{error} (V4L2 knows: {here or 'none'})"
        remedy = "connect one, or name another; may you read it? sudo usermod -aG video $USER"
        yield Check(name="camera", state=MISSING, detail=detail, remedy=remedy, blocks=True)
        return
    height, width, _ = picture.rgb.shape
    yield Check(name="camera", state=FINE, detail=f"{use.camera}: {width} x {height} pixels")


def microphone(use: Use) -> Iterator[Check]:
    """PortAudio is here, the device opens, and sound arrives."""
    if use.microphone is None:
        yield Check(name="microphone", state=NOT_NEEDED, detail="none was asked for")
        return
    try:
        import sounddevice
    except (ImportError, OSError) as error:
        remedy = "sudo apt install libportaudio2"
        yield Check(name="microphone", state=MISSING, detail=str(error), remedy=remedy, blocks=True)
        return
    from ..sources.microphone import MicrophoneSource

    heard_s, silent = 0.0, True
    try:
        with MicrophoneSource(use.microphone) as microphone:
            for chunk in microphone.packets():
                heard_s += len(chunk.samples) / SPEC.sample_rate_hz  # type: ignore[union-attr]
                silent &= not chunk.samples.any()  # type: ignore[union-attr]
                if heard_s >= _LISTENED_S:
                    break
    except DmdLiveError as error:
        some = any(device["max_input_channels"] for device in sounddevice.query_devices())
        yield Check(
            name="microphone",
            state=MISSING,
            detail=str(error) if some else "PortAudio finds none",
            remedy="dmd-live --list-devices" if some else "connect one; arecord -l lists it",
            blocks=True,
        )
        return
    muted = ", but digital silence: is it muted?" if silent else ""
    yield Check(name="microphone", state=FINE, detail=f"{use.microphone}: sound arrives{muted}")


def voice(use: Use) -> Iterator[Check]:
    """Voice activity, without which no utterance is found."""
    from ..speech.vad import VoiceActivity

    yield _part("voice activity", "silero-vad", VoiceActivity)


def face(use: Use) -> Iterator[Check]:
    """The face networks."""
    if not use.pictures:
        yield Check(name="face", state=NOT_NEEDED, detail="voice alone")
        return
    from ..features.vision import VisionFeatures

    yield _part(
        "face", "face-landmarker", lambda: VisionFeatures(models.resolve("face-landmarker"))
    )


def _part(name: str, part: str, load: Callable[[], object]) -> Check:
    """A pretrained part that is always needed: here, undamaged, and its library loads it."""
    try:
        load()
    except DmdLiveError as error:
        return Check(
            name=name, state=MISSING, detail=str(error), remedy=_way_out(part), blocks=True
        )
    return Check(name=name, state=FINE, detail=part)


def _way_out(name: str) -> str:
    return next(part.way_out for part in models.PARTS if part.name == name)


def words(use: Use) -> Iterator[Check]:
    """The recogniser that would be used, and the other one."""
    from ..speech import PARTS, open_recogniser

    name = "speech-to-text"
    if use.stt == "none":
        yield Check(name=name, state=NOT_NEEDED, detail="switched off")
        return
    try:
        model = None if use.stt_model is None else Path(use.stt_model)
        recogniser = open_recogniser(use.stt, model)
    except DmdLiveError as error:
        remedy = _way_out(PARTS.get(use.stt, PARTS["moonshine"]))
        yield Check(name=name, state=MISSING, detail=str(error), remedy=remedy, blocks=True)
        return
    if recogniser is None:
        detail = "neither Vosk's model nor Moonshine is here: voice and face alone"
        yield Check(name=name, state=MISSING, detail=detail, remedy=_way_out(PARTS["moonshine"]))
        return
    used, part = recogniser.name, use.stt_model or PARTS[recogniser.name]
    yield Check(name=name, state=FINE, detail=f"{used}, {part}")
    for other, part in PARTS.items():
        if other != used:
            yield Check(name=name, state=NOT_NEEDED, detail=f"{other}, {part}: {used} does it")


def bundle(use: Use) -> Iterator[Check]:
    """Hashes, certificate, and what the engine makes of known utterances."""
    try:
        loaded = Bundle.load(use.bundle)
    except BundleError as error:
        remedy = "copy it again, or leave --bundle out for the built-in one"
        yield Check(name="bundle", state=MISSING, detail=str(error), remedy=remedy, blocks=True)
        return
    detail = f"{loaded.folder}: {', '.join(loaded.info['models'])}, no byte altered"
    yield Check(name="bundle", state=FINE, detail=detail)
    yield _certificate(loaded)
    said = _Said()
    try:
        engine = open_engine(loaded, use.engine)
        engine.infer(contract_inputs(loaded.tokenizer_json, utterance(1), 1))
    except DmdLiveError as error:
        remedy = "dmd-live --engine cpu, or another --bundle"
        yield Check(name="engine", state=MISSING, detail=str(error), remedy=remedy, blocks=True)
        return
    tested = GOLDEN in loaded.info["files"]
    detail = f"{engine.name} {engine.precision}" + (
        " gives the known outputs"
        if tested
        else ", the bundle has no known outputs to test it with"
    )
    wrong = use.engine not in ("auto", engine.name)
    yield Check(
        name="engine",
        state=MISSING if wrong else FINE,
        detail="; ".join([*said.lines, detail]),
        remedy=f"dmd-live --bench --engine {use.engine} says what it needs" if wrong else "",
    )


class _Said(logging.Handler):
    """The runtime's warnings from now on."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        logging.getLogger("dmd_live").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep its text."""
        self.lines.append(record.getMessage())


def _certificate(bundle: Bundle) -> Check:
    name = "certificate"
    remedy = f"python -m export.parity --bundle {bundle.folder} (where the model was trained)"
    if CERTIFICATE not in bundle.info["files"]:
        detail = "none: nobody says what export cost this model"
        return Check(name=name, state=MISSING, detail=detail, remedy=remedy)
    certificate = json.loads((bundle.folder / CERTIFICATE).read_bytes())
    verdict = certificate["models"].get(bundle.precision, {})
    if verdict.get("sha256") != hashlib.sha256(bundle.model).hexdigest():
        detail = f"it is not about this {bundle.precision} model"
        return Check(name=name, state=MISSING, detail=detail, remedy=remedy)
    detail = (
        f"{bundle.precision} changes {verdict['metric']} of {verdict['subset']} by "
        f"{verdict['largest_change_points']:.2f} points, {certificate['budget_points']} allowed"
    )
    if not verdict["passed"]:
        return Check(name=name, state=MISSING, detail=f"FAILED: {detail}", remedy=remedy)
    return Check(name=name, state=FINE, detail=detail)
