"""Published layouts become manifests."""

import csv
import math
from pathlib import Path

import pytest

from train.data import layouts, manifest
from train.data.corpora import EMOTIONS, DataError


def touch(data: Path, *names: str) -> None:
    for name in names:
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_bytes(b"media")


def mmsa(data: Path, label: str) -> None:
    touch(data, "Raw/03bSnISJMiM/1.mp4")
    (data / "label.csv").write_text(
        "video_id,clip_id,text,label,label_T,label_A,label_V,annotation,mode\n"
        f'03bSnISJMiM,1,"ANYHOW, IT WAS GOOD",{label},,,,Positive,train\n'
        "03bSnISJMiM,2,NOT SO,-0.6,,,,Negative,test\n"
    )


def meld(data: Path) -> None:
    header = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID\n"
    touch(data, "train/train_splits/dia0_utt0.mp4", "dev/dev_splits_complete/dia0_utt0.mp4")
    touch(data, "test/output_repeated_splits_test/final_videos_testdia0_utt0.mp4")
    for path in ("train/train_sent_emo.csv", "dev_sent_emo.csv", "test_sent_emo.csv"):
        (data / path).write_text(f'{header}1,"Oh, no!",Ross,joy,positive,0,0\n')


def adapt(layout: str, data: Path) -> Path:
    """The manifest that the command writes beside the data."""
    out = data.parent / "clips.csv"
    assert layouts.main(["--layout", layout, "--data", str(data), "--out", str(out)]) == 0
    return out


def test_mmsa(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mmsa(tmp_path / "MOSI", "2.4")
    out = adapt("mmsa", tmp_path / "MOSI")
    assert "2 clips (1 train, 0 valid, 1 test), 1 of them without a file" in capsys.readouterr().out
    found = manifest.read(out)
    (first,) = found.clips
    assert first.path == tmp_path / "MOSI/Raw/03bSnISJMiM/1.mp4"
    assert (first.sentiment, first.speaker, first.split) == (2.4, "03bSnISJMiM", "train")
    assert first.text == "ANYHOW, IT WAS GOOD"
    assert "2.mp4" in found.missing[0]
    with out.open(newline="") as file:
        assert next(csv.reader(file)) == list(manifest.COLUMNS)


def test_sims_is_refused(tmp_path: Path) -> None:
    mmsa(tmp_path, "0.8")
    with pytest.raises(DataError, match="scale of SIMS"):
        layouts.mmsa(tmp_path)
    mmsa(tmp_path, "good")
    with pytest.raises(DataError, match="not a number"):
        layouts.mmsa(tmp_path)


def test_meld(tmp_path: Path) -> None:
    meld(tmp_path / "MELD.Raw")
    clips = manifest.read(adapt("meld", tmp_path / "MELD.Raw")).clips
    assert [clip.split for clip in clips] == ["train", "valid", "test"]
    assert {EMOTIONS[clip.emotion] for clip in clips} == {"happiness"}
    assert {(clip.text, clip.speaker) for clip in clips} == {("Oh, no!", "Ross")}
    assert all(math.isnan(clip.sentiment) for clip in clips)


def test_iemocap(tmp_path: Path) -> None:
    data = tmp_path / "IEMOCAP_full_release"
    for session in range(1, 6):
        dialogue, folder = f"Ses0{session}F_impro01", data / f"Session{session}"
        touch(folder, f"sentences/wav/{dialogue}/{dialogue}_F000.wav")
        for kind in ("EmoEvaluation", "transcriptions"):
            (folder / "dialog" / kind).mkdir(parents=True)
        (folder / f"dialog/EmoEvaluation/{dialogue}.txt").write_text(
            "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
            f"[6.2901 - 8.2357]\t{dialogue}_F000\texc\t[2.5000, 2.5000, 2.5000]\n"
            "C-E2:\tExcited;\t()\n"
            f"[10.0100 - 11.3925]\t{dialogue}_M000\tfru\t[2.5000, 2.5000, 2.5000]\n"
            f"[14.8872 - 18.0175]\t{dialogue}_M001\txxx\t[2.5000, 2.5000, 2.5000]\n"
        )
        (folder / f"dialog/transcriptions/{dialogue}.txt").write_text(
            f"{dialogue}_F000 [006.2901-008.2357]: Excuse me.\n"
            f"{dialogue}_M000 [010.0100-011.3925]: Yeah.\n"
        )
    clips = manifest.read(adapt("iemocap", data)).clips
    assert [clip.split for clip in clips] == ["train"] * 3 + ["valid", "test"]
    assert {(EMOTIONS[clip.emotion], clip.text) for clip in clips} == {("happiness", "Excuse me.")}
    assert [clip.speaker for clip in clips] == [f"{k}F" for k in range(1, 6)]
    (data / "Session1/dialog/transcriptions/Ses01F_impro01.txt").unlink()
    with pytest.raises(DataError, match=r"Ses01F_impro01\.txt: No such file"):
        layouts.iemocap(data)


def test_crema_d(tmp_path: Path) -> None:
    data = tmp_path / "CREMA-D"
    touch(data, *(f"VideoFlash/{actor}_IEO_ANG_HI.flv" for actor in range(1001, 1092)))
    touch(data, "AudioWAV/1001_IEO_ANG_HI.wav")
    clips = manifest.read(adapt("crema-d", data)).clips
    splits = [clip.split for clip in clips]
    assert [splits.count(s) for s in ("train", "valid", "test")] == [64, 9, 18]
    assert {EMOTIONS[clip.emotion] for clip in clips} == {"anger"}
    assert clips[0].text == "It's eleven o'clock"
    touch(data, "VideoFlash/1001_XXX_ANG_HI.flv")
    with pytest.raises(DataError, match="not a CREMA-D name"):
        layouts.crema_d(data)


def test_ravdess(tmp_path: Path) -> None:
    data = tmp_path / "RAVDESS"
    for actor in range(1, 25):
        touch(data, f"Actor_{actor:02d}/03-01-05-01-01-01-{actor:02d}.wav")
    touch(
        data,
        "Actor_01/01-01-05-01-01-01-01.mp4",  # the same take, with its face
        "Actor_01/02-01-05-01-01-01-01.mp4",  # without sound
        "Actor_01/03-02-05-01-01-01-01.wav",  # sung
        "Actor_01/03-01-02-01-01-01-01.wav",  # calm
    )
    clips = manifest.read(adapt("ravdess", data)).clips
    splits = [clip.split for clip in clips]
    assert [splits.count(s) for s in ("train", "valid", "test")] == [17, 3, 4]
    assert clips[0].path == data / "Actor_01/01-01-05-01-01-01-01.mp4"
    assert {clip.text for clip in clips} == {"Kids are talking by the door"}


@pytest.mark.parametrize("layout", sorted(layouts.LAYOUTS))
def test_an_empty_folder_is_one_line(
    layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "clips.csv"
    assert layouts.main(["--layout", layout, "--data", str(tmp_path), "--out", str(out)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not out.exists()
