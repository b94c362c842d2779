"""`export.evaluate` on people of one's own: small folders made here, the built-in bundle."""

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from export import evaluate, tables
from export.evaluate import Options
from export.scores import sentiment_scores
from runtime.errors import BundleError, UsageError
from runtime.store.bundle import Bundle
from tests.sound import write_wav

KEYS = {"n", "accuracy", "uar", "macro_f1", "ece", "uncertain", "sure_and_wrong", "false_alarms",
        "recall", "confusion", "unreadable"}  # fmt: skip


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory, root: Path, demo: Path) -> Path:
    """One or two items of everything, and a file that is none."""
    folder = tmp_path_factory.mktemp("people")
    (folder / "texts.csv").write_text(
        "text,emotion,sentiment\nI am so happy to see you,joy,2.5\n"
        "the train leaves at ten,neutral,\nthis is terrible,,-2\n"
    )
    for emotion, name in (("angry", "15a01Wa"), ("neutral", "15a01Nb")):
        (folder / "voices" / emotion).mkdir(parents=True)
        source = root / "tests" / "golden" / "emodb" / f"{name}.flac"
        (folder / "voices" / emotion / source.name).write_bytes(source.read_bytes())
    (folder / "voices" / "angry" / "broken.wav").write_bytes(b"RIFF")
    hiss = np.random.default_rng(0).uniform(-0.0015, 0.0015, 16_000)
    write_wav(folder / "voices" / "neutral" / "hiss.wav", hiss)
    (folder / "faces" / "happiness").mkdir(parents=True)
    with av.open(str(demo)) as container:
        frame = next(container.decode(video=0)).to_ndarray(format="bgr24")
    cv2.imwrite(str(folder / "faces" / "happiness" / "a.png"), frame)
    cv2.imwrite(str(folder / "faces" / "happiness" / "nobody.png"), np.zeros((300, 300), np.uint8))
    (folder / "faces" / "happiness" / "notes.txt").write_text("no picture")
    (folder / "clips" / "happiness").mkdir(parents=True)
    (folder / "clips" / "happiness" / "demo.mp4").write_bytes(demo.read_bytes())
    return folder


def test_everything_is_measured_and_named(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "found.json"
    monkeypatch.setattr(sys, "argv", ["evaluate", "--data", str(people), "--json", str(out)])
    assert evaluate.main() == 0
    printed = capsys.readouterr()
    found = json.loads(out.read_text())
    assert list(found) == ["texts", "voices", "faces", "clips"]
    for part in found.values():
        assert part.keys() >= {*KEYS, "model_sha256"}
    texts, voices, faces, clips = found.values()
    assert (texts["n"], texts["sentiment"]["n"]) == (2, 2)
    assert set(texts["recall"]) == {"happiness", "neutral"}
    assert texts["sentiment"].keys() == {
        "n", "mae", "corr", "acc2_nonzero", "acc2_haszero", "acc5", "acc7"
    }  # fmt: skip
    assert texts["sentiment"]["acc2_nonzero"] == 1.0
    assert (voices["n"], voices["unreadable"], voices["not_heard_as_speech"]) == (3, 1, 1)
    assert (faces["n"], faces["unreadable"], faces["without_face"]) == (2, 1, 1)
    assert faces["uncertain"] >= 0.5  # nobody is in one of them
    assert clips["n"] == 1
    assert len(clips["subsets"]) == 7
    assert all(part["n"] == 1 for part in clips["subsets"].values())
    assert sum(voices["confusion"]["neutral"].values()) == 2
    assert "broken.wav" in printed.err
    assert "notes.txt" in printed.err
    assert "false_alarms" in printed.out


def test_what_cannot_be_read_at_all_has_every_key(tmp_path: Path) -> None:
    (tmp_path / "faces" / "happiness").mkdir(parents=True)
    (tmp_path / "faces" / "happiness" / "a.png").write_bytes(b"no picture")
    options = Options(data=str(tmp_path), prior="balanced", words_share=0.25)
    faces = evaluate.run(options)["faces"]
    assert faces.keys() >= {*KEYS, "model_sha256"}
    assert (faces["n"], faces["unreadable"], faces["uar"]) == (0, 1, None)
    assert (faces["prior"], faces["words_share"]) == ("balanced", 0.25)
    with pytest.raises(BundleError, match=r"words_share is 1.0, not in \[0, 1\)"):
        evaluate.run(replace(options, words_share=1.0))


def test_a_bundle_s_certificate_is_filled_and_sealed_again(tmp_path: Path, root: Path) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(root / "runtime" / "default_bundle", copy)
    page = copy / "CERTIFICATE.md"
    page.write_text("<!-- table studio -->\nNot measured yet.\n<!-- /table -->\n")
    (tmp_path / "found").mkdir()
    tables.fill(page, tables.tables(copy, tmp_path / "found"))
    assert "GoEmotions" in page.read_text()
    sealed = Bundle.load(copy).info["files"]["CERTIFICATE.md"]
    assert sealed == hashlib.sha256(page.read_bytes()).hexdigest()


def test_figures_of_another_model_are_not_written(tmp_path: Path, root: Path) -> None:
    bundle = root / "runtime" / "default_bundle"
    model = hashlib.sha256((bundle / "model.int8.onnx").read_bytes()).hexdigest()
    file, page = tmp_path / "robot.json", tmp_path / "page.md"
    page.write_text("<!-- table thresholds -->\n<!-- /table -->\n")
    for sha256 in ("0" * 64, model):
        file.write_text(json.dumps({"texts": {"n": 1, "model_sha256": sha256}}))
        if sha256 != model:
            with pytest.raises(UsageError, match="is of another model"):
                tables.tables(bundle, tmp_path)
    tables.fill(page, tables.tables(bundle, tmp_path))
    assert "| text+audio+vision |" in page.read_text()


def test_a_session_of_all_voices_hears_them_against_one_another(
    people: Path, tmp_path: Path
) -> None:
    (tmp_path / "voices").symlink_to(people / "voices")
    alone = evaluate.run(Options(data=str(tmp_path)))["voices"]
    together = evaluate.run(Options(data=str(tmp_path), session="folder"))["voices"]
    assert alone["n"] == together["n"]
    assert alone["ece"] != together["ece"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "nothing to measure"),
        (lambda folder: (folder / "voices" / "bored").mkdir(parents=True), ""),
        (lambda folder: (folder / "texts.csv").write_text("words\nhello\n"), "needs columns text"),
        (lambda folder: (folder / "texts.csv").write_text("text,emotion\nhi,bored\n"), "'bored'"),
        (
            lambda folder: (folder / "texts.csv").write_text("text,sentiment\nhi,x\n"),
            "no number",
        ),
        (lambda folder: (folder / "texts.csv").write_bytes(b"\xff\xfe\x00"), "UTF-8"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, make: object, message: str) -> None:
    make(tmp_path)  # type: ignore[operator]
    if (tmp_path / "voices").exists():
        (tmp_path / "voices" / "bored" / "a.wav").write_bytes(b"")
        message = "'bored' is not an emotion"
    with pytest.raises(UsageError, match=message) as raised:
        evaluate.run(Options(data=str(tmp_path)))
    assert "\n" not in str(raised.value)


def test_sentiment_is_counted_as_mmsa_does() -> None:
    told = np.array([-3.0, -0.4, 0.0, 0.6, 2.6])
    said = np.array([-2.6, 0.2, -0.6, 1.4, 3.4])
    found = sentiment_scores(said, told)
    assert found["mae"] == pytest.approx(np.abs(said - told).mean())
    assert found["acc2_nonzero"] == 0.75
    assert found["acc2_haszero"] == 0.6
    assert found["acc7"] == found["acc5"] == 0.8  # 0.6 is 1, and so is 1.4


def test_neither_torch_nor_the_trainer_is_needed(root: Path) -> None:
    code = (
        "import sys, export.evaluate;"
        "assert not {'torch', 'train'} & {m.split('.')[0] for m in sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
