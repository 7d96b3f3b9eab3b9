"""Every family of the zoo: those that can be baked are, and shift their logits as specified; the others are refused by
name."""

import json
import math

import numpy as np
import pytest
from safetensors.numpy import load_file
from scripts import ROOT

from okr import Key
from okr.baking import find_gates
from okr.errors import RouterNotFound, UnsupportedRouter
from okr.spec import oracle
from okr.spec.cases import Setting
from tests.unit.baking.zoo_baking import ALL, FAMILIES, bake_family, gates, save, sides

REFUSED = {
    "diffusion_gemma": (UnsupportedRouter, "its scores do not follow from its input times proj.weight"),  # normed first
    "doge": (RouterNotFound, "it ranks sums over two lists of keys"),
    "gemma4": (UnsupportedRouter, "its scores do not follow from its input times proj.weight"),  # normed first
    "inkling": (UnsupportedRouter, "none of its weights is [8, 32]"),  # one weight for routed and shared experts
    "muse_spark": (UnsupportedRouter, "its scores do not follow from its input times weight"),  # logits are multiplied
    "nllb_moe": (RouterNotFound, "no choice of the router reaches the experts"),
    "vitpose_backbone": (RouterNotFound, "nothing in it ranks its experts"),
    "zaya": (UnsupportedRouter, "none of its weights is [9, 32]"),  # several layers and a state of its own
}
LEFT_AS_THEY_ARE = {"deepseek_v4": 1}  # its first router goes by a table of token ids
PARTS = (  # of models: transformers makes no model of their configurations
    "deepseek_ocr2", "dots3_note:vision", "ernie4_5_vl_moe", "qwen3_omni_moe", "qwen3_omni_moe:talker", "step3p7",
    "unlimited_ocr",
)  # fmt: skip
KEY = Key(bytes(range(32)))
ROUNDING = 2e-4


@pytest.mark.parametrize("name", [name for name in ALL if name not in REFUSED])
def test_a_family_is_baked_and_ranks_shifted_logits(name, tmp_path, caplog):
    original, baked, header = bake_family(name, tmp_path, KEY)
    named = {gate.tensor for gate in header.gates}
    before, after = (load_file(tmp_path / part / "model.safetensors") for part in ("original", "baked"))
    assert before.keys() == after.keys()
    assert {tensor for tensor in before if not np.array_equal(before[tensor], after[tensor])} == named
    assert sum("is left as it is" in line for line in caplog.messages) == LEFT_AS_THEY_ARE.get(name, 0)
    assert {name for name, value in baked.named_parameters() if not value.equal(original.get_parameter(name))} == {
        gate.parameter for gate in header.gates
    }
    seen = 0
    for side in sides(original, baked, name, header, KEY):
        seen += 1
        expected = side.original.logits + side.shift
        np.testing.assert_allclose(side.baked.logits, expected, atol=ROUNDING * np.abs(expected).max())
        choice = side.choice(expected)
        worst = np.take_along_axis(choice, side.baked.experts, -1).min(-1)
        best = choice.copy()
        np.put_along_axis(best, side.baked.experts, -np.inf, -1)
        assert (worst >= best.max(-1) - ROUNDING).all()
        assert np.isfinite(worst).all()
    assert seen == len(header.gates)


@pytest.mark.parametrize("name", [name for name in ALL if name not in REFUSED])
def test_the_gates_of_a_family_are_found_without_a_header(name, tmp_path):
    known = gates(save(name, tmp_path), name, tmp_path).gates
    if name in PARTS:
        with pytest.raises(RouterNotFound, match="transformers has no model for the configuration"):
            find_gates(tmp_path)
        return
    assert {(gate.stack, gate.layer, gate.tensor) for gate in find_gates(tmp_path)} == {
        (gate.stack, gate.layer, gate.tensor) for gate in known
    }


@pytest.mark.parametrize("name", REFUSED)
def test_a_family_that_cannot_be_baked_is_refused_by_name(name, tmp_path):
    model = save(name, tmp_path)
    kind, reason = REFUSED[name]
    with pytest.raises(kind) as caught:
        gates(model, name, tmp_path)
    assert reason in str(caught.value)
    assert any(router in str(caught.value) for router in ("router", "gate", "mlp"))


def test_the_figures_are_of_every_family_and_say_which_are_refused():
    rows = json.loads((ROOT / "docs" / "data" / "baked-families.json").read_bytes())["rows"]
    assert {row["family"] for row in rows} == set(FAMILIES)
    refused = {row["family"]: row["baked"].removeprefix("no: ") for row in rows if row["baked"] != "yes"}
    assert refused.keys() == REFUSED.keys()
    assert all(REFUSED[name][1] in reason for name, reason in refused.items())
    assert all(row["different"] < 0.06 for row in rows if row["ranks"] in ("logits", "softmax"))


def test_most_families_swap_experts_at_this_strength(tmp_path):
    """Else the tests above would hold for a strength of 0 as well."""
    swapped = []
    for number, name in enumerate(("mixtral", "qwen3_moe", "deepseek_v3")):
        original, baked, header = bake_family(name, tmp_path / str(number), KEY, 1.0)
        for side in sides(original, baked, name, header, KEY):
            swapped.append((np.sort(side.baked.experts) != np.sort(side.original.experts)).any(-1).mean())
    assert min(swapped) > 0.2


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "olmoe"])
def test_the_oracle_of_the_suite_allows_what_a_baked_router_runs(name, tmp_path):
    """Soft keying, each token at the strength lambda ||h|| / n, by the oracle of chapters ZONE to TIE.

    The order of the experts is the family's own: it follows the shifted logits.
    """
    original, baked, header = bake_family(name, tmp_path, KEY, 1.0)
    judged = 0
    for side in sides(original, baked, name, header, KEY):
        strengths = header.strength / side.gate.norm * np.linalg.norm(side.baked.hidden, axis=-1)
        choice = side.choice(side.original.logits).astype(np.float32)
        rows = zip(choice.tolist(), side.keys.astype(np.float32).tolist(), strengths, side.baked.experts, strict=True)
        for scores, keys, strength, experts in rows:
            setting = Setting(len(experts), math.inf, "boundary", float(strength))
            ran = sorted(experts.tolist(), key=lambda expert, scores=scores: (-scores[expert], expert))
            assert oracle.illegal(scores, keys, setting, ran) == ""
            judged += 1
    assert judged > 10
