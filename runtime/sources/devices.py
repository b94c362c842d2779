"""The microphones and cameras of this machine."""

from collections.abc import Iterator
from pathlib import Path

__all__ = ["cameras", "listing"]


def listing() -> Iterator[str]:
    """Lines for people: how `--microphone` and `--camera` would name each device."""
    yield from _section("microphones (--microphone INDEX or part of the name)", _microphones())
    yield from _section("cameras (--camera INDEX)", cameras())


def _section(title: str, lines: list[str]) -> Iterator[str]:
    yield f"{title}:"
    yield from (f"  {line}" for line in lines or ["none found"])


def _microphones() -> list[str]:
    try:
        import sounddevice
    except (OSError, ImportError) as error:
        return [f"PortAudio is not installed ({error}); run: sudo apt install libportaudio2"]
    default = sounddevice.default.device[0]
    return [
        f"{device['index']:>3}  {device['name']}, {device['default_samplerate']:.0f} Hz"
        + (" (default)" if device["index"] == default else "")
        for device in sounddevice.query_devices()
        if device["max_input_channels"] > 0
    ]


def cameras() -> list[str]:
    """Linux names its cameras; elsewhere one tries 0, 1 and so on."""
    folders = sorted(
        Path("/sys/class/video4linux").glob("video*"), key=lambda p: int(p.name[len("video") :])
    )
    return [
        f"{folder.name[len('video') :]:>3}  {(folder / 'name').read_text().strip()}"
        for folder in folders
    ]
