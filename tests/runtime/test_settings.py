"""Options from a file, from variables and from the command line: the same, in one order."""

import json
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from runtime import settings
from runtime.cli import Options
from runtime.config import given
from runtime.errors import UsageError
from runtime.live import EmotionStream
from runtime.stream.options import from_keywords


def dmd_live(root: Path, *args: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "runtime.cli", *args],
        cwd=root, env={**os.environ, **variables}, capture_output=True, text=True, timeout=60,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


def complete(args: list[str], **variables: str) -> Options:
    return settings.complete(Options, given(Options, args, prog="dmd-live"), variables)


def other(item: Any) -> Any:
    """A value that is not the default."""
    if item.metadata["choices"] is not None:
        return next(c for c in item.metadata["choices"] if c != item.default)
    if "bool" in str(item.type):
        return True
    if "int" in str(item.type):
        return 7
    return 7.5 if "float" in str(item.type) else "text"


@pytest.mark.parametrize("item", fields(Options), ids=lambda item: item.name)
def test_every_option_comes_from_all_three_places(item: Any, tmp_path: Path) -> None:
    value, flag = other(item), "--" + item.name.replace("_", "-")
    variable = "DMD_LIVE_" + item.name.upper()
    file = tmp_path / "a.toml"
    if item.name == "config":
        file.write_text("hop_ms = 700")
        assert complete(["--config", str(file)]).hop_ms == 700
        assert complete([], DMD_LIVE_CONFIG=str(file)).hop_ms == 700
        file.write_text(f"config = {json.dumps(str(file))}")
        with pytest.raises(UsageError, match="no such option"):
            complete(["--config", str(file)])
        return
    wanted = Options(**{item.name: value})
    on_line = [flag] if value is True else [flag, str(value)]
    assert complete(on_line) == wanted
    assert complete([], **{variable: str(value)}) == wanted
    for key in (item.name, item.name.replace("_", "-")):
        file.write_text(f"{key} = {json.dumps(value)}")
        assert complete(["--config", str(file)]) == Options(
            config=str(file), **{item.name: value}
        )  # fmt: skip
    # The nearer place wins, whatever the others say.
    assert complete(["--config", str(file)], **{variable: str(value)}) == Options(
        config=str(file), **{item.name: value}
    )  # fmt: skip


def test_the_command_line_goes_before_variables_and_those_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text(
        'hop_ms = 700\nengine = "cpu"\njson = true\nprovisional = true\nudp = ["a:1", "b:2"]'
    )
    args = ["--config", str(file)]
    found = complete([*args, "--hop-ms", "900", "--no-provisional"], DMD_LIVE_HOP_MS="800",
                     DMD_LIVE_ENGINE="auto", DMD_LIVE_JSON="no", DMD_LIVE_CAMERA="")  # fmt: skip
    assert (found.hop_ms, found.engine, found.json, found.provisional) == (
        900,
        "auto",
        False,
        False,
    )
    assert complete(args).udp == complete(["--udp", "a:1", "--udp", "b:2"]).udp
    assert complete([*args, "--udp", "c:3"]).udp == "c:3"


def test_another_kind_of_source_replaces_the_file_s(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text('camera = 0\nmicrophone = "USB"')
    args = ["--config", str(file)]
    assert (complete(args).camera, complete(args).microphone) == ("0", "USB")
    found = complete([*args, "--microphone", "default"])
    assert (found.camera, found.microphone) == ("0", "default")
    for more in (["--demo"], ["--file", "talk.mp4"], ["--replay", "day.jsonl"]):
        assert not complete([*args, *more]).devices
    assert complete([*args, "--no-demo"]).devices


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("micophone = 'USB'", "micophone: no such option; nearest: microphone"),
        ("hop_mss = 3", "hop_mss: no such option; nearest: hop_ms"),
        ("zzzzzz = 3", "zzzzzz: no such option; `dmd-live --help` lists them"),
        ("hop_ms = 'x'", "hop_ms: 'x' is not a whole number"),
        ("hop_ms = 1.5", "hop_ms: 1.5 is not a whole number"),
        ("hop_ms = true", "hop_ms: True is not a whole number"),
        ("out_mb = 'much'", "out_mb: 'much' is not a number"),
        ("json = 1", "json: 1 is not true or false"),
        ("file = 1.5", "file: 1.5 is not a text"),
        ("file = ['a']", "file: ['a'] is not a text"),
        ("udp = [1]", "udp: [1] is not a text"),
        ("engine = 'fast'", "engine: no 'fast'; there are: auto"),
        ("[stream]\nhop_ms = 1", "[stream]: options stand alone"),
        ("hop_ms = ", "not TOML"),
        ("\xff", "not TOML"),
    ],
)
def test_a_mistake_in_a_file_is_told(content: str, what: str, tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(UsageError) as caught:
        complete(["--config", str(file)])
    assert str(caught.value).startswith(f"{file}: {what}")
    assert "\n" not in str(caught.value)


def test_mistakes_are_one_clear_line(root: Path, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("micophone = 'USB'")
    for args, variables, what in (
        (("--config", str(tmp_path / "a.toml")), {}, "nearest: microphone"),
        (("--config", str(tmp_path / "none.toml")), {}, "cannot be read"),
        (("--config", str(tmp_path)), {}, "cannot be read"),
        (("--demo",), {"DMD_LIVE_HOP_MS": "soon"}, "DMD_LIVE_HOP_MS: 'soon' is not a whole number"),
        (("--demo",), {"DMD_LIVE_JSON": "maybe"}, "DMD_LIVE_JSON: 'maybe' is not true or false"),
        (("--demo",), {"DMD_LIVE_STT": "ears"}, "DMD_LIVE_STT: no 'ears'; there are: auto"),
    ):
        out = dmd_live(root, *args, **variables)
        assert (out.returncode, out.stdout) == (2, "")
        assert out.stderr.startswith("dmd-live: ")
        assert out.stderr.count("\n") == 1
        assert what in out.stderr


def test_a_variable_that_is_no_option_is_told(root: Path) -> None:
    out = dmd_live(root, "--version", DMD_LIVE_MICOPHONE="x", DMD_LIVE_CACHE="")
    assert out.returncode == 0
    assert out.stderr.startswith(
        "dmd-live: DMD_LIVE_MICOPHONE: no such option; nearest: DMD_LIVE_MICROPHONE"
    )
    assert out.stderr.count("\n") == 1


def test_the_example_file_is_read(root: Path, clip: Path, tmp_path: Path) -> None:
    text = (root / "examples" / "dmd-live.toml").read_text(encoding="utf-8")
    found = complete(["--config", str(root / "examples" / "dmd-live.toml")])
    assert (found.camera, found.microphone, found.provisional) == ("0", "default", True)
    file = tmp_path / "all.toml"
    file.write_text(re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE))
    found = complete(["--config", str(file)])
    assert (found.exec, found.mqtt) == ("python3 face.py", "mqtts://anna@broker.example/robot/mood")
    quiet = tmp_path / "file.toml"
    quiet.write_text(text)
    out = subprocess.run(
        [sys.executable, "-m", "runtime.cli", "--config", quiet, "--file", clip,
         "--no-provisional"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert (out.returncode, out.stderr) == (0, "")
    assert out.stdout == (tmp_path / "events.jsonl").read_text()
    assert len(out.stdout.splitlines()) == 2


def test_devices_channels_and_angles_may_be_whole_numbers() -> None:
    numbers = from_keywords({"camera": 0, "microphone": 2, "mic_channel": 1, "rotate": 90})
    texts = from_keywords({"camera": "0", "microphone": "2", "mic_channel": "1", "rotate": "90"})
    assert numbers == texts
    numbers.check(own_source=False)
    EmotionStream(camera=0, microphone=2, mic_channel=0, rotate=90)
    for wrong, what in (
        ({"mic_channel": -1}, "no channel '-1'"),
        ({"rotate": 45}, "no rotate '45'"),
    ):
        with pytest.raises(UsageError, match=what):
            EmotionStream(microphone=2, **wrong)


def test_a_stream_from_a_file(clip: Path, tmp_path: Path) -> None:
    class Kept(list):
        def __enter__(self) -> "Kept":
            return self

        def __exit__(self, *exc: object) -> None:
            pass

        emit = list.append

    file, kept = tmp_path / "a.toml", Kept()
    out = json.dumps(str(tmp_path / "e.jsonl"))
    file.write_text(f"camera = 0\nprovisional = true\njson = true\nout = {out}")
    with EmotionStream.from_config(file, file=clip, provisional=False, sinks=[kept]) as stream:
        events = list(stream)
        assert stream.stats["outputs"][0]["name"] == f"out {tmp_path / 'e.jsonl'}"
    assert [event.type for event in events] == ["final", "final"]
    assert kept == events
    assert (tmp_path / "e.jsonl").read_text() == "".join(e.to_json() + "\n" for e in events)
    devices = EmotionStream.from_config(file)  # not opened: it is as the command would do it
    assert devices._options.microphone == "default"
    assert EmotionStream.from_config(file, camera=1)._options.camera == "1"
    with pytest.raises(TypeError, match="colour"):
        EmotionStream.from_config(file, colour="red")
    file.write_text("micophone = 'USB'")
    with pytest.raises(UsageError, match="nearest: microphone"):
        EmotionStream.from_config(file)
