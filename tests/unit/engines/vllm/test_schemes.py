"""What a router of vLLM does is found by trying it, and proven on logits that it was not tried on; any other router is
refused."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from vllm_routers import CustomRouter, Router, largest, sigmoid, site, softmax, topk_then_sigmoid, topk_then_softmax

from okr.engines.vllm.schemes import Scheme, proven_scheme
from okr.errors import UnsupportedRouter

CPU = torch.device("cpu")
DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])


def found(router: Any, *, ranks: str = "logits", dtype: torch.dtype = torch.float32, experts: int = 16) -> Scheme:
    return proven_scheme(router, router.answer, site(experts, 4, ranks), CPU, dtype)


def is_right(scheme: Scheme, router: Any, dtype: torch.dtype, experts: int = 16) -> None:
    """On fresh logits the scheme ranks and weighs as the router, which computes in float64."""
    logits = (3 * torch.randn(200, experts, generator=torch.Generator().manual_seed(7))).to(dtype)
    weights, chosen = router.answer(torch.zeros(200, 32, dtype=dtype), logits)
    choice = scheme.choice(logits)
    assert choice.dtype == torch.float32
    ours = choice.topk(4, dim=-1).indices
    same = (ours.sort(-1).values == chosen.long().sort(-1).values).all(-1)
    untied = (logits.sort(-1).values.diff(dim=-1) > 0).all(-1)
    assert untied.sum() > 100
    assert same[untied].float().mean() > 0.98  # rounding to float32 may decide what is nearly a tie
    torch.testing.assert_close(scheme.weights(logits, chosen.long()), weights, rtol=1e-5, atol=1e-7)


@settings(max_examples=40, deadline=None)
@given(
    scoring=st.sampled_from(["softmax", "sigmoid"]),
    renormalise=st.booleans(),
    scaling=st.sampled_from([1.0, 2.5, 0.125]),
    biased=st.booleans(),
    groups=st.sampled_from([None, (4, 2), (4, 1), (2, 1), (1, 1)]),
    dtype=DTYPES,
    seed=st.integers(0, 99),
)
def test_the_scheme_that_is_found_is_the_routers(
    scoring: str,
    renormalise: bool,
    scaling: float,
    biased: bool,
    groups: tuple[int, int] | None,
    dtype: torch.dtype,
    seed: int,
) -> None:
    bias = torch.rand(16, generator=torch.Generator().manual_seed(seed)) if biased else None
    grouped = (
        {} if groups is None else {"num_expert_group": groups[0], "topk_group": groups[1], "use_grouped_topk": True}
    )
    router = Router(4, scoring, renormalise, scaling, bias, **grouped)
    scheme = found(router, ranks="scores" if biased or scoring == "sigmoid" else "logits", dtype=dtype)
    assert (scheme.scoring, scheme.renormalise, scheme.scaling) == (scoring, renormalise, scaling)
    is_right(scheme, router, dtype)


def test_groups_are_those_of_a_grouped_router_and_one_group_is_none() -> None:
    assert found(Router(4, "softmax", True, 1.0, None, True, 4, 2)).groups == (4, 2)
    assert found(Router(4, "softmax", True, 1.0, None, True, 1, 1)).groups is None
    assert found(Router(4, "softmax", True, 1.0, None, False, 4, 2)).groups is None


def test_choice_scores_are_in_the_unit_of_the_site() -> None:
    """A sigmoid ranks like its logits; the site says which of them epsilon is measured in."""
    logits = torch.randn(9, 16, generator=torch.Generator().manual_seed(3))
    router = Router(4, "sigmoid", True)
    assert torch.equal(found(router, ranks="logits").choice(logits), logits)
    torch.testing.assert_close(found(router, ranks="scores").choice(logits), logits.sigmoid())
    bias = torch.linspace(0, 1, 16)
    torch.testing.assert_close(
        found(Router(4, "softmax", False, 1.0, bias), ranks="scores").choice(logits), logits.softmax(-1) + bias
    )


@pytest.mark.parametrize("function", [topk_then_sigmoid, topk_then_softmax])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_custom_function_is_found_out(function: Any, dtype: torch.dtype) -> None:
    router = CustomRouter(function)
    scheme = found(router, dtype=dtype)
    assert (scheme.scoring, scheme.renormalise) == (
        ("sigmoid", False) if function is topk_then_sigmoid else ("softmax", True)
    )
    is_right(scheme, router, dtype)


def test_a_factor_that_the_kernel_leaves_to_the_layer_is_not_assumed() -> None:
    """Some of vLLM's routers name a factor that is applied behind them."""
    router = Router(4, "sigmoid", True, 1.0)
    plain = router.answer
    router.routed_scaling_factor = 2.5
    router.answer = lambda hidden, logits: (plain(hidden, logits)[0] / 2.5, plain(hidden, logits)[1])  # type: ignore[method-assign]
    scheme = found(router)
    assert scheme.scaling == 1.0
    is_right(scheme, router, torch.float32)


def weighed(weigh: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """A function that keeps the four best and weighs their softmax otherwise."""

    def function(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        experts = largest(logits, 4)
        return weigh(np.take_along_axis(softmax(logits), experts, -1)), experts

    return function


def ranked(rank: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """A function that keeps other experts and weighs them by their softmax."""

    def function(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        experts = rank(logits)
        return np.take_along_axis(softmax(logits), experts.clip(0, 15), -1), experts

    return function


OTHERS = {
    "square": weighed(np.square),
    "equal": weighed(np.ones_like),
    "jitter": weighed(lambda found: found * (1 + np.random.default_rng(0).uniform(-0.1, 0.1, found.shape))),
    "half": weighed(lambda found: found / 2),
    "not a number": weighed(lambda found: found * np.nan),
    "reversed weights": weighed(lambda found: found[:, ::-1].copy()),
    "worst": ranked(lambda logits: largest(-logits, 4)),
    "the next": ranked(lambda logits: largest(logits, 5)[:, 1:]),
    "random": ranked(lambda logits: np.argsort(np.random.default_rng(0).random(logits.shape), -1)[:, :4]),
    "fixed": ranked(lambda logits: np.tile(np.arange(4), (len(logits), 1))),
    "the best four times": ranked(lambda logits: np.repeat(largest(logits, 1), 4, -1)),
    "an expert too far": ranked(lambda logits: largest(logits, 4) + 1),
    "no expert": ranked(lambda logits: np.full((len(logits), 4), -1)),
    "fewer": ranked(lambda logits: largest(logits, 3)),
    "more": ranked(lambda logits: largest(logits, 5)),
    "one token less": lambda logits: topk_then_softmax(logits[1:]),
    "softmax and sigmoid": lambda logits: (
        np.sqrt(topk_then_sigmoid(logits)[0] * topk_then_softmax(logits)[0]),
        largest(logits, 4),
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", OTHERS)
def test_any_other_router_is_refused(name: str, dtype: torch.dtype) -> None:
    with pytest.raises(UnsupportedRouter, match=r"mlp.gate \(CustomRouter\) routes by none of the 4 schemes"):
        found(CustomRouter(OTHERS[name]), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_grouped_router_that_keeps_the_worst_of_its_groups_is_refused(dtype: torch.dtype) -> None:
    """Barred experts have a choice score of -inf, which must not widen what passes for rounding."""
    router = Router(4, "sigmoid", False, 1.0, None, True, 4, 2)
    allowed = router.allowed
    router.allowed = lambda ranked: np.where(np.isinf(allowed(ranked)), -np.inf, -ranked)  # type: ignore[method-assign]
    with pytest.raises(UnsupportedRouter, match="none of"):
        found(router, ranks="scores", dtype=dtype)


def test_attributes_that_lie_are_found_out() -> None:
    for lie in (
        {"scoring_func": "sigmoid"},
        {"e_score_correction_bias": torch.linspace(0, 3, 16)},
        {"scoring_func": "tanh"},
    ):
        router = Router(4, "softmax", False)
        honest = Router(4, "softmax", False).answer
        for name, value in lie.items():
            setattr(router, name, value)
        with pytest.raises(UnsupportedRouter, match="none of"):
            proven_scheme(router, honest, site(), CPU, torch.float32)


def test_a_router_that_looks_at_its_input_is_refused() -> None:
    def answer(hidden: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        return router.answer(hidden, logits + hidden[:, :16])

    router = Router(4, "softmax", True)
    with pytest.raises(UnsupportedRouter, match="none of"):
        proven_scheme(router, answer, site(), CPU, torch.float32)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("no\nkernel " * 99), AssertionError(), TypeError("a"), IndexError("b"), NotImplementedError()],
)
def test_a_router_that_crashes_is_refused_in_one_line(error: Exception) -> None:
    def answer(hidden: Tensor, logits: Tensor) -> Any:
        raise error

    with pytest.raises(UnsupportedRouter, match=r"cannot be tried out: .+") as caught:
        proven_scheme(CustomRouter(None), answer, site(), CPU, torch.float32)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("answer", [None, (None, None), (torch.ones(64, 4),), "ab", 5])
def test_a_router_that_answers_nonsense_is_refused(answer: Any) -> None:
    with pytest.raises(UnsupportedRouter):
        proven_scheme(CustomRouter(None), lambda hidden, logits: answer, site(), CPU, torch.float32)


def test_weights_of_experts_that_a_key_chose() -> None:
    """The formulas of the families, for experts that are not the best."""
    logits = torch.randn(50, 16, generator=torch.Generator().manual_seed(4))
    experts = torch.rand(50, 16, generator=torch.Generator().manual_seed(5)).argsort(-1)[:, :4]
    for scoring, function in (("softmax", softmax), ("sigmoid", sigmoid)):
        plain = np.take_along_axis(function(logits.double().numpy()), experts.numpy(), -1)
        for renormalise in (False, True):
            expected = plain / plain.sum(-1, keepdims=True) if renormalise else plain
            for scaling in (1.0, 2.5):
                weights = Scheme(scoring, False, renormalise, scaling).weights(logits, experts)
                np.testing.assert_allclose(weights.numpy(), expected * scaling, rtol=1e-5)
