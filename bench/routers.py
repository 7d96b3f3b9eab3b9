"""What keyed routing costs: a router call, decoding and prefill, against the same without a key.

    python bench/routers.py                     # router calls and the embedded models
    python bench/routers.py --slice             # a slice of the 16B shape too: 3 GB of random bfloat16 weights
    python bench/routers.py --device cuda       # router calls on a card; bench/on_card.py runs the whole 16B shape
    python bench/routers.py --json figures.json

Every round runs all ways of routing once, in turn, so that what disturbs one disturbs the others; a ratio is the median
over the rounds of (this way / native in the same round), with the range of the middle half. Times are CPU time of one
thread, which other programs on the machine do not count towards; on a card, time until the card is done. Router calls
go round a stack of routers with their own weights and states, as a model's layers do. ``bound`` is what moving a call's
states, weights and answers through memory takes by itself, at the speed of a copy of 256 MB. Prints Markdown tables.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import timing
import torch
from torch import nn
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2TopkRouter

import okr
from okr.engines.transformers import proof
from okr.loaders.deepseek import DeepseekConfig
from okr.loaders.random_weights import SHAPE, random_model
from okr.pages.machine import machine

INF = math.inf
SETTINGS = {
    "max 2.0": {"epsilon": 2.0, "zone": "max", "strength": INF},
    "boundary, strength 1": {"epsilon": INF, "zone": "boundary", "strength": 1.0},
}
Shape = tuple[int, int, int]  # experts, hidden size, top-k
SHAPES: dict[str, Shape] = {"16B": (64, 2048, 6), "embedded": (64, 160, 6)}
TOKENS = {1: 400, 64: 40, 512: 8, 8192: 1}  # tokens a call -> calls a round
EXPERTS: dict[str, Shape] = {f"{e} experts": (e, 2048, k) for e, k in ((8, 2), (32, 4), (64, 6), (128, 8), (256, 8))}
KEY = okr.Key.from_passphrase("measuring what keys cost")
Ways = dict[str, Callable[[], AbstractContextManager[Any]]]


class Block(nn.Module):
    """A router beside experts that nobody runs."""

    def __init__(self, config: DeepseekConfig) -> None:
        super().__init__()
        self.gate = DeepseekV2TopkRouter(config)
        nn.init.normal_(self.gate.weight, std=config.hidden_size**-0.5)
        self.experts = nn.ModuleList(nn.Identity() for _ in range(config.num_experts))


class Stack(nn.Module):
    """Routers of as many layers."""

    def __init__(self, shape: Shape, layers: int) -> None:
        super().__init__()
        experts, hidden_size, top_k = shape
        config = DeepseekConfig(
            hidden_size=hidden_size,
            num_attention_heads=hidden_size // 16,
            n_routed_experts=experts,
            num_experts_per_tok=top_k,
        )
        self.layers = nn.ModuleList(Block(config) for _ in range(layers))


@contextmanager
def intercepted(model: nn.Module, setting: dict[str, Any]) -> Iterator[None]:
    """Keyed by the general engine, also where a fused router stands ready."""
    fused_for, proof.fused_for = proof.fused_for, lambda module: []
    try:
        with okr.watermark(model, KEY, **setting):
            yield
    finally:
        proof.fused_for = fused_for


def paired(ways: Ways, work: Callable[[], Any], rounds: int, device: str = "cpu") -> dict[str, list[float]]:
    """Seconds of ``work`` under each way, round by round, the ways in turn."""
    return timing.paired({name: timing.within(way, work, device) for name, way in ways.items()}, rounds)


def bandwidth(device: str) -> float:
    """Bytes a second that copies of 256 MB read and write, the median of nine. On a card ten copies follow each other,
    so that waiting for it does not count."""
    source, copies = torch.ones(1 << 26, device=device), 1 if device == "cpu" else 10
    target = torch.empty_like(source)

    def copy() -> None:
        for _ in range(copies):
            target.copy_(source)

    once = timing.timed(copy, device)
    return 2 * copies * source.nbytes / sorted(once() for _ in range(9))[4]


def row(what: dict[str, Any], seconds: dict[str, list[float]], calls: int) -> dict[str, Any]:
    """Medians in microseconds a call, and ratios to native as [lower quartile, median, upper quartile]."""
    native = np.array(seconds["native"])
    ratios = {n: np.quantile(np.array(s) / native, [0.25, 0.5, 0.75]) for n, s in seconds.items() if n != "native"}
    return {
        **what,
        "microseconds": {name: round(float(np.median(s)) / calls * 1e6, 1) for name, s in seconds.items()},
        "ratio": {name: [round(float(q), 3) for q in quartiles] for name, quartiles in ratios.items()},
    }


class Calls:
    """``calls`` calls of the routers of a stack, one after another, with ``tokens`` tokens each. ``nbytes`` is what one
    of them must read and write: states, the gate's weight, the projection, and its answers."""

    def __init__(self, shape: Shape, tokens: int, calls: int, device: str) -> None:
        experts, hidden_size, top_k = shape
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        self.stack, self.calls = Stack(shape, layers=8).to(device, dtype), calls
        count = 8 if tokens < 8192 or device != "cpu" else 2
        self.states = [torch.randn(1, tokens, hidden_size, device=device, dtype=dtype) for _ in range(count)]
        read = dtype.itemsize * hidden_size * (tokens + experts) + 4 * hidden_size * experts
        self.nbytes = read + tokens * (4 * experts + 12 * top_k)

    def __call__(self) -> None:
        for call in range(self.calls):
            self.stack.layers[call % 8].gate(self.states[call % len(self.states)])

    def ways(self, setting: dict[str, Any]) -> Ways:
        """Native, and keyed by the general engine and by the hand-written forward."""
        return {
            "native": nullcontext,
            "general": lambda: intercepted(self.stack, setting),
            "fused": lambda: okr.watermark(self.stack, KEY, **setting),
        }


def router_calls(
    rounds: int, shapes: dict[str, Shape], tokens_and_calls: dict[int, int], device: str = "cpu"
) -> Iterator[dict[str, Any]]:
    """Every shape with as many tokens a call as asked, under both settings."""
    speed = bandwidth(device)
    for name, shape in shapes.items():
        experts, hidden_size, top_k = shape
        for tokens, count in tokens_and_calls.items():
            calls = Calls(shape, tokens, count, device)
            for setting_name, setting in SETTINGS.items():
                what = {"shape": f"{name}: E={experts} d={hidden_size} k={top_k}", "tokens": tokens}
                what |= {"setting": setting_name, "bound, µs": round(calls.nbytes / speed * 1e6, 1)}
                yield row(what, paired(calls.ways(setting), calls, rounds, device), count)


def models(name: str, model: nn.Module, long: torch.Tensor, new_tokens: int, rounds: int) -> Iterator[dict[str, Any]]:
    """Decoding after the first tokens of ``long`` [1, T], and prefill of it all, keyed and unkeyed."""
    short = long[:, :16]
    work = {
        f"decode, {new_tokens} tokens": lambda: model.generate(
            short, attention_mask=torch.ones_like(short), max_new_tokens=new_tokens, min_new_tokens=new_tokens,
            do_sample=False,
        ),
        f"prefill, {long.shape[1]} tokens": lambda: model(
            input_ids=long, **({"decoder_input_ids": long} if model.config.is_encoder_decoder else {})
        ),
    }  # fmt: skip
    for setting_name, setting in SETTINGS.items():
        ways: Ways = {"native": nullcontext, "keyed": lambda s=setting: okr.watermark(model, KEY, **s)}
        for what, do in work.items():
            yield row({"model": name, "work": what, "setting": setting_name}, paired(ways, do, rounds), 1)


def slice_of_16b(vocab_size: int = SHAPE["vocab_size"]) -> nn.Module:
    """Two routed layers, embedding and head of the 16B shape, random bfloat16 weights on the CPU."""
    cut = {"num_hidden_layers": 2, "first_k_dense_replace": 0, "vocab_size": vocab_size}
    return random_model(DeepseekConfig(**SHAPE | cut))


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown: what was measured, microseconds, ratios with the middle half of the rounds."""
    labels = [name for name in rows[0] if name not in ("microseconds", "ratio")]
    times, ratios = list(rows[0]["microseconds"]), list(rows[0]["ratio"])
    head = [*labels, *(f"{name}, µs" for name in times), *(f"{name} / native" for name in ratios)]
    lines = [head, ["---"] * len(head)]
    for entry in rows:
        figures = [f"{entry['microseconds'][name]:,.0f}" for name in times]
        spread = [f"{q[1]:.2f} ({q[0]:.2f}-{q[2]:.2f})" for q in (entry["ratio"][name] for name in ratios)]
        lines.append([*(str(entry[name]) for name in labels), *figures, *spread])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def on_cpu(rounds: int, with_slice: bool) -> Iterator[dict[str, Any]]:
    """Decoding and prefill of the embedded models and, if asked for, of the slice."""
    text = " ".join(passage.text for passage in okr.loaders.passages(3))
    for name in ("tiny-deepseek-moe", "tiny-switch"):
        loaded = okr.load(name)
        tokens = loaded.tokenizer(text, return_tensors="pt")["input_ids"][:, :512]
        yield from models(name, loaded.model, tokens, 64, rounds)
    if with_slice:
        tokens = torch.randint(10, 100_000, (1, 1024))
        yield from models("16B, two routed layers", slice_of_16b(), tokens, 8, max(5, rounds // 2))


@torch.no_grad()
def measured(rounds: int, *, device: str = "cpu", with_slice: bool = False) -> dict[str, Any]:
    """``routers`` by tokens, ``experts`` by experts and, on the CPU, ``models``; printed as they come."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    figures: dict[str, Any] = {"machine": machine(device)}
    print(figures["machine"], flush=True)
    parts = {
        "routers": router_calls(rounds, SHAPES, TOKENS, device),
        "experts": router_calls(rounds, EXPERTS, {512: 8}, device),
    } | ({"models": on_cpu(rounds, with_slice)} if device == "cpu" else {})
    for name, rows in parts.items():
        figures[name] = list(rows)
        print(f"\n{table(figures[name])}", flush=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slice", action="store_true", help="measure a slice of the 16B shape too")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    figures = measured(arguments.rounds, device=arguments.device, with_slice=arguments.slice)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
