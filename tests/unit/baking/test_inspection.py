"""Inspection: exact under the null hypothesis whatever the weights are, and far beyond chance under the key."""

import hashlib
import math
from collections.abc import Callable
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import binom, kstest, norm

from okr import Key
from okr.baking import Checkpoint, Gate, Gates, bake, inspect
from okr.baking.header import UnreadGate
from okr.baking.inspection import products
from okr.detection.swaps import CONSTANT
from okr.errors import InvalidConfig
from okr.loaders.sources import resolve
from okr.routing import NAMED
from tests.unit.baking.sharded import KEY, OTHER

SIGNIFICANCE, KEYS, DECOYS = 1e-6, 2000, 99
Gated = dict[str, torch.Tensor]


def written(folder: Path, weights: Gated) -> Path:
    folder.mkdir()
    save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / "model.safetensors")
    return folder


def measured(folder: Path, norm: float, names: list[str]) -> Gates:
    """As if the mean norm of every router's input were ``norm``."""
    checkpoint = Checkpoint(folder)
    gates = []
    for layer, name in enumerate(names):
        experts, hidden = checkpoint.tensors[name].shape
        digest = hashlib.sha256(checkpoint.raw(name)).hexdigest()
        gates.append(
            Gate(stack="decoder", layer=layer, num_experts=experts, hidden_size=hidden, tensor=name, parameter=name,
                 norm=norm, sha256=digest)
        )  # fmt: skip
    return Gates(model="small", gates=tuple(gates))


STATES, SPREAD = (16, 48), (20, 10)  # fewer experts than the state has entries, and more


@pytest.fixture(scope="module", params=[STATES, SPREAD])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path, Gates]:
    """Weights with a few large directions and a common mean, the same under KEY, and their gates."""
    folder, generator = tmp_path_factory.mktemp("gates"), torch.Generator().manual_seed(0)
    experts, hidden = request.param
    names = ["one", "other"]
    large = torch.randn(experts, 2, generator=generator) @ torch.randn(2, hidden, generator=generator)
    weights = {name: large + torch.randn(experts, hidden, generator=generator) / 4 + 0.5 for name in names}
    original = written(folder / "original", weights)
    gates = measured(original, 1.0, names)
    bake(original, folder / "baked", KEY, gates, 0.5)
    fewer = {name: weight[[*range(5), *range(7, experts)]] for name, weight in weights.items()}
    return original, folder / "baked", written(folder / "pruned", fewer), gates


@pytest.mark.parametrize(
    ("pair", "which"),
    [(STATES, 0), (STATES, 1), (STATES, 2), (SPREAD, 0)],
    indirect=["pair"],
    ids=["original", "baked", "pruned", "more experts"],
)
def test_random_keys_are_found_no_more_often_than_the_p_values_say(
    which: int, pair: tuple[Path, Path, Path, Gates]
) -> None:
    gates, generator = pair[3].gates, np.random.default_rng(1)
    ranks, p_values = [], []
    for number in range(KEYS):
        found = inspect(pair[which], Key(number.to_bytes(16, "big")), gates, decoys=DECOYS)
        ranks.append(found.rank_p)
        p_values.append(found.p_value)
    continuous = np.array(ranks) - generator.random(KEYS) / (DECOYS + 1)
    assert kstest(continuous, "uniform").pvalue > SIGNIFICANCE
    for level in (0.5, 0.2, 0.1, 0.05, 0.01, 0.001, 1e-4, 1e-6):
        assert binom.sf((np.array(p_values) <= level).sum() - 1, KEYS, level) > SIGNIFICANCE
    assert which == 2 or min(p_values) < 0.2, "the bound would be too loose to show anything"


def test_z_is_that_of_an_oracle(pair: tuple[Path, Path, Path, Gates]) -> None:
    """The polar factor by the eigenvectors of W W^T, in place of the singular value decomposition."""
    _, folder, _, gates = pair
    held = load_file(folder / "model.safetensors")
    for key in (KEY, OTHER):
        sums, size = 0.0, 0
        for gate in gates.gates:
            weight = held[gate.tensor].double().numpy()
            values, vectors = np.linalg.eigh(weight @ weight.T)
            kept = values > 1e-9 * values.max()
            root = vectors[:, kept] / np.sqrt(values[kept]) @ vectors[:, kept].T
            sums += float(np.trace(root @ weight @ gate.signs(key)))
            size += int(kept.sum())
        found = inspect(folder, key, gates.gates)
        assert math.isclose(found.z, sums / math.sqrt(size), rel_tol=1e-6, abs_tol=1e-6)
        assert found.rank_p == (0.001 if key is KEY else found.rank_p)


def changed(source: Path, target: Path, change: Callable[[torch.Tensor, torch.Generator], torch.Tensor]) -> Path:
    generator = torch.Generator().manual_seed(2)
    return written(target, {n: change(v, generator) for n, v in load_file(source / "model.safetensors").items()})


def permuted(weight: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return weight[torch.randperm(len(weight), generator=generator)]


def pruned(weight: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A tenth of the experts gone."""
    kept = torch.randperm(len(weight), generator=generator)[: len(weight) - math.ceil(len(weight) / 10)]
    return weight[kept.sort().values]


def pruned_and_permuted(weight: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return permuted(pruned(weight, generator), generator)


def noisy(weight: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """As after training: noise of a tenth of the weights' size."""
    return weight + weight.std() / 10 * torch.randn(weight.shape, generator=generator)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Gates]:
    """The gates of the embedded model, and the same at the strengths of quiet and loud under KEY, with what is known of
    them."""
    folder, source = tmp_path_factory.mktemp("tiny"), Path(resolve("tiny").location)
    held = load_file(source / "model.safetensors")
    names = sorted(name for name in held if name.endswith("mlp.gate.weight"))
    assert len(names) == 3
    gates = measured(written(folder / "original", {name: held[name].float() for name in names}), 12.0, names)
    for name, setting in NAMED.items():
        bake(folder / "original", folder / name, KEY, gates, setting.strength)
    return folder, gates


IN_ORDER = [lambda weight, generator: weight, pruned, noisy]


@pytest.mark.parametrize(
    ("setting", "change"),
    [("quiet", change) for change in IN_ORDER] + [("loud", change) for change in (permuted, pruned_and_permuted)],
    ids=["as it is", "pruned", "noisy", "permuted", "pruned and permuted"],
)
def test_the_true_key_is_found_and_no_other(
    setting: str, change: Any, tiny: tuple[Path, Gates], tmp_path: Path
) -> None:
    folder, gates = tiny
    found = inspect(changed(folder / setting, tmp_path / "changed", change), KEY, gates.gates)
    assert found.carried
    assert found.p_value < 1e-30
    assert (found.rank_p == 0.001) is (setting == "quiet")
    for key, name in ((KEY, "original"), (OTHER, setting)):
        found = inspect(changed(folder / name, tmp_path / name, change), key, gates.gates)
        assert not found.carried
        assert found.p_value > 0.001


def test_the_order_of_experts_does_not_matter_to_matched_z(tiny: tuple[Path, Gates], tmp_path: Path) -> None:
    folder, gates = tiny
    whole = inspect(folder / "quiet", KEY, gates.gates)
    shuffled = inspect(changed(folder / "quiet", tmp_path / "permuted", permuted), KEY, gates.gates)
    assert math.isclose(shuffled.matched_z, whole.matched_z, rel_tol=1e-9)
    assert shuffled.z < 5 < whole.z
    assert min(gate.z for gate in whole.gates) > 5


@pytest.mark.parametrize("left", [(0, 2, 3, 6), (6, 0, 3, 2)], ids=["in order", "permuted"])
def test_what_was_pruned_is_found_as_by_trying_every_way(left: tuple[int, ...], tmp_path: Path) -> None:
    gate = UnreadGate(stack="decoder", layer=0, num_experts=7, hidden_size=36, tensor="gate")
    weight = torch.randn(4, 36, generator=torch.Generator().manual_seed(3))
    weight += torch.from_numpy(gate.signs(KEY)).t()[list(left)]
    folder = written(tmp_path / "model", {"gate": weight})
    table, _ = products(Checkpoint(folder).tensor("gate"), gate.signs(KEY))
    ways = [sum(table[row, column] for row, column in enumerate(kept)) for kept in combinations(range(7), 4)]
    orders = [sum(table[row, column] for row, column in enumerate(kept)) for kept in permutations(range(7), 4)]
    found = inspect(folder, KEY, [gate])
    assert math.isclose(found.z, max(ways) / 2)
    assert math.isclose(found.matched_z, max(orders) / 2)
    bounds = [CONSTANT * norm.sf(found.z) * len(ways), CONSTANT * norm.sf(found.matched_z) * len(orders)]
    assert math.isclose(found.p_value, 2 * min(bounds), rel_tol=1e-6)
    assert found.p_value < 0.001
    assert (bounds[0] < bounds[1]) == (left == (0, 2, 3, 6))


def test_weights_without_a_direction_show_nothing(tmp_path: Path) -> None:
    """All zero, or all rows the same: whatever basis the decomposition takes, it knows no key."""
    generator = torch.Generator().manual_seed(0)
    row = torch.randn(1, 24, generator=generator)
    for name, weight in {"zeros": torch.zeros(8, 24), "rows": row.expand(8, 24), "one": row}.items():
        folder = written(tmp_path / name, {"gate": weight})
        found = inspect(folder, KEY, measured(folder, 1.0, ["gate"]).gates)
        assert found.p_value > 0.001


@pytest.mark.parametrize(
    ("weight", "said"),
    [
        (torch.full((8, 24), float("nan")), "gate is not finite everywhere"),
        (torch.tensor([[float("inf")] * 24] * 8), "gate is not finite everywhere"),
        (torch.zeros(8, 24, dtype=torch.int8), "gate is of dtype I8: a quantised gate"),
        (torch.zeros(8, 24).to(torch.float8_e4m3fn), "gate is of dtype F8_E4M3: a quantised gate"),
        (torch.zeros(9, 24), r"gate is \[9, 24\], not \[8, 24\]"),
        (torch.zeros(8, 25), r"gate is \[8, 25\], not \[8, 24\]"),
        (torch.zeros(0, 24), r"gate is \[0, 24\], not"),
        (torch.zeros(8), r"gate is \[8\], not"),
        (torch.zeros(8, 24, 1), r"gate is \[8, 24, 1\], not"),
    ],
)
def test_what_is_no_such_gate_is_refused(weight: torch.Tensor, said: str, tmp_path: Path) -> None:
    gate = UnreadGate(stack="decoder", layer=0, num_experts=8, hidden_size=24, tensor="gate")
    with pytest.raises(InvalidConfig, match=said):
        inspect(written(tmp_path / "model", {"gate": weight}), KEY, [gate])
    with pytest.raises(InvalidConfig, match=r"has no tensor gate: give the okr\.json"):
        inspect(written(tmp_path / "other", {"more": weight}), KEY, [gate])


def test_a_huge_projection_is_not_drawn_for_a_small_gate(tmp_path: Path) -> None:
    """A hostile header: the size is bounded, whatever it says."""
    folder = written(tmp_path / "model", {"gate": torch.randn(8, 24)})
    gate = UnreadGate(stack="decoder", layer=0, num_experts=2**16, hidden_size=24, tensor="gate")
    assert not inspect(folder, KEY, [gate], decoys=1).carried


def test_an_original_must_be_whole(tmp_path: Path) -> None:
    """With fewer experts than the checkpoint, it would leave some without an origin."""
    folder, fewer = (written(tmp_path / str(size), {"gate": torch.randn(size, 24)}) for size in (8, 7))
    gate = UnreadGate(stack="decoder", layer=0, num_experts=8, hidden_size=24, tensor="gate")
    assert inspect(fewer, KEY, [gate], original=folder).gates[0].num_experts == 7
    with pytest.raises(InvalidConfig, match=r"7: gate is \[7, 24\], not \[8, 24\]"):
        inspect(folder, KEY, [gate], original=fewer)
