"""Distillation of the language branch, pruned vocabularies, and words as recognisers hear them."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from runtime.errors import UsageError
from runtime.features.text import TextFeatures, normalise
from train import checkpoint, distill, run
from train.config import Config, DistillConfig, ModelConfig
from train.data.compose.spoken import Spoken, soundex
from train.data.corpora import EMOTIONS
from train.models.dmd import DMD
from train.models.language import (
    FrozenLanguage,
    LanguageEncoder,
    load_frozen,
    load_pretrained,
)
from train.models.vocabulary import prune
from train.reader import Reader
from train.teacher import Teacher

SENTENCES = [
    "I love the way you smile", "this is terrible news", "we are afraid of the dark",
    "what a surprise to see you here", "nobody told me about the meeting", "disgusting behaviour",
]  # fmt: skip


def encoder(kind: str = "bert", width: int = 24, n_layers: int = 2) -> LanguageEncoder:
    torch.manual_seed(1)
    return LanguageEncoder.from_config(
        {
            "model_type": kind,
            "vocab_size": 30_527,
            "hidden_size": width,
            "num_hidden_layers": n_layers,
            "num_attention_heads": 2,
            "intermediate_size": 32,
        }
    )


@pytest.mark.parametrize("kind", ["bert", "mpnet"])
def test_what_is_read_is_by_word(tokenizer_json: Path, kind: str) -> None:
    reader = Reader(encoder(kind).eval(), tokenizer_json)
    with torch.no_grad():
        sight = reader(["unbelievably disgusting", "no"])
        alone = reader(["no"])
    assert sight.mask.tolist() == [[True, True], [True, False]]
    assert sight.hidden.shape == (2, 2, 24)
    assert [tuple(r.shape) for r in sight.relations] == [(2, 2, 24)] * 3
    torch.testing.assert_close(sight.hidden[1, :1], alone.hidden[0], atol=1e-5, rtol=1e-4)


def test_relations_of_equals_are_0_and_teach_the_student_only() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 5, 24, requires_grad=True), torch.randn(2, 5, 48)
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    assert distill.relation_loss(teacher, teacher, mask, 4) == pytest.approx(0.0, abs=1e-6)
    loss = distill.relation_loss(student, teacher, mask, 4)
    assert loss > 0
    loss.backward()
    assert student.grad is not None
    assert not student.grad[1, 2:].any()  # what is masked teaches nothing


def small(**more: object) -> Config:
    given = {"student_layers": 0, "relation_heads": 4, "epochs": 3, "batch_size": 3, **more}
    return Config(distill=DistillConfig(**given))


def teacher_dmd() -> DMD:
    torch.manual_seed(2)
    size = ModelConfig(dim=16, n_heads=2, n_layers=1)
    return DMD(size, encoder("mpnet", 32), n_emotions=7).eval()


@pytest.fixture
def student_folder(tmp_path: Path, tokenizer_json: Path) -> Path:
    folder = tmp_path / "small"
    encoder("bert", 16, 1).encoder.save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(tokenizer_json.read_bytes())
    return folder


def lesson(
    student_folder: Path, tokenizer_json: Path, out: Path, settings: Config
) -> list[dict[str, float]]:
    teacher = Reader(teacher_dmd(), tokenizer_json)
    before = {n: t.clone() for n, t in teacher.language.state_dict().items()}
    student = distill.new_student(str(student_folder), SENTENCES, settings.distill)
    history = distill.distil(teacher, student, SENTENCES, settings, out)
    for name, tensor in teacher.language.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    return history


def test_losses_fall_and_the_folder_is_an_encoder(
    student_folder: Path, tokenizer_json: Path, tmp_path: Path
) -> None:
    settings = small(epochs=8, learning_rate=3e-3)
    history = lesson(student_folder, tokenizer_json, tmp_path / "out", settings)
    for name in ("relations", "hidden", "embeddings", "soft"):
        assert history[-1][name] < history[0][name], name
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == [
        "config.json", "distillation.json", "model.safetensors", "tokenizer.json"
    ]  # fmt: skip
    loaded = load_pretrained(str(tmp_path / "out"), 0, freeze_words=False)
    assert loaded.dim == 16


def test_interrupted_and_resumed_is_the_same_lesson(
    student_folder: Path, tokenizer_json: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lesson(student_folder, tokenizer_json, tmp_path / "whole", small())
    whole = distill._epoch

    def interrupted(*args: object) -> dict[str, float]:
        if args[5] == 1:
            raise KeyboardInterrupt
        return whole(*args)

    monkeypatch.setattr(distill, "_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lesson(student_folder, tokenizer_json, tmp_path / "parts", small())
    monkeypatch.setattr(distill, "_epoch", whole)
    lesson(student_folder, tokenizer_json, tmp_path / "parts", small())
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_dmd_says_of_sentences_what_it_says_of_text_alone(
    tokenizer_json: Path, tmp_path: Path
) -> None:
    dmd = teacher_dmd()
    checkpoint.save(tmp_path, dmd, Config(model=dmd.config), tokenizer_json,
                    {"emotions": list(EMOTIONS)})  # fmt: skip
    teacher = Teacher(tmp_path, torch.device("cpu"))
    with torch.no_grad():
        soft = Reader(dmd, tokenizer_json)(SENTENCES).soft
    utterances = teacher.read(SENTENCES)
    torch.testing.assert_close(soft, teacher(utterances)[:, 1:], atol=1e-5, rtol=1e-4)
    fresh = teacher(utterances)
    teacher.remember(utterances, tmp_path / "taught.safetensors")
    torch.testing.assert_close(teacher(utterances[::-1]), fresh.flip(0), atol=1e-5, rtol=1e-4)
    again = Teacher(tmp_path, torch.device("cpu"))
    (tmp_path / "model.safetensors").unlink()
    again.remember(utterances, tmp_path / "taught.safetensors")
    assert torch.equal(again(utterances), teacher(utterances))


def test_another_configuration_does_not_take_what_is_there(
    student_folder: Path, tokenizer_json: Path, tmp_path: Path
) -> None:
    lesson(student_folder, tokenizer_json, tmp_path / "out", small(epochs=1))
    assert lesson(student_folder, tokenizer_json, tmp_path / "out", small(epochs=1)) == []
    with pytest.raises(UsageError, match="another configuration"):
        lesson(student_folder, tokenizer_json, tmp_path / "out", small(epochs=2))


@pytest.mark.parametrize("kind", ["bert", "mpnet"])
def test_only_the_upper_layers_learn(tmp_path: Path, tokenizer_json: Path, kind: str) -> None:
    encoder(kind, 16, 3).encoder.save_pretrained(tmp_path)
    language = load_pretrained(str(tmp_path), 0, freeze_words=False, n_trained=1)
    ids = torch.randint(5, 100, (2, 6))
    language(ids, torch.ones_like(ids, dtype=torch.bool)).sum().backward()
    learning = {name for name, p in language.named_parameters() if p.grad is not None}
    assert learning
    assert all("encoder.layer.2." in name for name in learning)
    assert sum(p.requires_grad for p in language.parameters()) == len(learning)


def test_a_frozen_encoder_reads_a_sentence_once_and_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder("bert", 16, 2).encoder.save_pretrained(tmp_path)
    frozen = load_frozen(str(tmp_path), 1)
    assert frozen is load_frozen(str(tmp_path), 1)
    plain = load_pretrained(str(tmp_path), 1, freeze_words=False).eval()
    ids = torch.randint(5, 100, (3, 6))
    mask = torch.tensor([[True] * 6, [True] * 3 + [False] * 3, [True, False, True] * 2])
    frozen.train()
    expected = plain(ids, mask)
    torch.testing.assert_close(frozen(ids, mask)[:2][mask[:2]], expected[:2][mask[:2]])
    monkeypatch.setattr(LanguageEncoder, "forward", None)  # it is not asked again
    again = frozen(ids.flip(0), mask.flip(0)).flip(0)
    torch.testing.assert_close(again[1, :3], expected[1, :3])
    assert not again[1, 3:].any()
    assert not any(p.requires_grad for p in frozen.parameters())
    assert isinstance(frozen, FrozenLanguage)


def test_a_pruned_vocabulary_reads_every_word(tokenizer_json: Path, tmp_path: Path) -> None:
    content, kept = prune(tokenizer_json, SENTENCES, 2_500)
    (tmp_path / "tokenizer.json").write_text(content)
    whole, pruned = TextFeatures(tokenizer_json), TextFeatures(tmp_path / "tokenizer.json")
    assert len(json.loads(content)["model"]["vocab"]) == len(kept) <= 2_500
    for text in SENTENCES:  # frequent words keep their pieces
        np.testing.assert_array_equal(kept[pruned.ids(text)], whole.ids(text))
    unknown = json.loads(content)["model"]["vocab"]["[UNK]"]
    rare = pruned.ids("quixotic zebras juxtapose xylophones")
    assert unknown not in rare
    assert len(rare) > len(whole.ids("quixotic zebras juxtapose xylophones"))


def test_a_narrower_student_with_fewer_pieces(
    student_folder: Path, tokenizer_json: Path, tmp_path: Path
) -> None:
    config = small(student_width=8, vocabulary=2_500, epochs=1)
    lesson(student_folder, tokenizer_json, tmp_path / "out", config)
    loaded = load_pretrained(str(tmp_path / "out"), 0, freeze_words=False)
    assert loaded.dim == 8
    assert loaded.encoder.get_input_embeddings().weight.shape[0] <= 2_500


def test_words_get_lost_and_confused_at_the_rates_given() -> None:
    rng = np.random.default_rng(0)
    text = " ".join(f"{a}{b}{c}" for a in "bcdfg" for b in "aeiou" for c in "mnlr")
    still = Spoken([text], 0.0, 0.0)
    assert still("Don't STOP!", rng) == normalise("Don't STOP!")
    lossy, confused = Spoken([text], 0.3, 0.0), Spoken([text], 0.0, 0.5)
    words = text.split()
    left = [len(lossy(text, rng).split()) / len(words) for _ in range(40)]
    assert np.mean(left) == pytest.approx(0.7, abs=0.03)
    heard = confused(text, rng).split()
    changed = [(a, b) for a, b in zip(words, heard, strict=True) if a != b]
    assert changed
    assert all(soundex(a) == soundex(b) for a, b in changed)
    assert Spoken([text], 1.0, 0.0)("one word", rng) == "one"  # never nothing


def test_all_stages_from_one_command(
    data: Path,
    settings: tuple[str, ...],
    tokenizer_json: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "large"
    encoder("bert", 48).encoder.save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(tokenizer_json.read_bytes())
    quick = ("optim.epochs=1", "distill.epochs=1", "distill.relation_heads=4",
             "distill.student_layers=0", "distill.batch_size=8")  # fmt: skip
    command = ["train.run", "--teacher", folder, "--data", data, "--cache", data / "cache", "--out",
               tmp_path / "out", "--set", ";".join((*settings, *quick))]  # fmt: skip
    monkeypatch.setattr(sys, "argv", [str(part) for part in command])
    assert run.main() == 0
    table = capsys.readouterr().out
    assert "student, not distilled" in table
    rows = json.loads((tmp_path / "out" / "stages.json").read_text())["rows"]
    info = json.loads((tmp_path / "out" / "student" / "checkpoint.json").read_text())
    assert rows["student"]["macro_f1_text"] == info["metrics"]["test"]["all text"]["macro_f1"]
    assert rows["student"]["n_parameters"] < rows["teacher"]["n_parameters"]
    assert all(0 <= row["macro_f1"] <= 1 and row["ms"] > 0 for row in rows.values())
    history = json.loads((tmp_path / "out" / "student" / "checkpoint.json").read_text())["history"]
    assert "teacher" in history[0]["losses"]
    assert run.main() == 0  # nothing is trained twice
    assert capsys.readouterr().out.count("finished already") == 4
