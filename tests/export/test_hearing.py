"""Noise and sentences as the device hears them."""

import json
from pathlib import Path

import numpy as np
import pytest

from export import hearing
from tests.sound import write_wav


def test_noise_opens_nothing_and_sentences_are_heard(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = tmp_path / "found.json"
    options = ["--minutes", "0.2", "--sentences", "3", "--levels", "20", "--json", str(found)]
    assert hearing.main(options) == 0
    rows = {row["noise"]: row for row in json.loads(found.read_text())}
    assert set(rows) == set(hearing.NOISES)
    for name in ("music", "vacuum cleaner", "keyboard"):
        assert rows[name]["false_per_hour"] == 0.0
        assert rows[name]["missed"] == 0.0
    assert rows["babble"]["false_per_hour"] > 0.0  # it is speech
    table = capsys.readouterr().out.splitlines()
    assert table[0] == "| Noise | 20 dB |"
    assert "| keyboard | 0 / 0% |" in table


def test_a_detector_that_hears_more_hears_more_noise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The made babble stands for a recorded sound that is taken for speech."""
    sentences = hearing._sounds(None, 8.0)
    noise = hearing.NOISES["babble"](np.random.default_rng(0), 16_000 * 4, sentences)
    for name, sound in (("noise", noise), ("voice", sentences[0])):
        (tmp_path / name).mkdir()
        write_wav(tmp_path / name / "a.wav", sound)
    found = tmp_path / "found.json"
    folders = ["--voices", str(tmp_path / "voice"), "--noises", str(tmp_path / "noise")]
    assert hearing.main([*folders, "--json", str(found)]) == 0
    rows = json.loads(found.read_text())
    assert [row["missed"] for row in rows] == [0] * len(rows)
    assert all(row["false_per_hour"] > 0.0 for row in rows)
    table = capsys.readouterr().out.splitlines()
    assert len(table) == len(rows) + 2
    assert table[2].startswith("| 0.5 | 0.35 | 0.2 s | 0 of 1 | ")


def test_noises_come_from_their_seed() -> None:
    voices = [np.sin(np.arange(16_000) / 9.0)]
    for make in hearing.NOISES.values():
        first, again = (make(np.random.default_rng(3), 32_000, voices) for _ in range(2))
        np.testing.assert_array_equal(first, again)
        assert first.shape == (32_000,)
        assert first.std() > 0.0


def test_a_folder_without_sound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert hearing.main(["--voices", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"export.hearing: {tmp_path}: no sound files there (wav, flac, ogg)\n"
    )
