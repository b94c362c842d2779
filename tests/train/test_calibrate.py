"""Calibration among strangers, and the sentiments that a teacher keeps, on small data."""

import json
import shutil
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from export import graph
from runtime.errors import UsageError
from runtime.features.embedding import EMBEDDING_DIM
from runtime.features.spec import MODALITIES
from runtime.judging.calibration import SUBSETS, UNHEARD, UNHEARD_SUBSETS
from runtime.store.bundle import Bundle
from tests.train import tiny
from train import calibrate, checkpoint, teacher
from train.calibrate import Options
from train.config import Config
from train.data.compose import Composer
from train.data.corpora import EMOTIONS
from train.data.open import compose
from train.data.utterance import Utterance, collate
from train.judging import Judge, validate
from train.judging import calibrate as calibrated
from train.loop import Predictions
from train.losses import teacher_loss
from train.models.dmd import DMD
from train.teacher import Taught


@pytest.fixture(scope="module")
def fold(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model, said to have been trained on other corpora."""
    out = tmp_path_factory.mktemp("fold")
    for file in trained.iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    info = json.loads((out / "checkpoint.json").read_text())
    info["config"]["data"]["corpora"] = "meld emodb"
    (out / "checkpoint.json").write_text(json.dumps(info))
    return out


def test_strangers_say_how_sure_it_may_be(
    fold: Path, data: Path, trained: Path, traced: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "calibration.json"
    options = Options(
        checkpoint=str(fold), corpora="goemotions ravdess", faces="ckplus48", data=str(data),
        out=str(out), n=14, cache=str(data / "cache"),
    )  # fmt: skip
    n_composed = []

    def compose_here(folder: Path, config: Config, *where: Path) -> Composer:
        """These data have no other voices than the strangers'."""
        n_composed.append(config.data.n_valid)
        own = checkpoint.load(trained).config.data.corpora
        return compose(folder, replace(config, data=replace(config.data, corpora=own)), *where)

    monkeypatch.setattr(calibrate, "compose", compose_here)
    calibrate.run(options)
    assert n_composed == [14]
    found = json.loads(out.read_text())
    subsets = [*SUBSETS, *UNHEARD_SUBSETS]
    assert list(found["temperature"]) == list(found["uncertain_below"]) == subsets
    assert found["fitted_on"] == ["goemotions", "ravdess"]
    assert capsys.readouterr().out.count("temperature") == len(subsets)
    source = checkpoint.load(trained)
    fitted = calibrate.read(out, source.info["emotions"])
    fp32 = traced / "model.fp32.onnx"  # the same model: it need not be traced again
    monkeypatch.setattr(graph, "export_graph", lambda _, path: shutil.copyfile(fp32, path))
    graph.write_bundle(source, tmp_path / "bundle", fitted)
    assert Bundle.load(tmp_path / "bundle", "fp32").calibration.to_dict() == fitted.to_dict()
    with pytest.raises(UsageError, match="was trained with emodb"):
        calibrate.run(replace(options, corpora="goemotions emodb"))


def test_a_subset_is_calibrated_on_what_has_all_of_it(tokenizer_json: Path) -> None:
    """Every ninth of these lacks its voice: it is no example of all three."""
    drawn = tiny.utterances(56, tokenizer_json)
    n_fitted: dict[str, int] = {}

    def fit(name: str, found: Predictions, _: object) -> tuple[float, float]:
        n_fitted[name] = len(found["emotion_label"])
        return 1.0, 0.5

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train.judging.fit_subset", fit)
        calibrated(Judge(tiny.model(drawn).dmd, "fp32"), drawn, EMOTIONS)
    whole = sum(len(u.audio) > 0 for u in drawn)
    assert whole < len(drawn)
    assert n_fitted["text+audio+vision"] == n_fitted["audio"] == whole
    assert n_fitted["text+vision"] == len(drawn)


@pytest.mark.parametrize("width", [0, 8])
def test_voices_without_an_embedding_are_calibrated_apart(width: int, tokenizer_json: Path) -> None:
    rng, drawn = np.random.default_rng(0), []
    for u in tiny.utterances(56, tokenizer_json):
        heard = rng.normal(u.emotion, 0.1, EMBEDDING_DIM).astype(np.float32)
        drawn.append(replace(u, audio_embedding=heard))
    settings = replace(tiny.CONFIG.model, embedding_audio=width)
    torch.manual_seed(0)
    dmd = DMD(settings, tiny.model(drawn).dmd.language, len(EMOTIONS))
    dmd.fit_normalisation(collate(drawn))
    seen: list[tuple[tuple[str, ...], bool]] = []

    class Watched(Judge):
        def predict(
            self, utterances: Iterable[Utterance], subset: tuple[str, ...] = MODALITIES
        ) -> Predictions:
            shown = list(utterances)
            seen.append((subset, any(u.audio_embedding.any() for u in shown)))
            return super().predict(shown, subset)

    found = calibrated(Watched(dmd, "fp32"), drawn, EMOTIONS)
    rows_alone = UNHEARD_SUBSETS if width else ()
    assert [*found.temperature] == [*found.uncertain_below] == [*SUBSETS, *rows_alone]
    assert seen.pop(0) == (("text",), True)  # the words' own reading
    assert [heard for _, heard in seen] == [True] * len(SUBSETS) + [False] * len(rows_alone)
    for subset in ("text+audio", "audio+vision"):
        for way in ("", UNHEARD)[: 1 + bool(width)]:
            alone = (m + way * (m == "audio") for m in subset.split("+"))
            least = min(found.uncertain_below[m] for m in alone)
            assert found.uncertain_below[subset + way] >= least


def test_a_calibration_that_is_none_is_one_line(tmp_path: Path) -> None:
    for content in ("", "[]", "words"):
        (tmp_path / "c.json").write_text(content)
        with pytest.raises(UsageError, match=r"c\.json: not a calibration"):
            calibrate.read(tmp_path / "c.json", ("neutral",))
    with pytest.raises(UsageError, match="No such file"):
        calibrate.read(tmp_path / "none.json", ("neutral",))


def test_a_teacher_s_ratings_are_kept_by_sentence(
    trained: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "taught.safetensors"
    argv = ["teacher", "--checkpoint", str(trained), "--data", str(data), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", [*argv, "--corpora", "goemotions", "--threads", "1"])
    assert teacher.main() == 0
    assert "28 sentences" in capsys.readouterr().out
    taught = Taught(out)
    reader = teacher.Teacher(trained, torch.device("cpu"))
    known = reader.read(["train sentence 1 of fear"])[0]
    asked = [replace(known, id=known.words), replace(known, id="something else")]
    heard = replace(asked[0], audio=np.zeros((5, asked[0].audio.shape[1]), np.float32))
    said = taught([*asked, heard])
    torch.testing.assert_close(said[:1], reader.rate([known]))
    assert said[1:].isnan().all()  # never read; and no words alone
    monkeypatch.setattr(sys, "argv", [*argv, "--corpora", "mosi"])
    assert teacher.main() == 2
    assert "mosi" in capsys.readouterr().err
    out.write_bytes(b"no tensors")
    with pytest.raises(UsageError, match=r"not what train\.teacher wrote"):
        Taught(out)


def test_a_teacher_says_how_far_it_agrees_with_people(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    words = ("good", "bad", "quiet", "loud")
    rows = [f"{k},{split},{k + 1},{4 - k},3,{word} day" for split in ("train", "dev")
            for k, word in enumerate(words)]  # fmt: skip
    (tmp_path / "emobank").mkdir()
    table = tmp_path / "emobank" / "emobank.csv"
    table.write_text("id,split,V,A,D,text\n" + "\n".join(rows) + "\n")
    argv = ["teacher", "--checkpoint", str(trained), "--data", str(tmp_path), "--threads", "1"]
    out = tmp_path / "taught.safetensors"
    monkeypatch.setattr(sys, "argv", [*argv, "--corpora", "emobank", "--out", str(out)])
    assert teacher.main() == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{out}: 4 sentences"
    assert said[1].startswith("emobank, 4 validation sentences: mae ")
    reader = teacher.Teacher(trained, torch.device("cpu"))
    told = reader.rate(reader.read([f"{word} day" for word in words]))[:, 1]
    against = np.corrcoef(told, [1.0, 0.0, -1.0, -1.0])[0, 1]
    assert said[1].endswith(f", corr of arousal {against:.3f}")


def test_a_model_of_words_alone_is_chosen_by_its_ratings(trained: Path) -> None:
    reader = teacher.Teacher(trained, torch.device("cpu"))
    read = reader.read(["a good day", "a bad day", "a day"])
    rated = [replace(reader.retold(u), sentiment=k - 1.0) for k, u in enumerate(read)]
    score, scores = validate(Judge(reader.model, "fp32"), rated)
    said = reader.rate(read)[:, 0].numpy()
    assert scores == {"mae text+audio+vision": pytest.approx(np.abs(said - [-1, 0, 1]).mean())}
    assert score == -scores["mae text+audio+vision"]


def test_what_was_not_read_teaches_nothing() -> None:
    outputs, arousal = torch.zeros(3, 8), torch.zeros(3)
    unknown = float("nan")
    taught = torch.tensor([[1.0, 0.25], [unknown, unknown], [-2.0, -0.25]])
    found = teacher_loss(outputs, arousal, taught, 2.0)
    torch.testing.assert_close(found, torch.tensor(1.75))
    assert teacher_loss(outputs, arousal, taught[1:2].expand(3, 2), 2.0) == 0.0
