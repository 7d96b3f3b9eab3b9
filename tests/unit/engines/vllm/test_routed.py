"""The operation that stands for a router of vLLM: by a key, natively in parts, as another decides, and compiled."""

import math
from dataclasses import asdict
from typing import Any

import pytest
import torch

from okr import Key
from okr.discovery import RouterSite
from okr.engines.vllm import routed
from okr.engines.vllm.routed import KeyedChoice, RoutedSite
from okr.engines.vllm.schemes import Scheme
from okr.routing import Setting, key_scores, select

E, K, D = 16, 4, 32
SITE = RouterSite(
    path="layers.3.gate", stack="decoder", layer=3, router_class="", num_experts=E, top_k=K, hidden_size=D,
    unit="logit", ranks="logits", calls=(), flat=True, keyable=True,
)  # fmt: skip
SCHEME = Scheme("softmax", False, True, 1.0)
CPU = torch.device("cpu")
SETTINGS = [Setting(math.inf, "boundary", 0.1), Setting(1.0, "max"), Setting(0.5, "boundary", 2.0)]


def native(hidden: torch.Tensor, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scores, experts = logits.float().topk(K, dim=-1)
    return scores.softmax(-1), experts.int()


@pytest.fixture
def place(key: Key, monkeypatch: pytest.MonkeyPatch) -> RoutedSite:
    made = RoutedSite("layers.3.mlp.experts", SITE, native, SCHEME, CPU, torch.float32)
    monkeypatch.setitem(routed.sites, SITE.layer, made)
    monkeypatch.setattr(routed, "rows", routed.Rows())
    return made


def shown(tokens: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    return torch.randn(tokens, D, generator=generator).to(dtype), torch.randn(tokens, E, generator=generator).to(dtype)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("tokens", [1, 2, 60])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_key_chooses_as_the_algorithm_says(
    place: RoutedSite, key: Key, setting: Setting, tokens: int, dtype: torch.dtype
) -> None:
    place.key = KeyedChoice(SITE, key, setting, CPU, dtype)
    hidden, logits = shown(tokens, dtype)
    weights, experts = torch.ops.okr.route(hidden, logits, 3, K)
    signs = torch.from_numpy(key.projection(stack="decoder", layer=3, hidden_size=D, num_experts=E)).float()
    expected = select(logits.float(), key_scores(hidden, signs), top_k=K, **asdict(setting)).indices
    assert (experts.long().sort(-1).values == expected.sort(-1).values).all()
    torch.testing.assert_close(weights, logits.float().gather(-1, experts.long()).softmax(-1))
    assert (weights.dtype, experts.dtype) == (torch.float32, torch.int32)


def test_rows_that_are_left_are_native_and_no_other(place: RoutedSite, key: Key) -> None:
    place.key = KeyedChoice(SITE, key, Setting(math.inf, "boundary", 5.0), CPU, torch.float32)
    hidden, logits = shown(30)
    keyed = torch.ops.okr.route(hidden, logits, 3, K)
    own = native(hidden, logits)
    routed.rows.leave([(4, 9), (20, 21)])
    mixed = torch.ops.okr.route(hidden, logits, 3, K)
    left = [*range(4, 9), 20]
    others = [row for row in range(30) if row not in left]
    for part in range(2):
        assert (mixed[part][left] == own[part][left]).all()
        assert (mixed[part][others] == keyed[part][others]).all()
    assert (keyed[1][left].sort(-1).values != own[1][left].sort(-1).values).any()


def test_a_buffer_answers_as_spans_do(place: RoutedSite, key: Key) -> None:
    """What a captured graph reads: the buffer stays the same and its content follows the steps."""
    place.key = KeyedChoice(SITE, key, Setting(math.inf, "boundary", 5.0), CPU, torch.float32)
    hidden, logits = shown(30)
    answers = []
    for buffered in (False, True):
        if buffered:
            routed.rows.on(CPU, 64)
        for spans in ([(4, 9), (20, 30)], [(0, 1)], []):
            routed.rows.leave(spans)
            answers.append(torch.ops.okr.route(hidden, logits, 3, K))
    for plain, buffered in zip(answers[:3], answers[3:], strict=True):
        assert (plain[1] == buffered[1]).all()
        assert (plain[0] == buffered[0]).all()


def test_another_decision_takes_the_place_of_the_key(place: RoutedSite, key: Key) -> None:
    place.key = KeyedChoice(SITE, key, SETTINGS[0], CPU, torch.float32)
    seen: list[Any] = []

    def decide(choice: torch.Tensor, hidden: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        seen.append((choice, hidden))
        return (own + 1) % E

    place.decide = decide
    routed.rows.leave([(0, 5)])
    hidden, logits = shown(5)
    _, experts = torch.ops.okr.route(hidden, logits, 3, K)
    assert (experts == (native(hidden, logits)[1] + 1) % E).all()
    assert (seen[0][0] == logits).all()
    assert (seen[0][1] == hidden).all()


def test_what_ran_is_recorded_and_compilers_see_one_operation(place: RoutedSite, key: Key) -> None:
    place.key = KeyedChoice(SITE, key, SETTINGS[0], CPU, torch.float32)
    ran: list[torch.Tensor] = []
    place.record = lambda experts: ran.append(experts.clone())

    def layer(hidden: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        weights, experts = torch.ops.okr.route(hidden, logits * 2, 3, K)
        return (weights * experts).sum(-1)

    hidden, logits = shown(7)
    plain = layer(hidden, logits)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")(hidden, logits)
    torch.testing.assert_close(plain, compiled)
    assert len(ran) == 2
    assert (ran[0] == ran[1]).all()


@pytest.mark.parametrize("logits", [[math.nan] * E, [-math.inf] * E, [math.inf] + [0.0] * (E - 1)])
def test_logits_that_are_no_numbers_end_in_no_error(place: RoutedSite, key: Key, logits: list[float]) -> None:
    place.key = KeyedChoice(SITE, key, SETTINGS[0], CPU, torch.float32)
    _, experts = torch.ops.okr.route(torch.ones(2, D), torch.tensor([logits] * 2), 3, K)
    assert experts.shape == (2, K)
