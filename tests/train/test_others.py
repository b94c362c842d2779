"""Models that the DMD is compared with: equations, any subset, training."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from runtime.errors import BundleError, UsageError
from runtime.features.spec import MODALITIES, SPEC
from tests.train.test_model import N_EMOTIONS, SMALL, batch, small_language
from train import checkpoint, config
from train.config import Config, ModelConfig
from train.loop import SUBSETS, hide, keep
from train.models.others import KINDS, CorrKD, new_model
from train.models.others.corrkd import contrastive, mutual_information, prototypes
from train.models.others.late import Late
from train.models.others.misa import central_moments, difference
from train.models.others.pmr import PMR
from train.others import TrainingOther, training_model

OTHERS = [kind for kind in KINDS if kind != "dmd"]


def small(kind: str) -> Config:
    return replace(SMALL, model=replace(SMALL.model, kind=kind, front_audio=0))


def training(kind: str, n_emotions: int = N_EMOTIONS) -> TrainingOther:
    torch.manual_seed(0)
    model = new_model(small(kind).model, small_language(), n_emotions)
    model.fit_normalisation(batch(64))
    found = training_model(model, small(kind), None)
    assert isinstance(found, TrainingOther)
    return found


def test_the_hub_is_a_mixture_of_what_modalities_tell_it() -> None:
    torch.manual_seed(0)
    model = new_model(small("pmr").model, small_language(), N_EMOTIONS).eval()
    assert isinstance(model, PMR)
    layer = model.layers[0]
    own = {m: torch.randn(2, n, 16) for m, n in zip(MODALITIES, (3, 4, 5), strict=True)}
    mask = {m: torch.ones(rows.shape[:2], dtype=torch.bool) for m, rows in own.items()}
    hub, hub_mask = torch.randn(2, 12, 16), torch.ones(2, 12, dtype=torch.bool)
    with torch.no_grad():
        new, common = layer(own, hub, mask, hub_mask)
        told = [layer.to_hub[m](hub, new[m], hub_mask, mask[m]) for m in MODALITIES]
        scores = [
            torch.tanh(t @ layer.project.weight.T + layer.project.bias) @ layer.score.weight[0]
            for t in told
        ]
        total = sum(score.exp() for score in scores)
        mixed = sum((s.exp() / total)[..., None] * t for s, t in zip(scores, told, strict=True))
        expected = mixed + layer.feed_forward(layer.norm(mixed))
    torch.testing.assert_close(common, expected)


@pytest.mark.parametrize("kind", OTHERS)
def test_any_subset_gives_a_valid_prediction(kind: str) -> None:
    model = training(kind).eval().dmd
    for subset in (*SUBSETS, ()):
        with torch.no_grad():
            sentiment, emotion, arousal, own, weight = model.predict(keep(batch(), subset))
        assert sentiment.abs().max() <= 3.0
        assert emotion.shape == (6, N_EMOTIONS)
        assert torch.isfinite(emotion).all()
        assert arousal.abs().max() <= 1.0
        for k, m in enumerate(MODALITIES):
            assert m in subset or not (own[:, k].any() or weight[:, k].any())


@pytest.mark.parametrize("kind", OTHERS)
def test_padding_never_changes_a_prediction(kind: str) -> None:
    model = training(kind).eval().dmd
    short = batch(2)
    longer = {name: t.clone() for name, t in short.items()}
    for m, name in (("text", "input_ids"), ("audio", "audio"), ("vision", "vision")):
        longer[name] = torch.cat([short[name], torch.full_like(short[name][:, :6], 7)], dim=1)
        off = torch.zeros(2, 6, dtype=torch.bool)
        longer[f"{m}_mask"] = torch.cat([short[f"{m}_mask"], off], 1)
    with torch.no_grad():
        for a, b in zip(model.predict(short), model.predict(longer), strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", OTHERS)
def test_training_reaches_every_parameter_and_lowers_the_loss(kind: str) -> None:
    model = training(kind)
    if kind == "corrkd":
        model.teacher = deepcopy(model.dmd).requires_grad_(False)
    data = batch(14)
    shift = torch.nn.functional.one_hot(data["emotion"], N_EMOTIONS)[:, None].float()
    data["audio"][..., :N_EMOTIONS] += 2.0 * shift
    data["vision"][..., :N_EMOTIONS] += 2.0 * shift
    data["input_ids"] = data["emotion"][:, None].expand(-1, 9) + 10
    part = {name: t.clone() for name, t in data.items()}
    part["text_mask"][0] = part["audio_mask"][1] = part["vision_mask"][2] = False
    losses = model.train()(part)
    assert torch.isfinite(losses.total)
    losses.total.backward()
    alone = {"text", "audio", "vision"} & {kind}
    for name, parameter in model.named_parameters():
        unused = any(m in name for m in MODALITIES if alone and m not in alone)
        unused = unused or "pooler" in name or name.startswith("teacher.")
        unused = unused or (bool(alone) and (name == "dmd.trust" or "language" in name))
        if not unused:
            assert parameter.grad is not None, name
    adam = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), 2e-3)
    first = float(losses.terms["task_fused"])
    for _ in range(40):
        adam.zero_grad()
        loss = model(data)
        loss.total.backward()
        adam.step()
    assert float(loss.terms["task_fused"]) < 0.75 * first
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("subset", [("text",), ("audio", "vision")])
def test_gradients_are_finite_where_a_whole_batch_lacks_a_modality(
    kind: str, subset: tuple[str, ...]
) -> None:
    model = training(kind).train()
    if kind == "corrkd":
        model.teacher = deepcopy(model.dmd).eval().requires_grad_(False)
    model(keep(batch(), subset)).total.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("kind", OTHERS)
def test_a_model_of_sentiment_alone_has_one_output(kind: str) -> None:
    model = training(kind, n_emotions=0).train()
    if kind == "corrkd":
        model.teacher = deepcopy(model.dmd).eval().requires_grad_(False)
    losses = model({**batch(), "emotion": torch.full((6,), -1)})
    assert torch.isfinite(losses.total)
    assert "arousal" not in losses.terms
    assert model.eval().dmd.predict(batch())[1].shape == (6, 0)


@pytest.mark.parametrize("kind", OTHERS)
def test_the_published_preset_s_options_work_for_all(kind: str, root: Path) -> None:
    """Vectors for words, no masks, causal attention, the last step as summary."""
    preset = config.load(root / "configs" / "paper_mosi.toml", (f'model.kind="{kind}"',))
    preset = replace(
        preset, model=replace(preset.model, text_dim=768, dim=20, n_heads=2, n_layers=1)
    )
    torch.manual_seed(0)
    model = training_model(new_model(preset.model, None, 0), preset, None).train()
    generator = torch.Generator().manual_seed(0)
    data = {
        m: torch.randn(4, n, width, generator=generator)
        for m, n, width in (("text", 12, 768), ("audio", 30, 5), ("vision", 20, 20))
    }
    data |= {f"{m}_mask": torch.ones(data[m].shape[:2], dtype=torch.bool) for m in MODALITIES}
    nothing = torch.full((4,), -1)
    labels = {"emotion": nothing, "sentiment": torch.linspace(-3, 3, 4)}
    losses = model({**data, **labels})
    losses.total.backward()
    assert torch.isfinite(losses.total)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_late_fusion_is_the_weighted_mean_of_its_branches() -> None:
    late = training("late").eval().dmd
    assert isinstance(late, Late)
    with torch.no_grad():
        late.trust.copy_(torch.tensor([0.5, -1.0, 2.0]))
        part = keep(batch(), ("text", "vision"))
        found = late(part)
        share = torch.tensor([0.5, 2.0]).softmax(0)
    expected = share[0] * found.homo_outputs["text"] + share[1] * found.homo_outputs["vision"]
    torch.testing.assert_close(found.outputs, expected)
    torch.testing.assert_close(found.weight[0], torch.tensor([share[0], 0.0, share[1]]))


@pytest.mark.parametrize("kind", MODALITIES)
def test_a_unimodal_model_hears_one_modality_alone(kind: str) -> None:
    model = training(kind).eval().dmd
    with torch.no_grad():
        whole = model.predict(batch())[1]
        alone = model.predict(keep(batch(), (kind,)))[1]
        without = model.predict(keep(batch(), [m for m in MODALITIES if m != kind]))[1]
    torch.testing.assert_close(whole, alone)
    torch.testing.assert_close(without, without[:1].expand_as(without))  # the same for everybody


def test_misa_reads_on_after_rows_that_were_lost() -> None:
    model = training("misa").eval().dmd
    lossy = batch(2)
    lossy["audio_mask"][:, 3:6] = False
    changed = {name: t.clone() for name, t in lossy.items()}
    changed["audio"][:, 3:6] = 7.0  # nobody sees these
    last = {name: t.clone() for name, t in lossy.items()}
    last["audio"][:, 15] += 3.0  # one of the rows that a stride of 3 reads
    with torch.no_grad():
        said, same, other = (model(b).outputs for b in (lossy, changed, last))
    torch.testing.assert_close(said, same)
    assert not torch.allclose(said, other)


def test_central_moments_are_those_of_the_definition() -> None:
    torch.manual_seed(0)
    a, b = torch.rand(6, 3), torch.rand(6, 3)
    expected = float((a.mean(0) - b.mean(0)).norm())
    for k in range(2, 6):
        moments = [torch.stack([((x - x.mean(0))[:, i] ** k).mean() for i in range(3)])
                   for x in (a, b)]  # fmt: skip
        expected += float((moments[0] - moments[1]).norm())
    assert float(central_moments(a, b)) == pytest.approx(expected, rel=1e-5)
    assert central_moments(a, a) == 0.0
    assert central_moments(a[:1], b[:1]) == difference(a[:1], b[:1]) == 0.0


def test_corrkd_s_terms_equal_their_definitions() -> None:
    torch.manual_seed(0)
    s, t = F.normalize(torch.randn(4, 5), dim=1), F.normalize(torch.randn(4, 5), dim=1)
    near = sum(float((s[i] - t[i]).norm()) ** 2 for i in range(4)) / 4
    apart = [max(0.0, 1.0 - float((s[i] - t[j]).norm())) ** 2
             for i in range(4) for j in range(4) if i != j]  # fmt: skip
    expected = near + sum(apart) / len(apart)
    assert float(contrastive(3.0 * s, 0.5 * t)) == pytest.approx(expected, rel=1e-4)
    label = torch.tensor([0, 2, 2, -1])
    gaps = []
    for i in range(3):
        for k in (0, 2):  # 1 has no sample, hence no prototype
            seen = [float(F.cosine_similarity(h[i], h[label == k].mean(0), dim=0)) for h in (s, t)]
            gaps.append((seen[0] - seen[1]) ** 2)
    found = float(prototypes(s, t, label, 3))
    assert found == pytest.approx(sum(gaps) / len(gaps), rel=1e-4)
    assert prototypes(s, s, label, 3) == prototypes(s, t, torch.full((4,), -1), 3) == 0.0


def test_mutual_information_tells_pairs_from_strangers() -> None:
    torch.manual_seed(0)
    statistics = torch.nn.Sequential(
        torch.nn.Linear(2, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1)
    )
    adam = torch.optim.Adam(statistics.parameters(), 0.02)
    a = torch.randn(64, 1)
    for _ in range(150):
        adam.zero_grad()
        (-mutual_information(statistics, a, a)).backward()
        adam.step()
    strangers = torch.randn(64, 1)
    found = [float(mutual_information(statistics, a, b).detach()) for b in (a, strangers)]
    assert found[0] > found[1]
    assert found[0] > -1.1 > -2 * float(torch.tensor(2.0).log())  # the bound of no information


def test_corrkd_s_teacher_sees_what_is_hidden_from_the_student() -> None:
    import numpy as np

    model = training("corrkd").eval()
    assert "contrastive" not in model(batch()).terms  # nobody teaches
    model.teacher = deepcopy(model.dmd).requires_grad_(False)
    assert isinstance(model.dmd, CorrKD)
    same: dict[str, Tensor] = model(batch()).terms
    assert float(same["prototypes"]) == pytest.approx(0.0, abs=1e-10)
    whole = batch(12)
    hidden = hide({**whole, "shown": whole["emotion"][:, None].repeat(1, 3)}, 1.0,
                  np.random.default_rng(0))  # fmt: skip
    told = model._teach(hidden)
    assert told is not None
    with torch.no_grad():
        torch.testing.assert_close(told.parts["joint"], model.dmd(whole).parts["joint"])
        assert not torch.allclose(told.parts["joint"], model.dmd(hidden).parts["joint"])
    assert model(hidden).terms["prototypes"] > 0
    assert not any(p.requires_grad for p in model.teacher.parameters())
    assert not model.train().teacher.training


@pytest.mark.parametrize("kind", ["misa", "late"])
def test_a_checkpoint_is_of_its_kind(kind: str, tmp_path: Path) -> None:
    model = training(kind).eval()
    info = {"emotions": [f"e{k}" for k in range(N_EMOTIONS)], "metrics": {}}
    checkpoint.save(tmp_path, model.dmd, small(kind), None, info)
    again = checkpoint.load_any(tmp_path)
    with torch.no_grad():
        for a, b in zip(again.model.predict(batch()), model.dmd.predict(batch()), strict=True):
            torch.testing.assert_close(a, b)
    with pytest.raises(BundleError, match=f"is a model of kind {kind}, not a DMD"):
        checkpoint.load(tmp_path)


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(UsageError, match="kind 'mult2': there are dmd, misa, pmr"):
        new_model(ModelConfig(kind="mult2"), None, 0)
    assert SPEC.audio_dim == ModelConfig(kind="misa").audio_dim
