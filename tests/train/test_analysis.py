"""What is kept of a trained model: equal to what the model says, and safe on the disk."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from runtime.errors import BundleError
from runtime.features.spec import MODALITIES
from tests.train import tiny
from train import analysis
from train.analysis import Analysis
from train.data.utterance import Utterance, collate
from train.losses import TrainingDMD
from train.models.gd_unit import EDGES


@pytest.fixture(scope="module")
def data(tokenizer_json: Path) -> list[Utterance]:
    return tiny.utterances(70, tokenizer_json)  # more than one batch


@pytest.fixture(scope="module")
def model(data: list[Utterance]) -> TrainingDMD:
    return tiny.model(data)


@pytest.fixture(scope="module")
def collected(model: TrainingDMD, data: list[Utterance], tokenizer_json: Path) -> Analysis:
    return analysis.collect(model, data, tokenizer_json)


def test_the_arrays_are_what_the_model_says(
    model: TrainingDMD, data: list[Utterance], collected: Analysis
) -> None:
    arrays = collected.arrays
    with torch.no_grad():
        sentiment, logits, _, _, _ = model.dmd.predict(collate(data))
        features = model.dmd(collate(data))
    np.testing.assert_allclose(arrays["probabilities"], logits.softmax(dim=-1), atol=1e-5)
    np.testing.assert_allclose(arrays["sentiment_predicted"], sentiment, atol=1e-5)
    for k, m in enumerate(MODALITIES):
        np.testing.assert_allclose(arrays["homo"][:, k], features.homo[m], atol=1e-4)
        np.testing.assert_allclose(arrays["hetero"][:, k], features.hetero[m], atol=1e-4)
    assert arrays["emotion"].tolist() == [u.emotion for u in data]
    np.testing.assert_array_equal(arrays["sentiment"], [u.sentiment for u in data])
    present = [[len(getattr(u, m)) > 0 for m in MODALITIES] for u in data]
    assert arrays["present"].tolist() == present


def test_edges_sum_to_one_and_touch_no_absent_modality(collected: Analysis) -> None:
    present = collected.arrays["present"]
    usable = present[:, [i for i, _ in EDGES]] & present[:, [j for _, j in EDGES]]
    assert not usable.all()
    for space in analysis.SPACES:
        edges = collected.arrays[f"edges_{space}"]
        np.testing.assert_allclose(edges.sum(axis=1), 1.0, atol=1e-5)
        np.testing.assert_array_equal(edges > 0, usable)
        assert collected.arrays[f"prior_{space}"].sum() == pytest.approx(1.0)


@pytest.mark.parametrize("pair", [f"{a}_to_{b}" for a in MODALITIES for b in MODALITIES if a != b])
def test_attention_is_that_of_the_layer(
    pair: str, model: TrainingDMD, data: list[Utterance]
) -> None:
    layer = model.dmd.crossmodal[pair].layers[-1]
    inputs: list[tuple[Any, ...]] = []
    outputs: list[torch.Tensor] = []
    handles = [
        layer.register_forward_hook(lambda _, args, __: inputs.append(args)),
        layer.out.register_forward_hook(lambda _, __, out: outputs.append(out)),
    ]
    with torch.no_grad():
        model.dmd(collate([u for u in data if len(u.audio)][:6]))  # of different lengths
        for handle in handles:
            handle.remove()
        ((rows, source, allowed),) = inputs
        weights = analysis.attention_weights(layer, rows, source, allowed)
        value = layer.key_value(layer.norm_attention(source)).chunk(2, dim=-1)[1]
        heads = value.unflatten(-1, (layer.n_heads, -1)).transpose(1, 2)
        again = layer.out((weights @ heads).transpose(1, 2).flatten(2))
    torch.testing.assert_close(again, outputs[0], atol=1e-5, rtol=1e-5)
    assert not allowed.all()
    on = allowed.expand_as(weights)
    assert not weights[~on].any()
    torch.testing.assert_close((weights * on).sum(-1), torch.ones(weights.shape[:3]))


def test_shown_utterances_have_real_lengths_ids_and_pieces(
    data: list[Utterance], collected: Analysis
) -> None:
    assert len(collected.shown) == 14
    assert sorted(data[s.index].emotion for s in collected.shown) == sorted([*range(7)] * 2)
    model = tiny.CONFIG.model
    strides = {"text": 1, "audio": model.stride_audio, "vision": model.stride_vision}
    for k, shown in enumerate(collected.shown):
        utterance = data[shown.index]
        assert shown.id == (utterance.id or f"utterance-{shown.index}")
        assert len(shown.pieces) == len(utterance.text)
        assert shown.pieces[0] == "[CLS]"
        assert shown.pieces[-1] == "[SEP]"
        n = {m: -(-len(getattr(utterance, m)) // strides[m]) for m in MODALITIES}
        for a in MODALITIES:
            for b in set(MODALITIES) - {a}:
                weights = collected.arrays[f"attention/{k}/{a}_to_{b}"]
                assert weights.shape == (n[b], n[a])
                np.testing.assert_allclose(weights.sum(axis=1), 1.0, atol=1e-5)


def test_pairs_with_an_absent_modality_are_left_out(
    model: TrainingDMD, data: list[Utterance]
) -> None:
    deaf = next(u for u in data if not len(u.audio))
    found = analysis.collect(model, [deaf])
    pairs = {name.split("/")[2] for name in found.arrays if name.startswith("attention/")}
    assert pairs == {"text_to_vision", "vision_to_text"}
    assert found.shown[0].pieces == ()


def test_without_emotions_utterances_of_all_sentiments_are_shown(
    model: TrainingDMD, data: list[Utterance]
) -> None:
    rated = [replace(u, emotion=-1) for u in data if not np.isnan(u.sentiment)]
    shown = analysis.collect(model, rated).shown
    sentiments = sorted(rated[s.index].sentiment for s in shown)
    assert sentiments == sorted([*range(-3, 4)] * 2)


def test_saved_and_loaded_is_the_same(collected: Analysis, tmp_path: Path) -> None:
    analysis.save(tmp_path, collected)
    assert [file.name for file in tmp_path.iterdir()] == [analysis.FILE]
    again = analysis.load(tmp_path)
    assert again.shown == collected.shown
    assert again.arrays.keys() == collected.arrays.keys()
    for name, array in collected.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], array)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no analysis\.safetensors") as error:
        analysis.load(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("probabilities", np.full((70, 7), np.nan, np.float32)),
        ("probabilities", np.zeros((69, 7), np.float32)),
        ("homo", np.zeros((70, 2, 16), np.float32)),
        ("edges_homo", np.zeros((70, 5), np.float32)),
        ("emotion", np.full(70, 7)),
        ("attention/0/text_to_audio", np.zeros(3, np.float32)),
    ],
)
def test_arrays_that_do_not_fit_are_one_line(
    name: str, wrong: np.ndarray, collected: Analysis, tmp_path: Path
) -> None:
    analysis.save(tmp_path, Analysis({**collected.arrays, name: wrong}, collected.shown))
    with pytest.raises(BundleError, match="damaged") as error:
        analysis.load(tmp_path)
    assert "\n" not in str(error.value)


def test_other_damage_is_one_line(collected: Analysis, tmp_path: Path) -> None:
    analysis.save(tmp_path, collected)
    path = tmp_path / analysis.FILE
    whole = path.read_bytes()
    for content in (b"", whole[:-7], b"\x80\x04K\x01."):
        path.write_bytes(content)
        with pytest.raises(BundleError, match="damaged"):
            analysis.load(tmp_path)
    save_file({"emotion": np.zeros(3)}, path)
    with pytest.raises(BundleError, match="damaged"):
        analysis.load(tmp_path)
