"""Bakes the random models of the zoo, and runs a baked model and its original on the same router inputs."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from okr import Key
from okr.baking import Checkpoint, Gate, Gates, Header, bake
from okr.baking.measuring import gates_of
from okr.discovery import RouterSite, discover
from okr.engines import prepare
from tests.unit.baking.seen_routers import seen_while
from tests.unit.discovery.zoo import FAMILIES, VARIANTS, build, model_class, run
from tests.unit.engines.transformers.families.observed import Call, calls_of
from tests.unit.engines.transformers.families.oracle import RULES, choice_scores

ALL = {**FAMILIES, **VARIANTS}
STRENGTH = 0.1


def save(name: str, folder: Path) -> nn.Module:
    """The zoo's model ``name``, written into ``folder``."""
    model = build(name)
    with torch.no_grad():
        model.save_pretrained(folder)
    return model


def gates(model: nn.Module, name: str, folder: Path, seeds: Sequence[int] = (0,)) -> Gates:
    """What is measured of the gates of ``model`` in ``folder`` on the family's own inputs."""
    engine = prepare(model)
    seen = seen_while(engine, lambda: [run(model, name, seed) for seed in seeds])
    return gates_of(engine, Checkpoint(folder), name, seen)


def load(name: str, folder: Path) -> nn.Module:
    """The model in ``folder``, as transformers loads it."""
    how = {"attn_implementation": "eager", "experts_implementation": "eager"}
    return model_class(ALL[name]).from_pretrained(folder, **how).eval()


@dataclass(frozen=True)
class Side:
    """One gate at one forward of a baked model, and the original on the same inputs; ``shift`` [T, E] is what baking
    must have added to the logits of the original, and ``keys`` [T, E] are the key scores."""

    gate: Gate
    baked: Call
    original: Call
    shift: np.ndarray
    keys: np.ndarray

    def choice(self, logits: np.ndarray) -> np.ndarray:
        """What the family ranks, given its logits, by the oracle: c [T, E]."""
        call = self.original
        return choice_scores(RULES[call.site.router_class], logits, call.bias, _groups(call.router))

    @property
    def ranks(self) -> str:
        """What the family ranks, in words."""
        call = self.original
        rule = RULES[call.site.router_class]
        words = {"logits": "logits", "probabilities": "softmax"}.get(rule.choice, rule.choice)
        words += " + bias" if call.bias is not None else ""
        return words + (" in groups" if rule.groups and (_groups(call.router) or (1,))[0] > 1 else "")

    @property
    def live(self) -> np.ndarray:
        """The experts [T, k] of keyed routing at the same strength."""
        return top(self.choice(self.original.logits) + STRENGTH * self.keys, self.baked.experts.shape[1])


def top(scores: np.ndarray, count: int) -> np.ndarray:
    return np.argsort(-scores, -1, kind="stable")[:, :count]


@torch.no_grad()
def sides(original: nn.Module, baked: nn.Module, name: str, header: Header, key: Key, seed: int = 0) -> Iterator[Side]:
    """Every gate at one forward of ``baked``, and at the same inputs in ``original``."""
    sites = [site for site in discover(baked) if site.keyable]
    with calls_of(baked, sites) as ran:
        run(baked, name, seed)
    inputs = {call.site.path: torch.from_numpy(call.hidden).float() for call in ran}
    with _fed(original, sites, inputs), calls_of(original, sites) as same:
        run(original, name, seed)
    before = {call.site.path: call for call in same}
    held = {(gate.stack, gate.layer): gate for gate in header.gates}
    for call in ran:
        gate, native = held[call.site.stack, call.site.layer], before[call.site.path]
        assert np.array_equal(native.hidden, call.hidden)
        signs = gate.signs(key).astype(float)
        length = np.linalg.norm(call.hidden, axis=-1, keepdims=True)
        shift = header.strength / gate.norm * (call.hidden @ signs)
        yield Side(gate, call, native, shift, call.hidden @ signs / np.where(length, length, 1.0))


@contextmanager
def _fed(model: nn.Module, sites: Sequence[RouterSite], inputs: dict[str, torch.Tensor]) -> Iterator[None]:
    """Every router of ``model`` gets the given input [T, d] in place of its own."""
    with ExitStack() as undo:
        for site in sites:

            def feed(module: nn.Module, args: tuple, kwargs: dict[str, Any], path: str = site.path) -> Any:
                own = args[0] if args else next(iter(kwargs.values()))
                fed = inputs[path].view(own.shape)
                return ((fed, *args[1:]), kwargs) if args else (args, {**kwargs, next(iter(kwargs)): fed})

            module = model.get_submodule(site.path)
            undo.callback(module.register_forward_pre_hook(feed, with_kwargs=True, prepend=True).remove)
        yield


def _groups(router: nn.Module) -> tuple[int, int] | None:
    count, kept = getattr(router, "num_group", None), getattr(router, "topk_group", None)
    if count is None or getattr(router, "topk_method", "group_limited_greedy") != "group_limited_greedy":
        return None
    return count, kept


def bake_family(
    name: str, folder: Path, key: Key, strength: float = STRENGTH, seeds: Sequence[int] = (0,)
) -> tuple[nn.Module, nn.Module, Header]:
    """The zoo's model ``name``, the same baked and loaded again from ``folder``, and its header."""
    (folder / "original").mkdir(parents=True)
    original = save(name, folder / "original")
    measured = gates(original, name, folder / "original", seeds)
    header = bake(folder / "original", folder / "baked", key, measured, strength)
    return original, load(name, folder / "baked"), header
