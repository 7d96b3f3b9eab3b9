"""Every request gets the experts that ran for it and no other's, whatever is in a step with it. vLLM's own parts are
played here: a scheduler that cuts prompts, drafts, and takes requests back; and the model runner."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from vllm_routers import Router, site

from okr.engines.vllm import routed
from okr.engines.vllm.recording import Steps
from okr.engines.vllm.routed import RoutedSite
from okr.engines.vllm.schemes import Scheme

MOST = 16  # tokens of a step
LAYERS = (1, 3)


class Capturer:
    """vLLM's buffer of what ran in a step."""

    def __init__(self, max_num_batched_tokens: int, vllm_config: Any) -> None:
        assert max_num_batched_tokens == MOST
        self.ran = torch.full((MOST, len(LAYERS), 2), -1)

    def capture(self, layer: int, experts: torch.Tensor) -> None:
        self.ran[: len(experts), LAYERS.index(layer)] = experts

    def snapshot_routing_data(self, rows: int) -> torch.Tensor:
        return self.ran[:rows].clone()


@dataclass
class Output:
    token_start: int
    rows: np.ndarray


@pytest.fixture(scope="module", autouse=True)
def vllm() -> Iterator[None]:
    """The modules of vLLM that are asked for."""
    parts = {
        "vllm.model_executor.layers.fused_moe.routed_experts_capturer": {"RoutedExpertsCapturer": Capturer},
        "vllm.distributed.aux_output_connector.connector": {"AuxRequestOutput": Output},
        "vllm.distributed.aux_output_connector.worker": {"get_aux_output_connector": None},
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, held in parts.items():
            steps = name.split(".")
            for depth in range(1, len(steps) + 1):
                patch.setitem(sys.modules, ".".join(steps[:depth]), ModuleType(".".join(steps[:depth])))
            sys.modules[name].__dict__.update(held)
        yield
    routed.rows.leave([])


@dataclass
class Request:
    """A request as the scheduler knows it. It wants the experts of its tokens from ``first`` on."""

    number: int
    prompt: int
    new: int
    first: int
    native: bool
    tokens: int = 0
    computed: int = 0
    drafts: int = 0
    rows: list[np.ndarray] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"request-{self.number}"

    @property
    def sampling_params(self) -> Any:
        return SimpleNamespace(extra_args={"okr": False} if self.native else None)

    def ran(self, start: int, end: int) -> np.ndarray:
        """What runs for its tokens: numbers that no other token has."""
        tokens = self.number * 1000 + np.arange(start, end)
        return np.stack([[[token * 10 + layer, -token] for layer in LAYERS] for token in tokens]) if end > start else (
            np.empty((0, len(LAYERS), 2), int)
        )  # fmt: skip

    def take(self, output: Output) -> None:
        """What vLLM's scheduler does with an output."""
        end = self.tokens - 1 - output.token_start
        assert 0 <= end <= len(output.rows)
        self.rows.append(output.rows[:end])


class Runner:
    """A model runner of the first kind, whose layers record what :meth:`Request.ran` says."""

    def __init__(self, places: list[RoutedSite], later: bool) -> None:
        scheduler = SimpleNamespace(max_num_batched_tokens=MOST)
        cache = SimpleNamespace(enable_prefix_caching=False)
        self.vllm_config = SimpleNamespace(scheduler_config=scheduler, cache_config=cache)
        self.places, self.later = places, later
        self.requests: dict[str, Request] = {}
        self.input_batch: Any = None
        self.seen: set[str] = set()
        self.running: list[Request] = []

    def get_model(self) -> Any:
        return None

    def _prepare_inputs(self, step: Any) -> None:
        return

    def execute_model(self, step: Any) -> None:
        if not step.total_num_scheduled_tokens:
            return
        asked = [self.requests[name] for name in step.num_scheduled_tokens]
        counts = step.num_scheduled_tokens
        self.input_batch = SimpleNamespace(
            req_ids=[request.name for request in asked],
            num_computed_tokens_cpu=np.array([request.computed for request in asked] + [99]),
        )
        self._prepare_inputs(step)
        ran = [request.ran(request.computed, request.computed + counts[request.name]) for request in asked]
        experts = torch.from_numpy(np.concatenate(ran))
        for column, place in enumerate(self.places):
            assert place.record is not None
            place.record(experts[:, column])

    def sample_tokens(self, sampled: dict[str, int]) -> Any:
        found = SimpleNamespace(
            sampled_token_ids=[[7] * count for count in sampled.values()],
            req_id_to_index={name: place for place, name in enumerate(sampled)},
            aux_output_connector_output=None,
        )
        return SimpleNamespace(get_output=lambda: found) if self.later else found


def scheduled(random: Random, running: list[Request]) -> dict[str, int]:
    """How many tokens of each request are in the next step: prompts are cut, and some requests have drafts."""
    left, counts = MOST, {}
    for request in random.sample(running, random.randint(1, len(running))):
        ready = request.computed == request.tokens - 1
        request.drafts = min(random.choice([0, 0, 3]), left - 1) if ready and left > 1 else 0
        count = min(request.tokens - request.computed + request.drafts, left, random.choice([2, 5, MOST]))
        if request.drafts and count < 1 + request.drafts:
            request.drafts = count - 1
        if count:
            counts[request.name] = count
            left -= count
    return counts


def native_spans(counts: dict[str, int], requests: dict[str, Request]) -> list[tuple[int, int]]:
    ends = np.cumsum([0, *counts.values()]).tolist()
    return [(ends[place], ends[place + 1]) for place, name in enumerate(counts) if requests[name].native]


def run(random: Random, requests: list[Request], steps: Steps, runner: Runner) -> None:
    """Run every request to its end."""
    waiting, running, ended = list(requests), [], []
    while waiting or running:
        while waiting and (not running or random.random() < 0.5):
            running.append(waiting.pop(0))
            running[-1].tokens = running[-1].prompt
            runner.requests[running[-1].name] = running[-1]
        if random.random() < 0.15:  # there is no memory for one: it begins again later
            taken = random.choice(running)
            taken.computed = 0
            ended.append(taken.name)
        counts, runner.running = scheduled(random, running), running
        wanted = {}
        for name in counts:
            request = runner.requests[name]
            has_output = request.tokens > request.prompt
            wanted[name] = max(min(request.first, request.prompt), request.tokens - 1 if has_output else 0)
        runner_step(random, counts, SimpleNamespace(requests=wanted, finished_requests=tuple(ended)), steps, runner)
        ended = [request.name for request in running if request.tokens - request.prompt >= request.new]
        running = [request for request in running if request.name not in ended]


def runner_step(random: Random, counts: dict[str, int], metadata: Any, steps: Steps, runner: Runner) -> None:
    new = [runner.requests[name] for name in counts if name not in runner.seen]
    runner.seen |= set(counts)
    drafted = {name: [5] * runner.requests[name].drafts for name in counts if runner.requests[name].drafts}
    runner.execute_model(
        SimpleNamespace(
            num_scheduled_tokens=counts,
            total_num_scheduled_tokens=sum(counts.values()),
            scheduled_spec_decode_tokens=drafted,
            scheduled_new_reqs=[
                SimpleNamespace(req_id=each.name, sampling_params=each.sampling_params) for each in new
            ],
            finished_req_ids=set(metadata.finished_requests) - {each.name for each in runner.running},
            aux_output_connector_metadata=metadata,
        )
    )
    assert routed.rows._native == native_spans(counts, runner.requests)
    sampled = {}
    for name, count in counts.items():
        request = runner.requests[name]
        whole = request.computed + count >= request.tokens
        sampled[name] = 1 + random.randint(0, request.drafts) if whole else 0
    output = runner.sample_tokens(sampled)
    found = (output.get_output() if runner.later else output).aux_output_connector_output
    assert set(found) == {name for name, count in sampled.items() if count}
    for name, count in counts.items():
        request = runner.requests[name]
        request.computed += count - (1 + request.drafts - sampled[name] if sampled[name] else 0)
        request.tokens = min(request.tokens + sampled[name], request.prompt + request.new)
        if sampled[name]:
            request.take(found[name])


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), many=st.integers(1, 6), later=st.booleans())
def test_every_request_gets_its_own_rows(seed: int, many: int, later: bool) -> None:
    random = Random(seed)
    router, scheme = Router(2, "softmax", True), Scheme("softmax", False, True, 1.0)
    places = [
        RoutedSite(f"{layer}", site(16, 2), router.answer, scheme, torch.device("cpu"), torch.float32)
        for layer in LAYERS
    ]
    for place, layer in zip(places, LAYERS, strict=True):
        place.site = SimpleNamespace(layer=layer)  # type: ignore[assignment]
    requests = [
        Request(
            number, random.randint(1, 40), random.randint(1, 12), random.choice([0, 0, 3, 99]), random.random() < 0.3
        )
        for number in range(many)
    ]
    runner = Runner(places, later)
    steps = Steps(runner, places, opt_out=True)
    steps.record(None)
    run(random, requests, steps, runner)
    for request in requests:
        first = min(request.first, request.prompt)
        expected = request.ran(first, request.prompt + request.new - 1)
        assert np.array_equal(np.concatenate(request.rows), expected)
    assert steps.recorder is not None
    ended = SimpleNamespace(requests={}, finished_requests=tuple(request.name for request in requests))
    steps.recorder.store.begin_step(ended)
    assert not steps.recorder.store.held
    assert not steps.recorder.store.next


def test_a_step_without_tokens_records_nothing() -> None:
    place = RoutedSite("", site(16, 2), Router(2, "softmax", True).answer, Scheme("softmax", False, True, 1.0),
                       torch.device("cpu"), torch.float32)  # fmt: skip
    runner = Runner([place], False)
    steps = Steps(runner, [place], opt_out=True)
    nothing = {"num_scheduled_tokens": {}, "total_num_scheduled_tokens": 0, "scheduled_spec_decode_tokens": {}}
    empty = SimpleNamespace(**nothing, aux_output_connector_metadata=None)
    runner.execute_model(empty)
    assert runner.sample_tokens({}).aux_output_connector_output is None
    steps.record(None)
    runner.execute_model(empty)
    assert runner.sample_tokens({}).aux_output_connector_output is None
