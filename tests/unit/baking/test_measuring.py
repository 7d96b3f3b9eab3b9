"""Which gates are linear in the router's input, and what is refused by name."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from small_models import random_deepseek
from torch import Tensor, nn

from okr.baking import Checkpoint
from okr.baking.measuring import LINEAR, Seen, departure, gates_of
from okr.engines import prepare
from okr.errors import UnsupportedRouter
from tests.unit.baking.seen_routers import seen_while

TOKENS, EXPERTS, HIDDEN = 40, 16, 24


def drawn(seed: int) -> tuple[Tensor, Tensor]:
    """A router's inputs and its gate, with a mean that all experts share."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(TOKENS, HIDDEN, generator=generator, dtype=torch.float64)
    return hidden, torch.randn(EXPERTS, HIDDEN, generator=generator, dtype=torch.float64) / HIDDEN**0.5


RANKED = {
    "logits": lambda logits: logits,
    "log softmax": lambda logits: logits.log_softmax(-1),
    "softmax": lambda logits: logits.softmax(-1),
    "sigmoid": lambda logits: logits.sigmoid(),
    "root of softplus": lambda logits: torch.nn.functional.softplus(logits).sqrt(),
}


@given(seed=st.integers(0, 99), form=st.sampled_from(sorted(RANKED)), barred=st.floats(0, 0.7), bias=st.booleans())
def test_what_families_rank_follows_from_the_logits(seed: int, form: str, barred: float, bias: bool) -> None:
    hidden, weight = drawn(seed)
    logits = hidden @ weight.t()
    generator = torch.Generator().manual_seed(seed)
    choice = RANKED[form](logits) + bias * torch.randn(EXPERTS, generator=generator, dtype=torch.float64)
    choice[torch.rand(choice.shape, generator=generator) < barred] = -math.inf
    assert departure(choice, logits) < 1e-4


@given(seed=st.integers(0, 99), kept=st.integers(2, 7))
def test_barred_groups_of_experts_are_no_departure(seed: int, kept: int) -> None:
    """Where two of eight groups are left, tokens and experts overlap little, and their constants are found slowly."""
    hidden, weight = drawn(seed)
    logits, generator = hidden @ weight.t(), torch.Generator().manual_seed(seed)
    choice = logits.log_softmax(-1) + torch.randn(EXPERTS, generator=generator, dtype=torch.float64)
    barred = torch.rand(TOKENS, 8, generator=generator).argsort(-1) >= kept
    choice[barred.repeat_interleave(EXPERTS // 8, 1)] = -math.inf
    assert departure(choice, logits) < 1e-9


NOT_LINEAR = {
    "normed input": lambda hidden, weight: (hidden / hidden.norm(dim=-1, keepdim=True)) @ weight.t() * HIDDEN**0.5,
    "multiplied": lambda hidden, weight: 1.5 * hidden @ weight.t(),
    "bent": lambda hidden, weight: (hidden @ weight.t()).tanh(),
    "another weight": lambda hidden, weight: hidden @ weight.flip(0).t(),
    "two layers": lambda hidden, weight: hidden.relu() @ weight.t(),
}


@given(seed=st.integers(0, 99), kind=st.sampled_from(sorted(NOT_LINEAR)), form=st.sampled_from(sorted(RANKED)))
def test_what_does_not_follow_departs(seed: int, kind: str, form: str) -> None:
    hidden, weight = drawn(seed)
    choice = RANKED[form](NOT_LINEAR[kind](hidden, weight))
    assert departure(choice, hidden @ weight.t(), torch.finfo(torch.float32).eps) > LINEAR


@given(seed=st.integers(0, 99), offset=st.floats(-30, 30))
def test_the_rounding_of_bfloat16_is_no_departure(seed: int, offset: float) -> None:
    """Logits that lie close together far from 0 round by as much as they differ."""
    hidden, weight = (part.bfloat16() for part in drawn(seed))
    hidden[:, 0] = 1.0
    weight[:, 0] = offset
    logits = hidden.double() @ weight.double().t()
    assert departure((hidden @ weight.t()).double(), logits, torch.finfo(torch.bfloat16).eps) < LINEAR


class Room:
    """A random DeepSeek-MoE in a folder, and what its routers showed."""

    def __init__(self, folder: Path, model: nn.Module) -> None:
        self.folder, self.engine = folder, prepare(model)
        model.save_pretrained(folder)
        texts = [torch.randint(3, 256, (1, 120)) for _ in range(3)]
        self.seen = seen_while(self.engine, lambda: [model(input_ids=text) for text in texts])

    def gates(self, folder: Path | None = None) -> Any:
        return gates_of(self.engine, Checkpoint(folder or self.folder), "small", self.seen)

    def refusal(self, folder: Path | None = None) -> str:
        with pytest.raises(UnsupportedRouter) as caught:
            self.gates(folder)
        return str(caught.value)


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path / "model", random_deepseek())


def test_the_first_tokens_of_all_texts_are_tried(room: Room) -> None:
    assert [sum(map(len, each.hidden)) for each in room.seen] == [256, 256]
    assert [sum(map(len, each.norms)) for each in room.seen] == [360, 360]
    assert [gate.layer for gate in room.gates().gates] == [1, 2]


def test_a_router_that_never_ran_is_named(room: Room) -> None:
    room.seen[1] = Seen()
    assert "model.layers.2.mlp.gate cannot be baked: it never ran" in room.refusal()


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_an_input_without_a_norm_is_named(value: float, room: Room) -> None:
    room.seen[0].norms = [torch.tensor([value])]
    assert f"model.layers.1.mlp.gate cannot be baked: the mean norm of its input is {value}" in room.refusal()


def test_a_gate_that_is_not_linear_is_named(room: Room) -> None:
    room.seen[1].choice = [choice * 1.2 for choice in room.seen[1].choice]
    line = room.refusal()
    assert line.startswith("model.layers.2.mlp.gate (")
    assert line.endswith("cannot be baked: its scores do not follow from its input times weight")


def other(room: Room, change: Any) -> Path:
    """The checkpoint with other tensors."""
    folder = room.folder.parent / "other"
    folder.mkdir()
    save_file(change(load_file(room.folder / "model.safetensors")), folder / "model.safetensors")
    return folder


GATES = ("model.layers.1.mlp.gate.weight", "model.layers.2.mlp.gate.weight")


def test_a_gate_under_another_name_is_known_by_its_values(room: Room) -> None:
    def renamed(held: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name.replace("mlp.gate", "ffn.router"): value for name, value in held.items()}

    found = room.gates(other(room, renamed)).gates
    assert [gate.tensor for gate in found] == [name.replace("mlp.gate", "ffn.router") for name in GATES]
    assert [gate.parameter for gate in found] == list(GATES)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda held: held | {GATES[0]: held[GATES[0]].to(torch.int8)}, "quantised gates, and checkpoints that store"),
        (lambda held: held | {GATES[0]: held[GATES[0]].to(torch.float8_e4m3fn)}, "quantised gates"),
        (
            lambda held: held | {GATES[0]: held[GATES[0]].t().contiguous()},
            "quantised gates, and checkpoints that store",
        ),
        (lambda held: held | {GATES[0]: held[GATES[0]] + 1}, "quantised gates, and checkpoints that store"),
        (lambda held: held | {"more": held[GATES[0]].clone()}, "and another gate are the same, so a key cannot part"),
    ],
    ids=["int8", "float8", "transposed", "another", "twice"],
)
def test_a_gate_that_is_no_one_tensor_of_the_checkpoint_is_named(change: Any, said: str, room: Room) -> None:
    line = room.refusal(other(room, change))
    assert line.startswith("model.layers.1.mlp.gate: ")
    assert said in line


def test_gates_that_two_routers_share_are_named(tmp_path: Path) -> None:
    model = random_deepseek()
    with torch.no_grad():
        model.get_parameter(GATES[1]).copy_(model.get_parameter(GATES[0]))
    assert "so a key cannot part them" in Room(tmp_path / "model", model).refusal()
