"""Two people in view for a long time, with clients of every kind: `python -m tests.soak`.

`dmd-live --file --realtime --web --mqtt --out` with the demo's face twice in one picture; a fast, a
slow and a stuck WebSocket, curl and mosquitto_sub listen. By hand: it needs mosquitto and curl.
Exit code 1 when a client misses a final event, or the program does not end when it is told to.
"""

import asyncio
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import av
import cv2
import numpy as np
from tqdm import tqdm

from runtime.config import option, parse
from tests.runtime.mosquitto import free_port

_DEMO = Path(__file__).parents[1] / "runtime" / "demo" / "demo.mp4"
_SETTLED_S = 60.0  # memory is compared from then on
_SIDE, _RATE_HZ = 600, 15


@dataclass(frozen=True, kw_only=True)
class Options:
    """Play two faces and one voice in real time, and count what every client got."""

    minutes: float = option(30.0, metavar="N", help="how long")
    alone: bool = option(False, help="without any client, to compare latencies with")


def main() -> int:
    """Run the command; returns the exit code."""
    options = parse(Options, None, prog="python -m tests.soak")
    if missing := [name for name in ("mosquitto", "mosquitto_sub", "curl") if not _found(name)]:
        print(f"tests.soak: not installed: {', '.join(missing)}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as started:
        return _run(options, Path(temporary), started)


def _run(options: Options, folder: Path, started: ExitStack) -> int:
    clip = _two_faces(folder, options.minutes)
    broker, web = free_port(), free_port()
    (folder / "broker").write_text(
        f"listener {broker} 127.0.0.1\nallow_anonymous true\nlog_dest none\n"
    )
    _start(started, folder / "log", _found("mosquitto"), "-c", folder / "broker")
    time.sleep(1.0)
    program = _start(
        started, folder / "stdout", sys.executable, "-m", "runtime.cli", "--file", clip,
        "--realtime", "--json", "--web", web, "--mqtt", f"mqtt://127.0.0.1:{broker}/soak",
        "--out", folder / "out.jsonl",
    )  # fmt: skip
    if not options.alone:
        _start(started, folder / "mqtt", "mosquitto_sub", "-p", broker, "-t", "soak/events")
        _start(
            started, folder / "sse", "curl", "-sN", "--retry", "30", "--retry-connrefused",
            "-H", "Accept: text/event-stream", f"http://127.0.0.1:{web}/events",
        )  # fmt: skip
    got = asyncio.run(_watch(program.pid, web, 60.0 * options.minutes, alone=options.alone))
    program.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        program.wait(15.0)
    time.sleep(0.5)
    return _tell(options, folder, got, ended=program.poll() == 0)


def _tell(options: Options, folder: Path, got: dict[str, Any], *, ended: bool) -> int:
    out = _finals((folder / "out.jsonl").read_text().splitlines())
    total_ms = np.array([event["latency_ms"]["total"] for event in out.values()])
    print(
        f"{len(out)} finals in {options.minutes:g} minutes; {got['cores']:.2f} cores, "
        f"{got['memory_mb']:.0f} MB, {got['growth_mb']:.0f} MB more than after a minute"
    )
    median_ms, most_ms = np.quantile(total_ms, [0.5, 0.99]) if len(total_ms) else (np.nan, np.nan)
    print(f"latency of finals: median {median_ms:.0f} ms, 99 % {most_ms:.0f} ms")
    if not ended:
        print("it did not end within 15 s")
    missed = {}
    if not options.alone:
        told = {
            "stdout": (folder / "stdout").read_text().splitlines(),
            "mosquitto_sub": (folder / "mqtt").read_text().splitlines(),
            "curl": [
                line.removeprefix("data:")
                for line in (folder / "sse").read_text().splitlines()
                if line.startswith("data:")
            ],
            "WebSocket": got["fast"],
        }
        missed = {name: len(out.keys() - _finals(lines).keys()) for name, lines in told.items()}
        print(f"finals missed: {missed}; the slow WebSocket was told: {got['lost'] or 'nothing'}")
    return 1 if any(missed.values()) or not ended or not out else 0


def _finals(lines: list[str]) -> dict[tuple[int, int], dict[str, Any]]:
    events = [json.loads(line) for line in lines if line.strip()]
    return {(e["utterance"], e["revision"]): e for e in events if e.get("type") == "final"}


async def _watch(pid: int, web: int, seconds: float, *, alone: bool) -> dict[str, Any]:
    """Clients for so long; what they got, and what the process took."""
    found: dict[str, Any] = {"fast": [], "lost": None}
    async with aiohttp.ClientSession() as session:
        pauses_s = () if alone else (0.0, 3.0, 1e6)
        clients = [asyncio.create_task(_listen(session, web, p, found)) for p in pauses_s]
        await asyncio.sleep(min(_SETTLED_S, seconds / 2.0))
        settled_mb, begun_s, begun_cpu_s = _memory_mb(pid), time.monotonic(), _cpu_s(pid)
        await asyncio.sleep(max(0.0, seconds - _SETTLED_S))
        found["cores"] = (_cpu_s(pid) - begun_cpu_s) / (time.monotonic() - begun_s)
        found["memory_mb"] = _memory_mb(pid)
        found["growth_mb"] = found["memory_mb"] - settled_mb
        for client in clients:
            client.cancel()
    return found


async def _listen(
    session: aiohttp.ClientSession, web: int, pause_s: float, found: dict[str, Any]
) -> None:
    """A WebSocket that takes an event every `pause_s`."""
    url = f"ws://127.0.0.1:{web}/events?provisional=1&last=100"
    while True:
        try:
            async with session.ws_connect(url, max_msg_size=0) as socket_:
                async for message in socket_:
                    if pause_s == 0.0:
                        found["fast"].append(message.data)
                    elif "lost" in (said := json.loads(message.data)):
                        found["lost"] = said["lost"]
                    await asyncio.sleep(pause_s)
        except aiohttp.ClientError:  # it is not up yet, or has had enough
            await asyncio.sleep(0.5)


def _two_faces(folder: Path, minutes: float) -> Path:
    """The demo's portrait twice in 1280 x 720, half a clip apart, and its voice, on and on."""
    with av.open(str(_DEMO)) as container:
        pictures = [
            cv2.resize(frame.to_ndarray(format="rgb24"), (_SIDE, _SIDE))
            for frame in container.decode(video=0)
        ]
    with av.open(str(_DEMO)) as container:
        resampler = av.AudioResampler("s16", "mono", 16_000)
        sound = np.concatenate(
            [
                out.to_ndarray()[0]
                for f in container.decode(audio=0)
                for out in resampler.resample(f)
            ]
        )
    length_s = len(pictures) / _RATE_HZ
    sound = np.resize(np.pad(sound, (0, 16_000)), round(length_s * 16_000)).astype(np.int16)
    path = folder / "two.mp4"
    with av.open(str(path), "w") as out:
        video, audio = out.add_stream("libx264", rate=_RATE_HZ), out.add_stream("aac", rate=16_000)
        video.width, video.height, video.pix_fmt = 1_280, 720, "yuv420p"
        video.options, audio.layout = {"preset": "ultrafast"}, "mono"
        for _ in tqdm(range(int(60.0 * minutes / length_s) + 3), "the clip", leave=False):
            for k, left in enumerate(pictures):
                right = pictures[(k + len(pictures) // 2) % len(pictures)]
                both = np.zeros((720, 1_280, 3), np.uint8)
                both[60 : 60 + _SIDE, 20 : 20 + _SIDE] = left
                both[60 : 60 + _SIDE, 660 : 660 + _SIDE] = right
                out.mux(video.encode(av.VideoFrame.from_ndarray(both, format="rgb24")))
            frame = av.AudioFrame.from_ndarray(sound[None], format="s16", layout="mono")
            frame.sample_rate = 16_000
            out.mux(audio.encode(frame))
        out.mux(video.encode(None))
        out.mux(audio.encode(None))
    return path


def _start(started: ExitStack, stdout: Path, *command: object) -> "subprocess.Popen[bytes]":
    file = started.enter_context(stdout.open("wb"))
    process = subprocess.Popen([str(part) for part in command], stdout=file)
    started.callback(process.wait)
    started.callback(process.kill)
    return process


def _found(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin")


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100.0


def _memory_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4_096 / 1e6


if __name__ == "__main__":
    sys.exit(main())
