"""Which scheme a router of vLLM follows is found by trying it out, and one that follows none is refused."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from okr.discovery import RouterSite
from okr.engines.vllm.schemes import proven_scheme
from okr.errors import UnsupportedRouter

E, K, D = 16, 4, 8
BIAS = torch.linspace(-0.2, 0.3, E)
CPU = torch.device("cpu")


def site(ranks: str = "logits") -> RouterSite:
    return RouterSite(
        path="layers.1.gate", stack="decoder", layer=1, router_class="", num_experts=E, top_k=K, hidden_size=D,
        unit="logit", ranks=ranks, calls=(), flat=True, keyable=True,
    )  # fmt: skip


def fake(scoring: str, renormalise: bool, scaling: float, bias: Any, groups: Any) -> Any:
    """A router in NumPy, token by token: weights and experts of logits."""

    def native(hidden: torch.Tensor, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        weights, experts = [], []
        for row in logits.double().numpy():
            scores = np.exp(row) / np.exp(row).sum() if scoring == "softmax" else 1 / (1 + np.exp(-row))
            ranked = scores + (0 if bias is None else bias.numpy())
            if groups is not None:
                size = E // groups[0]
                parts = [sorted(ranked[at : at + size])[::-1] for at in range(0, E, size)]
                value = [part[0] if bias is None else part[0] + part[1] for part in parts]
                kept = sorted(range(groups[0]), key=lambda group: -value[group])[: groups[1]]
                ranked = np.array([r if at // size in kept else -np.inf for at, r in enumerate(ranked)])
            chosen = sorted(range(E), key=lambda expert: -ranked[expert])[:K]
            paid = scores[chosen] / (scores[chosen].sum() if renormalise else 1) * scaling
            weights.append(paid)
            experts.append(chosen)
        return torch.tensor(np.array(weights), dtype=torch.float32), torch.tensor(experts, dtype=torch.int32)

    return native


CASES = [
    ("softmax", False, 1.0, None, None, "logits"),
    ("softmax", True, 1.0, None, None, "logits"),
    ("softmax", False, 16.0, None, (4, 2), "probabilities"),
    ("sigmoid", True, 2.5, BIAS, (4, 2), "scores"),
    ("sigmoid", True, 1.0, BIAS, None, "scores"),
    ("sigmoid", False, 1.0, None, None, "scores"),
    ("softmax", True, 1.0, BIAS, None, "scores"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_scheme_is_that_of_the_router(case: Any, dtype: torch.dtype) -> None:
    scoring, renormalise, scaling, bias, groups, ranks = case
    native = fake(scoring, renormalise, scaling, bias, groups)
    about = {"scoring_func": scoring, "routed_scaling_factor": scaling, "e_score_correction_bias": bias}
    if groups is not None:
        about |= {"use_grouped_topk": True, "num_expert_group": groups[0], "topk_group": groups[1]}
    scheme = proven_scheme(SimpleNamespace(**about), native, site(ranks), CPU, dtype)
    logits = torch.randn(200, E, generator=torch.Generator().manual_seed(5)) * 2
    weights, experts = native(torch.zeros(200, D), logits)
    own = scheme.choice(logits).topk(K, dim=-1).indices
    assert (own.sort(-1).values == experts.long().sort(-1).values).all()
    torch.testing.assert_close(scheme.weights(logits, experts.long()), weights, rtol=1e-4, atol=1e-6)
    barred = scheme.choice(logits) == -torch.inf
    assert int(barred.sum(-1).amax()) == (0 if groups is None else E // 2)


def test_a_custom_function_is_recognised_by_what_it_does() -> None:
    def native(hidden: torch.Tensor, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores, experts = logits.topk(K, dim=-1)
        return scores.float().sigmoid(), experts.int()

    router = SimpleNamespace(custom_routing_function=native, scoring_func="softmax")
    scheme = proven_scheme(router, native, site(), CPU, torch.float32)
    assert (scheme.scoring, scheme.renormalise, scheme.by_score) == ("sigmoid", False, False)


@pytest.mark.parametrize("fault", ["weights", "ranking", "crash"])
def test_a_router_of_no_scheme_is_refused_by_name(fault: str) -> None:
    inner = fake("softmax", True, 1.0, None, None)

    def native(hidden: torch.Tensor, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if fault == "crash":
            raise ValueError("needs\nanother shape")
        weights, experts = inner(hidden, -logits if fault == "ranking" else logits)
        return (weights * weights if fault == "weights" else weights), experts

    with pytest.raises(UnsupportedRouter, match=r"layers\.1\.gate \(SimpleNamespace\)") as raised:
        proven_scheme(SimpleNamespace(scoring_func="softmax"), native, site(), CPU, torch.float32)
    assert "\n" not in str(raised.value)
