"""Helpers for the tests of the web server: a stream to watch, and its server."""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import av
import numpy as np

from runtime.errors import UsageError
from runtime.features.tracking import FaceTracker, Seen
from runtime.features.vision import VisionFeatures
from runtime.live import COMMANDS
from runtime.outputs.web.server import WebServer
from runtime.schemas import EmotionEvent, Person
from runtime.speech.base import Word
from runtime.store import models

Answer = TypeVar("Answer")
EMOTIONS = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")


def an_event(
    number: int = 1, *, emotion: str = "happiness", p: float = 0.7, **more: Any
) -> EmotionEvent:
    rest = (1.0 - p) / (len(EMOTIONS) - 1)
    text = more.pop("text", f"sentence {number}")
    end_s = 10.0 * number
    event = EmotionEvent(
        type="final",
        utterance=number,
        revision=0,
        start_s=end_s - 3.0,
        end_s=end_s,
        text=text,
        words=tuple(Word(text=w, start_s=end_s - 3.0, end_s=end_s) for w in text.split()),
        sentiment=1.2,
        arousal=0.3,
        emotion=emotion,
        uncertain=p < 0.5,
        probabilities={name: p if name == emotion else rest for name in EMOTIONS},
        modality_sentiment={"text": 0.6, "audio": 0.2, "vision": 1.8},
        modality_weight={"text": 0.3, "audio": 0.2, "vision": 0.5},
        modalities={"text": "present", "audio": "present", "vision": "present"},
        quality=(),
        latency_ms={"queue": 12.0, "words": 190.0, "inference": 5.0, "total": 232.0},
    )
    return replace(event, **more)


def early(number: int = 1, revision: int = 0, **more: Any) -> EmotionEvent:
    return an_event(number, type="provisional", revision=revision, **more)


class Stream:
    """What `EmotionStream` shows to the server, to be set by a test."""

    def __init__(self) -> None:
        self.seen: Seen | None = None
        self.ended = False
        self.live = True
        self.down: dict[str, str] = {}
        self.delivers = ["audio", "vision"]
        self.commands: list[str] = []
        self.newest: EmotionEvent | None = None

    @property
    def stats(self) -> dict[str, Any]:
        return {
            "provisional": 0, "final": 0, "dropped": {"audio": 0, "vision": 3},
            "restarts": {"audio": 0, "vision": 0}, "speech_restarts": 0, "down": dict(self.down),
            "engine": {"engine": "cpu", "precision": "int8"},
            "source": {"live": self.live, "delivers": self.delivers},
        }  # fmt: skip

    def latest(self) -> EmotionEvent | None:
        return self.newest

    def command(self, line: str) -> None:
        name = line.strip().lower()
        if name not in COMMANDS:
            raise UsageError(f"no command {name[:40]!r}")
        self.commands.append(name)
        if name == "mute":
            self.down["audio"] = "muted"
        if name == "unmute":
            self.down.pop("audio", None)


@contextmanager
def serving(stream: Stream, address: str = "0", **options: Any) -> Iterator[WebServer]:
    web = WebServer(address, **options)
    web.attach(stream)
    with web:
        yield web


def run(work: Callable[[], Awaitable[Answer]]) -> Answer:
    """Run a client."""

    async def bounded() -> Answer:
        return await asyncio.wait_for(work(), 20)

    return asyncio.run(bounded())


def faces(demo: Path, n: int) -> list[Seen]:
    """What is seen in the demo clip, from its 20th picture on."""
    tracker = FaceTracker(VisionFeatures(models.resolve("face-landmarker")))
    found = []
    with av.open(str(demo)) as container:
        for i, frame in enumerate(container.decode(video=0)):
            if i >= 20:
                found.append(tracker.look(frame.to_ndarray(format="rgb24"), i / 25))
            if len(found) == n:
                break
    return found


def nobody() -> Seen:
    rgb = np.full((240, 320, 3), 90, np.uint8)
    return Seen(rgb=rgb, faces=(), n_faces=0)


def conversation() -> list[EmotionEvent]:
    """Some minutes of a talk."""
    who = Person(id=1, confidence=0.9, n_in_view=1, box=(0.3, 0.2, 0.3, 0.5))
    said: list[tuple[str, str, float, float, float]] = [
        ("Good morning! You are here early today.", "happiness", 0.83, 1.6, 0.4),
        ("I could not sleep. There was this noise in the hall again.", "fear", 0.46, -0.9, 0.3),
        ("It was only the cat.", "neutral", 0.78, 0.2, -0.3),
        ("The cat? In the middle of the night, with the door locked?", "surprise", 0.71, -0.2, 0.6),
        ("I miss the old house sometimes.", "sadness", 0.64, -1.4, -0.5),
        ("And nobody asked me before they sold it.", "anger", 0.69, -1.9, 0.5),
        ("Well, here is your tea. Careful, it is hot.", "neutral", 0.81, 0.5, -0.2),
        ("Thank you. You always know what I need.", "happiness", 0.88, 2.1, 0.2),
    ]
    events = []
    for i, (text, emotion, p, sentiment, arousal) in enumerate(said):
        event = an_event(i + 1, emotion=emotion, p=p, text=text, person=who)
        at_s = 5.0 + 33.0 * i
        felt = {"sentiment": sentiment, "arousal": arousal}
        events.append(replace(event, start_s=at_s, end_s=at_s + 3.4, **felt))
    events[5] = replace(events[5], mixed=True, disagree=("text", "vision"))
    events[-1] = replace(
        events[-1],
        reasons=("smile, 0.6 above usual", "warm words: thank, always", "voice calm and low"),
        quality=("picture is dark",),
    )
    return events


def decoded(text: str) -> dict[str, Any]:
    found = json.loads(text)
    assert isinstance(found, dict)
    return found


def get(web: WebServer, path: str, **headers: str) -> tuple[int, str, dict[str, str]]:
    async def ask() -> tuple[int, str, dict[str, str]]:
        async with (
            aiohttp.ClientSession() as session,
            session.get(web.url.rstrip("/") + path, headers=headers) as answer,
        ):
            return answer.status, await answer.text(), dict(answer.headers)

    return run(ask)


def raw(web: WebServer, sent: bytes, *, timeout_s: float = 5.0) -> bytes:
    """What comes back until the server closes."""
    with socket.create_connection(("127.0.0.1", web.port), timeout=timeout_s) as client:
        got = b""
        with suppress(ConnectionError, TimeoutError):
            client.sendall(sent)
        with suppress(ConnectionError, TimeoutError):
            while piece := client.recv(65_536):
                got += piece
        return got


def status(answer: bytes) -> int:
    return int(answer.split(b" ")[1]) if answer else 0


async def messages(socket_: aiohttp.ClientWebSocketResponse, n: int) -> list[dict[str, Any]]:
    return [decoded(await socket_.receive_str(timeout=5)) for _ in range(n)]


def handshake(web: WebServer, path: str, *more: str) -> bytes:
    lines = (
        f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{web.port}", "Upgrade: websocket",
        "Connection: Upgrade", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13", *more,
    )  # fmt: skip
    return "\r\n".join([*lines, "", ""]).encode()
