"""A routed site chooses as the algorithm says, on the choice scores of its scheme, and weighs by the scheme."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from vllm_routers import Router, site

from okr.engines.vllm import routed
from okr.engines.vllm.routed import KeyedChoice, RoutedSite
from okr.engines.vllm.schemes import proven_scheme
from okr.routing import NAMED, Key, Setting, key_scores
from okr.routing.selection import select

CPU = torch.device("cpu")
KEY = Key(bytes(range(32)))
ROUTERS = {
    "softmax": (Router(4, "softmax", True), "logits"),
    "softmax, not renormalised": (Router(4, "softmax", False), "probabilities"),
    "sigmoid, biased": (Router(4, "sigmoid", True, 2.5, torch.linspace(0, 0.5, 16)), "scores"),
    "groups": (Router(4, "sigmoid", True, 1.0, torch.linspace(0, 0.5, 16), True, 4, 2), "scores"),
}
SETTINGS = {
    **NAMED,
    "wide": Setting(2.0, "max", 0.5),
    "narrow": Setting(0.02, "boundary"),
    "the key alone": Setting(float("inf"), "boundary"),
}


@pytest.fixture(autouse=True)
def none_native() -> Iterator[None]:
    yield
    routed.rows.leave([])


def place(name: str, setting: Setting | None, dtype: torch.dtype = torch.float32) -> RoutedSite:
    router, ranks = ROUTERS[name]
    where = site(16, 4, ranks)
    made = RoutedSite("mlp", where, router.answer, proven_scheme(router, router.answer, where, CPU, dtype), CPU, dtype)
    if setting is not None:
        made.key = KeyedChoice(where, KEY, setting, CPU, dtype)
    return made


def inputs(tokens: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden, logits = torch.randn(tokens, 32, generator=generator), torch.randn(tokens, 16, generator=generator)
    return hidden.to(dtype), logits.to(dtype)


def expected(made: RoutedSite, setting: Setting, hidden: Tensor, logits: Tensor) -> Tensor:
    """The experts of the algorithm [T, 4], with the router's own where the key has no say."""
    projection = torch.from_numpy(KEY.projection(stack="decoder", layer=1, hidden_size=32, num_experts=16)).float()
    own = made.native(hidden, logits)[1].long()
    keys = key_scores(hidden.float(), projection)
    return select(made.scheme.choice(logits), keys, top_k=4, native=own, **vars(setting)).indices


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(list(ROUTERS)),
    setting=st.sampled_from(list(SETTINGS)),
    tokens=st.sampled_from([1, 2, 7, 60]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 2**31),
)
def test_experts_are_those_of_the_algorithm_and_weights_those_of_the_scheme(
    name: str, setting: str, tokens: int, dtype: torch.dtype, seed: int
) -> None:
    made = place(name, SETTINGS[setting], dtype)
    hidden, logits = inputs(tokens, seed, dtype)
    weights, experts = made.route(hidden, logits)
    assert (weights.dtype, experts.dtype) == (torch.float32, torch.int32)
    assert experts.is_contiguous()
    assert weights.is_contiguous()
    assert torch.equal(experts.long(), expected(made, SETTINGS[setting], hidden, logits))
    torch.testing.assert_close(weights, made.scheme.weights(logits, experts.long()), rtol=0, atol=0)


def test_a_key_changes_the_experts_and_another_changes_others() -> None:
    made = place("softmax", SETTINGS["loud"])
    hidden, logits = inputs(50)
    keyed, own = made.route(hidden, logits)[1], made.native(hidden, logits)[1]
    made.key = KeyedChoice(made.site, Key(bytes(32)), SETTINGS["loud"], CPU, torch.float32)
    other = made.route(hidden, logits)[1]
    assert (keyed.sort(-1).values != own.sort(-1).values).any(-1).float().mean() > 0.5
    assert (keyed.sort(-1).values != other.sort(-1).values).any(-1).float().mean() > 0.5


@pytest.mark.parametrize("name", ROUTERS)
def test_without_a_key_the_router_is_its_own(name: str) -> None:
    made = place(name, None)
    hidden, logits = inputs(9)
    for ours, own in zip(made.route(hidden, logits), made.native(hidden, logits), strict=True):
        assert torch.equal(ours, own)


@settings(max_examples=30, deadline=None)
@given(name=st.sampled_from(list(ROUTERS)), cuts=st.lists(st.integers(0, 40), max_size=6), seed=st.integers(0, 99))
def test_rows_of_native_requests_are_the_routers_own(name: str, cuts: list[int], seed: int) -> None:
    made = place(name, SETTINGS["loud"])
    hidden, logits = inputs(40, seed)
    all_keyed, own = made.route(hidden, logits), made.native(hidden, logits)
    ends = sorted(cuts)
    spans = list(zip(ends[::2], ends[1::2], strict=False))
    routed.rows.leave(spans)
    found = made.route(hidden, logits)
    routed.rows.leave([])
    native = torch.tensor([any(start <= row < end for start, end in spans) for row in range(40)])
    for part, keyed, unkeyed in zip(found, all_keyed, own, strict=True):
        assert torch.equal(part[native], unkeyed[native])
        assert torch.equal(part[~native], keyed[~native])
    assert torch.equal(made.route(hidden, logits)[1], all_keyed[1])


def test_a_decision_stands_above_the_key_and_above_native_rows() -> None:
    made = place("sigmoid, biased", SETTINGS["loud"])
    hidden, logits = inputs(8)
    seen: list[tuple[Tensor, ...]] = []

    def decide(choice: Tensor, states: Tensor, own: Tensor) -> Tensor:
        seen.append((choice, states, own))
        return torch.arange(4).expand(8, 4).flip(-1)

    made.decide = decide
    routed.rows.leave([(0, 8)])
    weights, experts = made.route(hidden, logits)
    assert experts.tolist() == [[3, 2, 1, 0]] * 8
    torch.testing.assert_close(weights, made.scheme.weights(logits, experts.long()))
    [(choice, states, own)] = seen
    assert torch.equal(choice, made.scheme.choice(logits))
    assert torch.equal(states, hidden)
    assert torch.equal(own, made.native(hidden, logits)[1].long())


@pytest.mark.parametrize("how", ["native", "keyed", "decided", "left"])
def test_what_ran_is_recorded(how: str) -> None:
    made = place("softmax", None if how == "native" else SETTINGS["loud"])
    records: list[Tensor] = []
    made.record = records.append
    if how == "decided":
        made.decide = lambda choice, hidden, own: own.flip(-1)
    if how == "left":
        routed.rows.leave([(2, 5)])
    experts = made.route(*inputs(6))[1]
    assert len(records) == 1
    assert torch.equal(records[0].int(), experts)


def test_the_operation_of_torch_finds_the_site_of_its_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eagerly and in a compiled graph, which has no look inside; compiled code follows the key that is set later."""
    made = place("softmax", SETTINGS["loud"])
    monkeypatch.setitem(routed.sites, 1, made)
    monkeypatch.setitem(routed.sites, 2, place("groups", SETTINGS["wide"]))

    def layers(hidden: Tensor, logits: Tensor) -> Any:
        weights, experts = torch.ops.okr.route(hidden, logits * 1.5, 1, 4)
        other = torch.ops.okr.route(hidden, logits, 2, 4)
        return weights * 2, experts, *other

    compiled = torch.compile(layers, fullgraph=True, backend="aot_eager")
    hidden, logits = inputs(5)
    first = made.route(hidden, logits * 1.5)
    expected = (first[0] * 2, first[1], *routed.sites[2].route(hidden, logits))
    for function in (layers, compiled):
        for found, wanted in zip(function(hidden, logits), expected, strict=True):
            assert torch.equal(found, wanted)
    made.key = None
    assert torch.equal(compiled(hidden, logits)[1], made.native(hidden, logits * 1.5)[1])


def test_the_operation_tells_compilers_its_shapes() -> None:
    with torch._subclasses.FakeTensorMode():
        for tokens in (0, 1, 9):
            weights, experts = torch.ops.okr.route(torch.empty(tokens, 32), torch.empty(tokens, 16), 1, 4)
            assert (weights.shape, weights.dtype) == ((tokens, 4), torch.float32)
            assert (experts.shape, experts.dtype) == ((tokens, 4), torch.int32)


def test_numbers_that_are_none_leave_a_token_native() -> None:
    """A token whose input or logits are not finite is no opportunity."""
    made = place("softmax", SETTINGS["loud"])
    hidden, logits = inputs(6)
    hidden[1], hidden[2, 3] = float("nan"), float("inf")
    experts, own = made.route(hidden, logits)[1], made.native(hidden, logits)[1]
    assert torch.equal(experts[1:3], own[1:3])
    assert torch.equal(experts.long(), expected(made, SETTINGS["loud"], hidden, logits))
