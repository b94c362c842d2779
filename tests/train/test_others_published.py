"""Models that the DMD is compared with say what their public code says (tests/golden)."""

import json
from pathlib import Path

import pytest
import torch

from runtime.features.spec import MODALITIES
from tests.train.published import WIDTHS, utterances, weights
from train.config import ModelConfig
from train.models.dictionary import Dictionary
from train.models.others.misa import MISA
from train.models.others.pmr import Reinforcement

N_EMOTIONS = 7
LETTERS = {"text": "t", "audio": "a", "vision": "v"}


@pytest.fixture(scope="module")
def golden(root: Path) -> dict[str, dict]:
    return json.loads((root / "tests" / "golden" / "published_others.json").read_text())


def test_misa_says_what_its_public_code_says(golden: dict[str, dict]) -> None:
    published = weights(golden["misa"]["shapes"])
    own = MISA(
        ModelConfig(
            kind="misa", text_dim=WIDTHS["text"], audio_dim=WIDTHS["audio"], dim=16,
            vision_dim=WIDTHS["vision"], standardise=False, masked=False, n_heads=2,
            stride_audio=1, stride_vision=1,
        ),
        None,
        N_EMOTIONS,
    ).eval()  # fmt: skip
    renamed = {"shared.": "shared.shared_1.", "hidden.0.": "fusion.fusion_layer_1."}
    renamed |= {"out.": "fusion.fusion_layer_3.", "attend.": "transformer_encoder.layers.0."}
    for m, x in LETTERS.items():
        last = "3" if m == "audio" else "1"
        renamed |= {
            f"projection.{m}.0.": f"project_{x}.project_{x}.",
            f"projection.{m}.2.": f"project_{x}.project_{x}_layer_norm.",
            f"private.{m}.": f"private_{x}.private_{x}_{last}.",
            f"reconstruct.{m}.": f"recon_{x}.recon_{x}_1.",
            f"recurrent.{m}.first.": f"{x}rnn1.",
            f"recurrent.{m}.second.": f"{x}rnn2.",
            f"recurrent.{m}.norm.": f"{x}layer_norm.",
        }
    state = own.state_dict()
    for name in state:
        start = next((s for s in renamed if name.startswith(s)), None)
        if start is not None:
            state[name] = published[name.replace(start, renamed[start], 1)]
        else:
            assert name.startswith("arousal.")  # the public code has none
    own.load_state_dict(state)
    rows, mask = utterances()
    inputs = {**{m: rows[m] for m in MODALITIES}, **{f"{m}_mask": mask[m] for m in MODALITIES}}
    with torch.no_grad():
        said = own(inputs)
        losses = own.terms(said, {}, None)
    expected = torch.tensor(golden["misa"]["predictions"])
    torch.testing.assert_close(said.outputs, expected, atol=1e-6, rtol=1e-6)
    names = ("similarity", "difference", "reconstruction")
    found = torch.stack([losses[name] for name in names])
    torch.testing.assert_close(found, torch.tensor(golden["misa"]["losses"]), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("causal", [False, True])
def test_pmr_s_unit_is_that_of_the_public_code(golden: dict[str, dict], causal: bool) -> None:
    published = weights(golden["pmr"]["shapes"])
    unit = Reinforcement(16, n_heads=4, dropout=0.1, causal=causal).eval()
    state = {}
    for name in ("cross", "own"):  # which are one there
        for kind in ("weight", "bias"):
            whole = published[f"self_attn.in_proj_{kind}"]
            state[f"{name}.query.{kind}"] = whole[:16]
            state[f"{name}.key_value.{kind}"] = whole[16:]
            state[f"{name}.out.{kind}"] = published[f"self_attn.out_proj.{kind}"]
    for old, new in (
        ("SA_affline", "gate_own"), ("CA_affline", "gate_cross"), ("fc1", "feed_forward.0"),
        ("fc2", "feed_forward.3"), ("layer_norms.0", "norm_attention"),
        ("layer_norms.1", "norm_feed_forward"),
    ):  # fmt: skip
        for kind in ("weight", "bias"):
            if f"{old}.{kind}" in published:
                state[f"{new}.{kind}"] = published[f"{old}.{kind}"]
    unit.load_state_dict(state)
    rows, _ = utterances()
    on = {name: torch.ones(rows[name].shape[:2], dtype=torch.bool) for name in ("hub", "other")}
    with torch.no_grad():
        said = unit(rows["hub"], rows["other"], on["hub"], on["other"])
    expected = torch.tensor(golden["pmr"]["causal" if causal else "free"])
    torch.testing.assert_close(said, expected, atol=1e-6, rtol=1e-6)


def test_dhmd_s_dictionary_is_fdt_s(golden: dict[str, dict]) -> None:
    published = weights(golden["fdt"]["shapes"])
    own = Dictionary(n_atoms=12, dim=16).eval()
    own.query["audio"].load_state_dict(
        {name.removeprefix("q_map."): tensor for name, tensor in published.items()}
    )
    own.atoms.data = 100.0 * weights({"space_dict": [12, 16]})["space_dict"]
    rows, _ = utterances()
    on = torch.ones(rows["hub"].shape[:2], dtype=torch.bool)
    with torch.no_grad():
        activation = own.activation("audio", rows["hub"], on)
        feature = activation @ own.atoms
    expected = torch.tensor(golden["fdt"]["activation"])
    assert (expected == 0).any()
    torch.testing.assert_close(activation, expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(
        feature, torch.tensor(golden["fdt"]["feature"]), atol=1e-5, rtol=1e-6
    )
