"""Spoiled utterances: LNLN's protocol to the letter, other kinds by their definition, the curve."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from runtime.features.embedding import EMBEDDING_DIM
from tests.train import mmsa_file, tiny
from train import checkpoint, robust
from train.data.mmsa import Mmsa
from train.data.utterance import Utterance
from train.evaluate import batches
from train.loop import predict
from train.robust import RATES, area, curve
from train.spoil import KINDS, spoil

UNK = 100


@pytest.fixture(scope="module")
def data(tokenizer_json: Path) -> list[Utterance]:
    return tiny.utterances(14, tokenizer_json)


def test_on_a_feature_file_the_rows_are_lost_that_lnln_loses(tmp_path: Path) -> None:
    """Against the formulas of LNLN's `generate_m`, on whole arrays."""
    tables = mmsa_file.content(layout="unaligned")
    path = mmsa_file.write(tmp_path / "unaligned_50.pkl", tables)
    corpus = Mmsa(path, bert=True, padded=False, seed=0)
    before = list(corpus.held_out("test"))
    for seed, rate in ((1111, 0.3), (1112, 0.9)):
        after = spoil(before, "random", rate, seed=seed, unknown=UNK, lengths=corpus.lengths)
        table = tables["test"]
        for m in ("audio", "vision"):
            values = table[m]
            np.random.seed(seed)  # noqa: NPY002
            drawn = np.random.uniform(size=values.shape[:2])  # noqa: NPY002
            expected = values * (drawn > rate)[..., None]
            for k, u in enumerate(after):
                n = table[f"{m}_lengths"][k]
                np.testing.assert_array_equal(getattr(u, m), expected[k, :n])
        ids, mask = table["text_bert"][:, 0], table["text_bert"][:, 1]
        np.random.seed(seed)  # noqa: NPY002
        kept = (np.random.uniform(size=mask.shape) > rate) * mask  # noqa: NPY002
        for k, u in enumerate(after):
            n = int(mask[k].sum())
            kept[k, 0] = kept[k, n - 1] = 1
            expected = kept[k] * ids[k] + UNK * (mask[k] - kept[k])
            np.testing.assert_array_equal(u.text, expected[:n])


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_happens_at_rate_0_and_the_same_at_the_same_seed(
    kind: str, data: list[Utterance]
) -> None:
    for a, b in zip(spoil(data, kind, 0.0, seed=1, unknown=UNK), data, strict=True):
        assert a is b
    once, again = (spoil(data, kind, 0.5, seed=1, unknown=UNK) for _ in range(2))
    other = spoil(data, kind, 0.5, seed=2, unknown=UNK)
    for a, b in zip(once, again, strict=True):
        for m in ("text", "audio", "vision"):
            np.testing.assert_array_equal(getattr(a, m), getattr(b, m))
    assert any(
        a.audio.shape != b.audio.shape or (a.audio != b.audio).any()
        for a, b in zip(once, other, strict=True)
    )
    for a, b in zip(once, data, strict=True):
        assert (a.emotion, a.id) == (b.emotion, b.id)


def test_a_block_is_one_run_of_rows(data: list[Utterance]) -> None:
    for before, after in zip(data, spoil(data, "block", 0.4, seed=3, unknown=UNK), strict=True):
        lost = ~after.audio.any(axis=1)
        assert lost.sum() == round(0.4 * len(before.audio))
        assert (np.diff(lost.astype(int)) == 1).sum() + bool(lost[:1].any()) <= 1
        np.testing.assert_array_equal(after.audio[~lost], before.audio[~lost])
        assert (after.text[0], after.text[-1]) == (before.text[0], before.text[-1])


def test_whole_modalities_go_but_never_all(data: list[Utterance]) -> None:
    after = spoil(data, "whole", 0.9, seed=0, unknown=UNK)
    n_left = [[len(getattr(u, m)) > 0 for m in ("text", "audio", "vision")] for u in after]
    assert all(any(row) for row in n_left)
    assert 1.0 <= np.mean(np.sum(n_left, axis=1)) < 2.0


def test_noise_has_the_deviation_that_is_asked_for(data: list[Utterance]) -> None:
    after = spoil(data, "noise", 0.5, seed=0, unknown=UNK)
    every = np.concatenate([u.audio for u in data])
    added = np.concatenate([u.audio for u in after]) - every
    np.testing.assert_allclose(added.std(axis=0) / every.std(axis=0), 0.5, atol=0.12)
    known = {int(i) for u in data for i in u.text}
    assert {int(i) for u in after for i in u.text} <= known
    swapped = np.concatenate([a.text != b.text for a, b in zip(after, data, strict=True)])
    assert 0.1 < swapped.mean() < 0.6


def test_the_embedding_of_a_voice_is_spoiled_with_it(data: list[Utterance]) -> None:
    rng = np.random.default_rng(0)
    heard = [
        replace(u, audio_embedding=rng.standard_normal(EMBEDDING_DIM, np.float32)) for u in data
    ]
    for kind in ("random", "block"):
        many = spoil(heard * 20, kind, 0.4, seed=0, unknown=UNK)
        known = np.array([u.audio_embedding.any() for u in many])
        assert known.mean() == pytest.approx(0.6, abs=0.1)
    for before, after in zip(heard, spoil(heard, "whole", 0.9, seed=0, unknown=UNK), strict=True):
        if len(before.audio):
            assert after.audio_embedding.any() == (len(after.audio) > 0)
    noisy = np.array([u.audio_embedding for u in spoil(heard, "noise", 0.5, seed=0, unknown=UNK)])
    clean = np.array([u.audio_embedding for u in heard])
    assert (noisy - clean).std() / clean.std() == pytest.approx(0.5, abs=0.05)
    assert noisy.dtype == np.float32


def test_the_area_is_that_of_the_curve() -> None:
    falling = [{"f1": 1.0 - rate} for rate in RATES]
    assert area(falling)["f1"] == pytest.approx(0.55)
    assert area([{"f1": 0.7}] * 10)["f1"] == pytest.approx(0.7)


def test_the_curve_begins_with_what_is_whole(data: list[Utterance]) -> None:
    model = tiny.model(data).dmd
    infer = partial(predict, model, clipped=False)
    found = curve(infer, data, "random", seeds=2, unknown=UNK)
    plain = infer(batches(data))
    correct = plain["emotion"].argmax(axis=1) == plain["emotion_label"]
    assert found[0]["accuracy"] == pytest.approx(correct.mean())
    assert len(found) == len(RATES)
    assert found[0]["mae"] != found[-1]["mae"]


def test_the_command_on_a_feature_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    from train.config import Config, ModelConfig
    from train.models.others import new_model

    path = mmsa_file.write(tmp_path / "aligned_50.pkl", mmsa_file.content())
    settings = Config(model=ModelConfig(kind="late", text_dim=768, audio_dim=5, vision_dim=20,
                                        dim=16, n_heads=2, n_layers=1))  # fmt: skip
    torch.manual_seed(0)
    model = new_model(settings.model, None, 0)
    checkpoint.save(tmp_path / "late", model, settings, None, {"emotions": []})
    command = ["--checkpoint", str(tmp_path / "late"), "--data", str(path), "--data-format", "mmsa",
               "--json", str(tmp_path / "curve.json"), "--seeds", "1"]  # fmt: skip
    assert robust.main(command) == 0
    found = json.loads((tmp_path / "curve.json").read_text())
    assert (found["split"], found["n"], len(found["curve"])) == ("valid", 6, 10)
    assert found["mean"]["mae"] == pytest.approx(np.mean([row["mae"] for row in found["curve"]]))
    assert "area" in capsys.readouterr().out
    assert robust.main([*command, "--seeds", "0"]) == 2
