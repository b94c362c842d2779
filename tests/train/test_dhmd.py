"""DHMD: its dictionaries' equations, any subset, training."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from runtime.features.spec import MODALITIES
from tests.train.test_model import N_EMOTIONS, SMALL, batch, small_language
from train.losses import TrainingDMD
from train.models.dictionary import Dictionary, matching, sparsemax
from train.models.dmd import DMD

DHMD = replace(SMALL, loss=replace(SMALL.loss, lambda_dictionary=0.1, dictionary_atoms=24))


def training(**changed: object) -> TrainingDMD:
    torch.manual_seed(0)
    config = replace(DHMD, model=replace(DHMD.model, **changed))  # type: ignore[arg-type]
    dmd = DMD(config.model, small_language(), N_EMOTIONS)
    dmd.fit_normalisation(batch(64))
    return TrainingDMD(dmd, config)


def test_sparsemax_is_the_nearest_distribution() -> None:
    """Its optimality conditions: one shift for all that is kept, and no score above it is lost."""
    scores = 3.0 * torch.randn(50, 12, generator=torch.Generator().manual_seed(0))
    found = sparsemax(scores)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(50))
    assert (found >= 0).all()
    assert (found == 0).any()
    for row, given in zip(found, scores, strict=True):
        shift = (given - row)[row > 0]
        torch.testing.assert_close(shift, shift[:1].expand_as(shift))
        assert (given[row == 0] <= shift[0] + 1e-6).all()
    torch.testing.assert_close(sparsemax(torch.tensor([9.0, 0.0])), torch.tensor([1.0, 0.0]))


def test_padding_says_nothing_about_atoms() -> None:
    torch.manual_seed(0)
    dictionary = Dictionary(24, 16)
    rows, mask = torch.randn(2, 5, 16), torch.ones(2, 5, dtype=torch.bool)
    longer = torch.cat([rows, torch.full((2, 3, 16), 9.0)], dim=1)
    off = torch.cat([mask, torch.zeros(2, 3, dtype=torch.bool)], dim=1)
    for m in MODALITIES:
        torch.testing.assert_close(
            dictionary.activation(m, rows, mask), dictionary.activation(m, longer, off)
        )
    nothing = dictionary.activation("text", rows, torch.zeros_like(mask))
    torch.testing.assert_close(nothing, torch.full((2, 24), 1.0 / 24))


def test_matching_is_the_cross_entropy_of_pairs() -> None:
    torch.manual_seed(0)
    found = {m: torch.randn(5, 8) for m in MODALITIES}
    here = torch.ones(5, 3, dtype=torch.bool)
    here[4, 2] = False  # no face
    label, scale = torch.tensor([0.0, 1.0, 0.0, float("nan"), float("nan")]), torch.tensor(4.0)

    def expected(a: str, b: str, n: int) -> Tensor:
        one, other = (F.normalize(found[m][:n], dim=1) for m in (a, b))
        total = torch.zeros(())
        for logits in (4.0 * one @ other.T, 4.0 * other @ one.T):
            log = logits.log_softmax(dim=1)
            for k in range(n):
                same = [0, 2] if k in (0, 2) else [k]
                total = total - torch.stack([log[k, j] for j in same]).mean() / n / 2
        return total

    pairs = expected("text", "audio", 5) + expected("text", "vision", 4)
    pairs = pairs + expected("audio", "vision", 4)
    torch.testing.assert_close(matching(found, here, label, scale), pairs)
    assert matching(found, here & (torch.arange(5) < 1)[:, None], label, scale) == 0


@pytest.mark.parametrize(
    "changed",
    [{}, {"summary": "last", "masked": False, "standardise": False}],
    ids=["own", "published"],
)
def test_training_reaches_every_atom_that_is_used_and_lowers_the_matching(
    changed: dict[str, object],
) -> None:
    model = training(**changed).train()
    data = batch(14)
    losses = model(data)
    assert {"dictionary_homo", "dictionary_hetero"} <= set(losses.terms)
    losses.total.backward()
    for name, parameter in model.named_parameters():
        if name.startswith("matching."):
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any() or name.endswith("bias"), name
    adam = torch.optim.Adam(model.parameters(), 2e-3)
    names = ("dictionary_homo", "dictionary_hetero")
    first = sum(float(losses.terms[name]) for name in names)
    for _ in range(40):
        adam.zero_grad()
        losses = model(data)
        losses.total.backward()
        adam.step()
    assert sum(float(losses.terms[name]) for name in names) < 0.9 * first


def test_a_batch_without_a_modality_and_one_of_sentiment_alone_train() -> None:
    from train.loop import keep

    model = training().train()
    for subset in (("text",), ("audio", "vision")):
        model.zero_grad()
        model(keep(batch(), subset)).total.backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    model.zero_grad()
    sentiment = TrainingDMD(DMD(DHMD.model, small_language(), 0), DHMD)
    losses = sentiment({**batch(), "emotion": torch.full((6,), -1)})
    assert torch.isfinite(losses.total)
    assert losses.terms["dictionary_homo"] > 0


def test_dictionaries_are_no_part_of_what_a_device_runs() -> None:
    plain = TrainingDMD(DMD(SMALL.model, small_language(), N_EMOTIONS), SMALL)
    own = training()
    assert plain.matching is None
    assert {n for n, _ in own.dmd.named_parameters()} == {
        n for n, _ in plain.dmd.named_parameters()
    }
