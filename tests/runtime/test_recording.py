"""Recordings: what is replayed is what was seen; damage, a full disk and other models are told."""

import dataclasses
import json
import logging
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from zlib import crc32

import pytest

from runtime import __version__
from runtime.errors import DmdLiveError, SourceError, UsageError
from runtime.judging import reasons
from runtime.judging.calibration import SUBSETS
from runtime.live import EmotionStream
from runtime.outputs.recording import FORMAT, Recording
from runtime.schemas import EmotionEvent
from runtime.store.bundle import own_hash

pytestmark = pytest.mark.usefixtures("remembering")


def exact(events: list[EmotionEvent]) -> list[EmotionEvent]:
    """Everything but the latencies, which a recording keeps to 0.1 ms."""
    return [dataclasses.replace(event, latency_ms={}) for event in events]


def summed(content: dict[str, object]) -> bytes:
    """A line of a recording, with its checksum."""
    body = json.dumps(content)[:-1].encode()
    return body + f', "crc32": {crc32(body)}}}\n'.encode()


def every_event(stream: EmotionStream) -> list[EmotionEvent]:
    """Provisional ones too, which a loop may skip."""
    seen: list[EmotionEvent] = []
    stream.on_event(seen.append)
    with stream:
        list(stream)
    return seen


@pytest.fixture(scope="module")
def recorded(
    clip: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[EmotionEvent]]:
    """The demo clip with early estimates: a recording, and its events."""
    path = tmp_path_factory.mktemp("recording") / "talk.jsonl"
    events = every_event(EmotionStream(file=clip, provisional=True, record=path))
    assert {event.type for event in events} == {"provisional", "final"}
    return path, events


def test_a_replay_gives_the_same_events_bit_for_bit(
    recorded: tuple[Path, list[EmotionEvent]], caplog: pytest.LogCaptureFixture
) -> None:
    path, events = recorded
    stream = EmotionStream(replay=path)
    again = every_event(stream)
    assert exact(again) == exact(events)
    assert [event.to_json() for event in again] == [event.to_json() for event in events]
    assert stream.stats["replay"] == {"events": len(events), "changed": 0}
    assert not caplog.records


def test_a_recording_holds_no_raw_media(recorded: tuple[Path, list[EmotionEvent]]) -> None:
    path, events = recorded
    header, *lines = path.read_text().splitlines()
    about = json.loads(header)
    assert (about["recording"], about["dmd_live"]) == (FORMAT, __version__)
    assert len(lines) == len(events)
    with Recording(path) as recording:
        # Kept as what is new in each line, read as a whole.
        for (evidence, stored), event in zip(recording.entries(), events, strict=True):
            assert stored == json.loads(event.to_json())
            seconds = event.end_s - event.start_s
            assert len(evidence.audio) == pytest.approx(25 * seconds, abs=2)
            assert len(evidence.vision) == pytest.approx(15 * seconds, abs=2)
    # 16 bit sound alone would take 32 kB a second.
    n_seconds = sum(event.end_s - event.start_s for event in events if event.type == "final")
    assert path.stat().st_size < 24_000 * n_seconds


def test_another_model_is_told_and_may_differ(
    recorded: tuple[Path, list[EmotionEvent]],
    root: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path, events = recorded
    other = Path(shutil.copytree(root / "runtime" / "default_bundle", tmp_path / "bundle"))
    info = json.loads((other / "bundle.json").read_text())
    # Everything is uncertain to this one.
    info["calibration"]["uncertain_below"] = dict.fromkeys(SUBSETS, 1.1)
    content = json.dumps(info, indent=2).encode()
    content = content.replace(own_hash(content)[0].encode(), own_hash(content)[1].encode())
    (other / "bundle.json").write_bytes(content)
    stream = EmotionStream(replay=path, bundle=other)
    again = every_event(stream)
    assert [event.probabilities for event in again] == [event.probabilities for event in events]
    assert all(event.uncertain for event in again)
    n_changed = sum(not event.uncertain for event in events)
    assert stream.stats["replay"] == {"events": len(events), "changed": n_changed}
    assert caplog.text.count("events may differ") == 1
    assert len(caplog.records) == 1


def test_a_replay_can_be_recorded(
    recorded: tuple[Path, list[EmotionEvent]], tmp_path: Path
) -> None:
    path, events = recorded
    copy = tmp_path / "again.jsonl"
    assert exact(every_event(EmotionStream(replay=path, record=copy))) == exact(events)
    assert copy.read_bytes() == path.read_bytes()


def test_a_replay_explains_and_keeps_people_apart_as_recorded_or_as_asked(
    recorded: tuple[Path, list[EmotionEvent]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, events = recorded
    monkeypatch.setattr(reasons, "_COUNTS", -1.0)  # of any two words
    copy = tmp_path / "again.jsonl"
    asked = EmotionStream(replay=path, record=copy, explain=True, per_person=True)
    told = every_event(asked)
    assert not any("words:" in reason for event in events for reason in event.reasons)
    assert any("words:" in reason for event in told for reason in event.reasons)
    with Recording(copy) as recording:
        assert recording.header["explain"] is recording.header["per_person"] is True
    again = EmotionStream(replay=copy)
    assert exact(every_event(again)) == exact(told)
    assert again.stats["replay"] == {"events": len(events), "changed": 0}


def test_a_recording_that_was_cut_off_is_good_up_to_there(
    recorded: tuple[Path, list[EmotionEvent]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, events = recorded
    cut = tmp_path / "cut.jsonl"
    cut.write_bytes(path.read_bytes()[:-100])
    assert exact(every_event(EmotionStream(replay=cut))) == exact(events[:-1])
    assert f"cut off in line {len(events) + 1}" in caplog.text


@pytest.mark.parametrize("where", [0.05, 0.5, 0.95])
def test_every_damaged_byte_is_noticed(
    recorded: tuple[Path, list[EmotionEvent]], tmp_path: Path, where: float
) -> None:
    path, events = recorded
    lines = path.read_bytes().splitlines(keepends=True)
    line = bytearray(lines[3])
    line[int(where * len(line))] ^= 1
    lines[3] = bytes(line)
    damaged = tmp_path / "damaged.jsonl"
    damaged.write_bytes(b"".join(lines))
    got: list[EmotionEvent] = []
    stream = EmotionStream(replay=damaged)
    stream.on_event(got.append)
    with stream, pytest.raises(SourceError, match="line 4 is damaged"):
        list(stream)
    assert exact(got) == exact(events[:2])


@pytest.mark.parametrize("latencies", [{"total": "soon"}, {"total": None}, {"total": {}}, 3.0])
def test_a_latency_that_is_no_number_is_damage(
    recorded: tuple[Path, list[EmotionEvent]], tmp_path: Path, latencies: object
) -> None:
    """With the right checksum, as whoever writes such a line would give it."""
    lines = recorded[0].read_bytes().splitlines(keepends=True)
    content = json.loads(lines[1])
    del content["crc32"]
    content["event"]["latency_ms"] = latencies
    lines[1] = summed(content)
    path = tmp_path / "wrong.jsonl"
    path.write_bytes(b"".join(lines))
    with EmotionStream(replay=path) as stream, pytest.raises(SourceError, match="line 2 is damage"):
        list(stream)


def test_what_is_no_recording_is_refused_in_one_line(
    recorded: tuple[Path, list[EmotionEvent]], demo: Path, root: Path, tmp_path: Path
) -> None:
    path, _ = recorded
    empty = tmp_path / "empty"
    empty.touch()
    for wrong in (demo, empty, tmp_path, tmp_path / "missing", root / "README.md"):
        with pytest.raises(SourceError, match=r"recording|cannot be read") as caught:
            EmotionStream(replay=wrong).__enter__()
        assert "\n" not in str(caught.value)
    before = path.read_bytes()
    for options in ({"record": path}, {"record": tmp_path / "no" / "folder"}):
        with pytest.raises(UsageError, match=r"exists|cannot record"):
            EmotionStream(file=demo, **options).__enter__()  # type: ignore[arg-type]
    assert path.read_bytes() == before
    with pytest.raises(UsageError, match="leave both out"):
        EmotionStream(replay=path, baseline=True)


def test_what_the_recogniser_made_of_the_voice_is_kept(
    recorded: tuple[Path, list[EmotionEvent]], tmp_path: Path
) -> None:
    path, _ = recorded
    with Recording(path) as recording:
        found = [evidence for evidence, _ in recording.entries()]
    assert all(e.audio_embedding.any() for e in found if e.type == "final")


def test_an_older_format_is_refused(
    recorded: tuple[Path, list[EmotionEvent]], tmp_path: Path
) -> None:
    path, _ = recorded
    older = tmp_path / "older.jsonl"
    header = json.loads(path.read_bytes().splitlines()[0])
    del header["crc32"]
    older.write_bytes(summed({**header, "recording": FORMAT - 1}))
    with pytest.raises(DmdLiveError, match=f"format {FORMAT - 1}, this runtime reads {FORMAT}"):
        EmotionStream(replay=older).__enter__()


def test_another_feature_contract_is_refused(
    recorded: tuple[Path, list[EmotionEvent]], tmp_path: Path
) -> None:
    from runtime.outputs.recording import Recorder

    other = tmp_path / "other.jsonl"
    Recorder(other, {"feature_spec_sha256": "0" * 64}).close()
    with pytest.raises(DmdLiveError, match="made for feature spec 000000000000"):
        EmotionStream(replay=other).__enter__()


def test_a_full_disk_ends_the_recording_not_the_stream(
    recorded: tuple[Path, list[EmotionEvent]],
    clip: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The system refuses to let any file grow beyond 40 kB, in the middle of a line."""
    _, events = recorded
    path = tmp_path / "full.jsonl"
    stream = EmotionStream(file=clip, provisional=True, record=path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    try:
        got = every_event(stream)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert exact(got) == exact(events)
    told = [record for record in caplog.records if "recording stopped" in record.message]
    assert len(told) == 1
    assert told[0].levelno == logging.WARNING
    n_stored = stream.stats["recording"]["events"]
    assert 0 < n_stored < len(events)
    assert stream.stats["recording"]["error"]
    caplog.clear()
    assert exact(every_event(EmotionStream(replay=path))) == exact(events[:n_stored])
    assert not caplog.records  # no half of a line is left


def test_command_line(root: Path, demo: Path, tmp_path: Path) -> None:
    def dmd_live(*args: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "runtime.cli", *args]
        return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)

    path = str(tmp_path / "talk.jsonl")
    first = dmd_live("--demo", "--json", "--record", path)
    again = dmd_live("--replay", path, "--json")
    assert first.returncode == again.returncode == 0
    assert first.stdout == again.stdout
    assert len(first.stdout.splitlines()) == 2
    assert again.stderr == ("dmd-live: 2 events judged again, 0 differ from the recording\n")
    for args in (("--demo", "--record", path), ("--replay", "README.md"), ("--demo", "--overlay"),
                 ("--replay", path, "--overlay"),
                 ("--demo", "--replay", path), ("--demo", "--save-media", "tests")):  # fmt: skip
        out = dmd_live(*args)
        if "--overlay" in args and out.returncode == 0:
            continue  # a machine with windows
        assert (out.returncode, out.stdout) == (2, ""), args
        assert out.stderr.startswith("dmd-live: ")
        assert out.stderr.count("\n") == 1
