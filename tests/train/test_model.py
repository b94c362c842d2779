"""The model and its losses: shapes, masks, gradients, and what must not change anything."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from runtime.errors import UsageError
from runtime.features.spec import MODALITIES, SPEC
from train.config import Config, LossConfig, ModelConfig
from train.data.corpora import NEUTRAL
from train.loop import SUBSETS, keep
from train.losses import (
    TrainingDMD,
    arousal_loss,
    doubtful,
    margin_labels,
    margin_loss,
    orthogonality,
    task_loss,
)
from train.models.dmd import DMD
from train.models.gd_unit import (
    EDGES,
    RULES,
    GraphDistillation,
    discrepancy,
    parse_edges,
    task_error,
)
from train.models.language import LanguageEncoder

N_EMOTIONS = 7
SMALL = Config(
    model=ModelConfig(front_audio=12, dim=16, n_heads=2, n_layers=1, gd_hidden=8, dropout=0.0)
)


def small_language() -> LanguageEncoder:
    return LanguageEncoder.from_config(
        {
            "model_type": "bert",
            "vocab_size": 100,
            "hidden_size": 24,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "max_position_embeddings": 64,
        }
    )


@pytest.fixture
def model() -> TrainingDMD:
    torch.manual_seed(0)
    dmd = DMD(SMALL.model, small_language(), N_EMOTIONS)
    dmd.fit_normalisation(batch(64))
    return TrainingDMD(dmd, SMALL)


def test_a_column_that_never_moves_in_training_does_not_count() -> None:
    """Faces that are made of action units have no appearance; those of a device have one."""
    seen = batch(64)
    seen["vision"][..., 60:80] = 0.5
    dmd = DMD(SMALL.model, small_language(), N_EMOTIONS).eval()
    dmd.fit_normalisation(seen)
    shown = batch(2)
    other = {**shown, "vision": shown["vision"].clone()}
    other["vision"][..., 60:80] += 3.0
    for found, again in zip(dmd.predict(shown), dmd.predict(other), strict=True):
        torch.testing.assert_close(again, found, atol=1e-4, rtol=0.0)


def batch(
    n: int = 6, lengths: tuple[int, int, int] = (9, 20, 14), seed: int = 0
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tt, ta, tv = lengths
    out = {
        "input_ids": torch.randint(1, 100, (n, tt), generator=generator),
        "audio": torch.randn(n, ta, SPEC.audio_dim, generator=generator),
        "vision": torch.rand(n, tv, SPEC.vision_dim, generator=generator),
        "emotion": torch.arange(n) % N_EMOTIONS,
        "sentiment": torch.linspace(-3, 3, n),
        "arousal": torch.linspace(-1, 1, n),
    }
    out["vision"][..., -1] = 1.0
    for m, t in zip(MODALITIES, lengths, strict=True):
        out[f"{m}_mask"] = torch.ones(n, t, dtype=torch.bool)
    return out


def test_every_loss_term_is_logged_finite_and_reaches_all_parameters(model: TrainingDMD) -> None:
    losses = model(batch())
    expected = {"task_fused", "task_common", "reconstruction", "cycle", "orthogonality", "margin",
                "distil_homo", "distil_hetero", "edges_homo", "edges_hetero"}  # fmt: skip
    expected.add("arousal")
    expected |= {f"task_{space}_{m}" for space in ("homo", "hetero") for m in MODALITIES}
    assert set(losses.terms) == expected
    assert all(torch.isfinite(term) for term in losses.terms.values())
    part = batch()
    part["text_mask"][0] = part["audio_mask"][1] = part["vision_mask"][2] = False
    model(part).total.backward()  # the missing tokens learn from this one
    dead = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert [n for n in dead if not n.startswith("dmd.language.encoder.pooler")] == []


@pytest.mark.parametrize("lacking", MODALITIES)
def test_bf16_gradients_are_finite_where_a_batch_lacks_a_modality(
    model: TrainingDMD, lacking: str
) -> None:
    part = keep(batch(), [m for m in MODALITIES if m != lacking], cut=True)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(part).total
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_training_lowers_the_loss(model: TrainingDMD) -> None:
    adam = torch.optim.Adam(model.parameters(), 3e-3)
    data = batch(14)
    first = float(model(data).total.detach())
    for _ in range(30):
        adam.zero_grad()
        loss = model(data).total
        loss.backward()
        adam.step()
    assert float(loss.detach()) < 0.6 * first


def test_padding_never_changes_a_prediction(model: TrainingDMD) -> None:
    model.eval()
    short = batch(2)
    longer = {name: t.clone() for name, t in short.items()}
    for m, name in (("text", "input_ids"), ("audio", "audio"), ("vision", "vision")):
        extra = torch.full_like(short[name][:, :5], 7)
        longer[name] = torch.cat([short[name], extra], dim=1)
        longer[f"{m}_mask"] = torch.cat(
            [short[f"{m}_mask"], torch.zeros(2, 5, dtype=torch.bool)], 1
        )
    with torch.no_grad():
        for a, b in zip(model.dmd.predict(short), model.dmd.predict(longer), strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("subset", SUBSETS)
def test_any_subset_gives_a_valid_prediction(model: TrainingDMD, subset: tuple[str, ...]) -> None:
    model.eval()
    with torch.no_grad():
        sentiment, emotion, arousal, own, weight = model.dmd.predict(keep(batch(), subset))
    assert sentiment.abs().max() <= 3.0
    assert torch.isfinite(emotion).all()
    assert arousal.abs().max() <= 1.0
    torch.testing.assert_close(weight.sum(1), torch.ones(6))
    for k, m in enumerate(MODALITIES):
        assert bool(weight[:, k].any()) == (m in subset)
        assert bool(own[:, k].any()) == (m in subset)


def test_each_modality_learns_what_it_shows_itself(model: TrainingDMD) -> None:
    model.eval()
    usual = batch()
    plain = model(usual).terms
    whole = {**usual, "shown": usual["emotion"][:, None].repeat(1, 3)}
    for name, term in model(whole).terms.items():
        torch.testing.assert_close(term, plain[name])
    torn = {**whole, "shown": whole["shown"].clone()}
    torn["shown"][:, 1] = (usual["emotion"] + 1) % N_EMOTIONS
    changed = {name for name, term in model(torn).terms.items() if not term.equal(plain[name])}
    assert {"task_homo_audio", "task_hetero_audio", "margin", "distil_homo"} <= changed
    assert not {"task_fused", "task_homo_text", "task_hetero_vision", "reconstruction"} & changed


def test_what_is_common_in_training_is_not_likelier_for_the_model(model: TrainingDMD) -> None:
    """Logit adjustment: with everything else equal, the loss is that of the adjusted logits."""
    outputs = torch.zeros(6, 1 + N_EMOTIONS)
    labels = batch()["emotion"]
    prior = torch.linspace(-1.0, 1.0, N_EMOTIONS).log_softmax(0)
    usual = {"emotion": labels, "sentiment": torch.full((6,), float("nan"))}
    here = torch.ones(6, dtype=torch.bool)
    plain = LossConfig(label_smoothing=0.0)
    loss = task_loss(outputs, {**usual, "log_prior": prior.expand(6, -1)}, here, plain)
    torch.testing.assert_close(loss, -prior[labels].mean())


def test_arousal_is_learned_where_it_is_known() -> None:
    raw = torch.tensor([0.0, 5.0, -5.0])
    told = torch.tensor([0.5, float("nan"), -1.0])
    torch.testing.assert_close(arousal_loss(raw, told), torch.tensor(0.25), atol=1e-3, rtol=0.0)
    assert arousal_loss(raw, torch.full((3,), float("nan"))) == 0.0


def test_nothing_at_all_is_still_finite(model: TrainingDMD) -> None:
    model.eval()
    with torch.no_grad():
        outputs = model.dmd.predict(keep(batch(), ()))
    assert all(torch.isfinite(o).all() for o in outputs)
    assert not outputs[4].any()


def test_a_modality_s_own_prediction_depends_on_it_alone(model: TrainingDMD) -> None:
    model.eval()
    with torch.no_grad():
        both = model.dmd.predict(keep(batch(), ("text", "audio")))[3]
        alone = model.dmd.predict(keep(batch(), ("text",)))[3]
    torch.testing.assert_close(both[:, 0], alone[:, 0])


def test_what_contradicts_itself_is_doubted() -> None:
    anger, happiness, neutral, sadness = 0, 3, NEUTRAL, 5
    shown = torch.tensor(
        [[happiness] * 3, [happiness, anger, happiness], [neutral, happiness, neutral],
         [anger, happiness, sadness], [happiness, anger, happiness]]
    )  # fmt: skip
    present = torch.ones_like(shown, dtype=torch.bool)
    present[4, 1] = False  # what nobody heard contradicts nothing
    found = doubtful(torch.full((5,), happiness), shown, present, N_EMOTIONS, doubt=0.4)
    expected = torch.zeros(5, N_EMOTIONS)
    expected[[0, 2, 4], happiness] = 1.0
    expected[[1, 3], happiness] = 0.6
    expected[1, anger] = 0.4
    expected[3, [anger, sadness]] = 0.2
    torch.testing.assert_close(found, expected)


def test_a_model_of_sentiment_alone_has_nothing_to_doubt() -> None:
    doubting = replace(SMALL, loss=replace(SMALL.loss, doubt=0.4))
    model = TrainingDMD(DMD(SMALL.model, small_language(), 0), doubting)
    assert torch.isfinite(model({**batch(), "emotion": torch.full((6,), -1)}).total)


def test_the_doubt_reaches_the_fused_prediction_alone(model: TrainingDMD) -> None:
    shown = torch.zeros((len(batch()["emotion"]), 3), dtype=torch.long)
    shown[:, 1] = 3
    torn = {**batch(), "emotion": shown[:, 0], "shown": shown}
    sure, doubting = deepcopy(model).eval(), deepcopy(model).eval()
    doubting.config = replace(model.config, doubt=0.4)
    with torch.no_grad():
        a, b = sure(torn).terms, doubting(torn).terms
    changed = {name for name in a if not torch.equal(a[name], b[name])}
    assert changed == {"task_fused", "task_common"}


def test_task_loss_counts_labelled_samples_only() -> None:
    outputs = torch.zeros(3, 1 + N_EMOTIONS)
    labels = {
        "emotion": torch.tensor([-1, -1, -1]),
        "sentiment": torch.tensor([torch.nan, 2.0, -1.0]),
    }
    config = LossConfig(sentiment=1.0)
    everyone = torch.tensor([True, True, True])
    assert task_loss(outputs, labels, everyone, config) == pytest.approx(1.5)
    assert task_loss(outputs, labels, torch.tensor([True, True, False]), config) == pytest.approx(
        2.0
    )
    assert task_loss(outputs, labels, torch.tensor([True, False, False]), config) == 0.0


def test_orthogonality_is_least_at_right_angles() -> None:
    mask = torch.ones(1, 1, dtype=torch.bool)
    x, y = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 2.0]]])
    assert orthogonality(x, y, mask) == 0.0
    assert orthogonality(x, x, mask) == orthogonality(x, -x, mask) == 1.0


def test_margin_loss_equals_its_definition() -> None:
    torch.manual_seed(1)
    n, margin = 4, 0.2
    homo, emotion = torch.randn(n, 3, 5), torch.tensor([0, 0, 1, -1])
    present = torch.ones(n, 3, dtype=torch.bool)
    present[1, 2] = False
    items = [(m, int(emotion[b]), homo[b, m]) for b in range(n) for m in range(3)
             if present[b, m] and emotion[b] >= 0]  # fmt: skip
    cosine = torch.nn.functional.cosine_similarity
    terms = [
        max(0.0, margin - float(cosine(ci, cj, dim=0)) + float(cosine(ci, ck, dim=0)))
        for mi, yi, ci in items
        for mj, yj, cj in items
        for mk, yk, ck in items
        if mi != mj and mi == mk and yi == yj and yi != yk
    ]
    expected = sum(terms) / len(terms)
    label, margins = margin_labels({"emotion": emotion}, margin)
    assert float(margin_loss(homo, label, present, margins)) == pytest.approx(expected, rel=1e-4)
    assert margin_loss(homo, torch.full((n,), torch.nan), present, margins) == 0.0


def test_margin_between_sentiments_is_their_gap() -> None:
    batch = {"emotion": torch.tensor([-1, -1, -1]), "sentiment": torch.tensor([-1.0, 2.0, 2.0])}
    label, margins = margin_labels(batch, 0.15)
    torch.testing.assert_close(label, batch["sentiment"])
    torch.testing.assert_close(margins[0], torch.tensor([0.0, 0.45, 0.45]))
    assert margin_loss(torch.randn(3, 3, 5), label, torch.ones(3, 3, dtype=bool), margins) > 0


@pytest.mark.parametrize("by_divergence", [False, True])
def test_graph_distillation_teaches_along_edges_only(by_divergence: bool) -> None:
    torch.manual_seed(0)
    unit = GraphDistillation(
        8, 16, 8, favoured=((0, 1), (0, 2)), temperature=8.0, by_divergence=by_divergence
    )
    logits = torch.randn(5, 3, 8, requires_grad=True)
    present = torch.tensor([[True, True, True]] * 4 + [[True, False, False]])
    out = unit(logits, torch.randn(5, 3, 16), present)
    torch.testing.assert_close(out.edges[:4].sum(1), torch.ones(4))
    assert not out.edges[4].any()  # nobody to teach
    assert out.loss > 0
    student, teacher = (logits[:, list(side)] for side in ((j for _, j in EDGES),
                                                           (i for i, _ in EDGES)))  # fmt: skip
    gap = (student - teacher).abs().mean(dim=-1)
    if by_divergence:
        gap = discrepancy(student, teacher, 1.0)
    expected = ((out.edges + unit.prior) * gap)[:4].sum() / 5
    torch.testing.assert_close(out.loss, expected)
    # Only as a student does a modality move: with text favoured as teacher, text moves least.
    out.loss.backward()
    assert logits.grad is not None
    assert not logits.grad[4].any()


def test_a_student_who_cannot_tell_learns_the_teacher_s_probabilities() -> None:
    # A teacher is sure of class 0 in 60 % of cases, of class 1 in the rest: the best constant
    # answer is (0.6, 0.4). By L1 of the logits it would be the commoner one, near (1, 0).
    teacher = torch.tensor([[0.0, 4.0, -4.0]] * 6 + [[0.0, -4.0, 4.0]] * 4)
    student = torch.zeros(3, requires_grad=True)
    adam = torch.optim.Adam([student], 0.05)
    for _ in range(300):
        adam.zero_grad()
        discrepancy(student.expand(10, 3), teacher, 1.0).mean().backward()
        adam.step()
    told = student.detach()[1:].softmax(dim=0)
    torch.testing.assert_close(told, torch.tensor([0.6, 0.4]), atol=0.01, rtol=0)


def test_sentiments_are_compared_by_their_difference() -> None:
    gap = discrepancy(torch.tensor([[1.0], [-2.0]]), torch.tensor([[3.0], [-2.5]]), 1.0)
    torch.testing.assert_close(gap, torch.tensor([2.0, 0.5]))


def test_edges_are_named_teacher_to_student() -> None:
    assert parse_edges("vision>text text>audio") == ((2, 0), (0, 1))
    assert parse_edges("") == ()
    with pytest.raises(UsageError, match="edge 'text>text'"):
        parse_edges("text>audio text>text")
    even = GraphDistillation(8, 16, 8, favoured=(), temperature=8.0)
    torch.testing.assert_close(even.prior, torch.full((6,), 1 / 6))


@pytest.mark.parametrize("subset", SUBSETS)
def test_hidden_modalities_may_be_cut(model: TrainingDMD, subset: tuple[str, ...]) -> None:
    model.eval()
    short = keep(batch(), subset, cut=True)
    for m, name in zip(MODALITIES, ("input_ids", "audio", "vision"), strict=True):
        assert (short[name].shape[1] == 1) == (m not in subset)
    with torch.no_grad():
        whole = model.dmd.predict(keep(batch(), subset))
        for a, b in zip(model.dmd.predict(short), whole, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_of_edges_teaches_as_much_in_all(rule: str) -> None:
    torch.manual_seed(0)
    unit = GraphDistillation(8, 16, 8, favoured=((0, 1),), temperature=1.0, rule=rule)
    labels = {"emotion": torch.tensor([0, 1, -1, 2]), "sentiment": torch.zeros(4)}
    present = torch.tensor([[True, True, True]] * 3 + [[True, False, True]])
    logits = torch.randn(4, 3, 8, requires_grad=True)
    out = unit(logits, torch.randn(4, 3, 16), present, labels)
    torch.testing.assert_close(out.edges.sum(1), torch.ones(4))
    assert not out.edges[3, [k for k, e in enumerate(EDGES) if 1 in e]].any()
    if rule in ("per_student", "together"):
        for j in range(3):
            into = out.edges[:3, [k for k, e in enumerate(EDGES) if e[1] == j]]
            torch.testing.assert_close(into.sum(1), torch.full((3,), 1 / 3))
    flat = unit(torch.zeros(4, 3, 8), torch.zeros(4, 3, 16), present, labels)
    assert flat.loss == 0.0  # who agrees has nothing to learn


@pytest.mark.parametrize("rule", RULES)
def test_through_the_distance_edges_learn_under_the_old_rules_alone(rule: str) -> None:
    torch.manual_seed(0)
    unit = GraphDistillation(8, 16, 8, favoured=(), temperature=1.0, rule=rule)
    labels = {"emotion": torch.tensor([0, 1, -1]), "sentiment": torch.zeros(3)}
    present = torch.ones(3, 3, dtype=torch.bool)
    out = unit(torch.randn(3, 3, 8), torch.randn(3, 3, 16), present, labels)
    weight = unit.by_class if rule == "per_class" else unit.edge.weight
    through_distance = rule in ("published", "per_student", "no_constant")
    apart = rule in ("detached", "per_class", "held_out", "together")
    assert out.loss.requires_grad == through_distance
    assert unit.mixes == out.mixture.requires_grad == apart
    if rule != "by_error":
        (out.loss + out.mixture).backward()
        assert weight.grad is not None
        assert weight.grad.any()


def test_who_is_right_teaches() -> None:
    labels = {"emotion": torch.tensor([2, -1]), "sentiment": torch.full((2,), torch.nan)}
    logits = torch.zeros(2, 3, 8)
    logits[0, 0, 3] = 4.0  # text says class 2, and is right
    logits[0, 1, 1] = 4.0  # audio says class 0
    present = torch.ones(2, 3, dtype=torch.bool)
    unit = GraphDistillation(8, 16, 8, favoured=(), temperature=1.0, rule="by_error")
    edges = unit(logits, torch.zeros(2, 3, 16), present, labels).edges
    named = {edge: float(edges[0, k]) for k, edge in enumerate(EDGES)}
    assert named[0, 1] == named[0, 2] > named[2, 0] == named[2, 1] > named[1, 0] == named[1, 2]
    torch.testing.assert_close(edges[1], edges[0])  # unlabelled: as the labelled ones on the mean
    error = task_error(logits, labels)
    expected = torch.nn.functional.cross_entropy(logits[0, :, 1:], torch.tensor([2] * 3),
                                                 reduction="none")  # fmt: skip
    torch.testing.assert_close(error[0], expected)
    assert error[1].isnan().all()
    rated = task_error(torch.tensor([[[1.0], [-1.0], [0.0]]]), {**labels, "emotion":
                       torch.tensor([-1]), "sentiment": torch.tensor([2.0])})  # fmt: skip
    torch.testing.assert_close(rated, torch.tensor([[1.0, 3.0, 2.0]]))


def test_a_gain_is_what_a_step_brings_to_the_other_samples() -> None:
    """Against the derivative of the real thing: the students' last layers take one step."""
    torch.manual_seed(0)
    n_samples, dim, n = 5, 6, 8
    representation = torch.randn(n_samples, 3, dim, dtype=torch.float64)
    weights = torch.randn(3, n, dim, dtype=torch.float64)
    labels = {
        "emotion": torch.tensor([0, 3, 6, 2, 2]),
        "sentiment": torch.full((n_samples,), torch.nan, dtype=torch.float64),
    }
    present = torch.ones(n_samples, 3, dtype=torch.bool)
    unit = GraphDistillation(n, dim, 4, favoured=(), temperature=1.0, rule="held_out").double()
    logits = torch.einsum("jnd,bjd->bjn", weights, representation)
    gain = unit._gain(logits, representation, present, labels)
    for s in range(n_samples):
        for k, (i, j) in enumerate(EDGES):
            size = torch.zeros((), dtype=torch.float64, requires_grad=True)
            w = weights.clone().requires_grad_()
            gap = (w[j] @ representation[s, j] - logits[s, i].detach()).abs().mean()
            (slope,) = torch.autograd.grad(gap, w)
            stepped = torch.einsum("jnd,bjd->bjn", weights - size * slope, representation)
            others = [b for b in range(n_samples) if b != s]
            loss = task_error(stepped, labels)[others, j].sum() / len(others)
            (slope,) = torch.autograd.grad(loss, size)
            torch.testing.assert_close(gain[s, k], -slope)


def test_a_mixture_of_teachers_turns_to_the_one_who_is_right() -> None:
    torch.manual_seed(0)
    unit = GraphDistillation(8, 16, 8, favoured=(), temperature=1.0, rule="per_class")
    labels = {"emotion": torch.tensor([1, 1]), "sentiment": torch.full((2,), torch.nan)}
    logits = torch.zeros(2, 3, 8)
    logits[:, 2, 2] = 6.0  # vision is right, the others say nothing
    adam = torch.optim.Adam([unit.by_class], 0.1)
    present = torch.ones(2, 3, dtype=torch.bool)
    for _ in range(60):
        adam.zero_grad()
        unit(logits, torch.zeros(2, 3, 16), present, labels).mixture.backward()
        adam.step()
    edges = unit(logits, torch.zeros(2, 3, 16), present, labels).edges[0]
    named = {edge: float(edges[k]) for k, edge in enumerate(EDGES)}
    assert named[2, 0] > 5 * named[1, 0]
    assert named[2, 1] > 5 * named[0, 1]
    assert unit.by_class.grad is not None
    assert not unit.by_class.grad[[0, 2, 3, 4, 5, 6]].any()  # no other class learned of it


def test_an_unknown_rule_is_named() -> None:
    with pytest.raises(UsageError, match=r"edge_rule 'x': there are published, detached"):
        GraphDistillation(8, 16, 8, favoured=(), temperature=1.0, rule="x")
