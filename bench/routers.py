"""What keyed routing costs on a CPU: a router call, decoding and prefill, against the same without a key.

    python bench/routers.py                     # router calls and the embedded models
    python bench/routers.py --slice             # a slice of the 16B shape too: 3 GB of random bfloat16 weights
    python bench/routers.py --json figures.json

Every round runs all ways of routing once, in turn, so that what disturbs one disturbs the others; a ratio is the median
over the rounds of (this way / native in the same round), with the range of the middle half. Times are CPU time of one
thread, which other programs on the machine do not count towards. Router calls go round a stack of routers with their
own weights and states, as a model's layers do. Prints Markdown tables.
"""

import argparse
import json
import math
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2TopkRouter

import okr
from okr.attach import engine
from okr.loaders.deepseek import DeepseekConfig, DeepseekForCausalLM

INF = math.inf
SETTINGS = {
    "max 2.0": {"epsilon": 2.0, "zone": "max", "strength": INF},
    "boundary, strength 1": {"epsilon": INF, "zone": "boundary", "strength": 1.0},
}
SHAPES = {"16B: E=64 d=2048 k=6": 2048, "embedded: E=64 d=160 k=6": 160}
TOKENS = {1: 400, 64: 40, 512: 8, 8192: 1}  # tokens a call -> calls a round
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

    def __init__(self, hidden_size: int, layers: int) -> None:
        super().__init__()
        config = DeepseekConfig(hidden_size=hidden_size, num_attention_heads=hidden_size // 16)
        self.layers = nn.ModuleList(Block(config) for _ in range(layers))


@contextmanager
def intercepted(model: nn.Module, setting: dict[str, Any]) -> Iterator[None]:
    """Keyed by the general engine, also where a fused router stands ready."""
    fused_for, engine.fused_for = engine.fused_for, lambda module: None
    try:
        with okr.watermark(model, KEY, **setting):
            yield
    finally:
        engine.fused_for = fused_for


def paired(ways: Ways, work: Callable[[], Any], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of ``work`` under each way, round by round, the ways in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            with ways[name]():
                work()  # what is made at the first call
                start = time.process_time()
                work()
                seconds[name].append(time.process_time() - start)
    return seconds


def row(what: dict[str, Any], seconds: dict[str, list[float]], calls: int) -> dict[str, Any]:
    """Medians in microseconds a call, and ratios to native as [lower quartile, median, upper quartile]."""
    native = np.array(seconds["native"])
    ratios = {n: np.quantile(np.array(s) / native, [0.25, 0.5, 0.75]) for n, s in seconds.items() if n != "native"}
    return {
        **what,
        "microseconds": {name: round(float(np.median(s)) / calls * 1e6, 1) for name, s in seconds.items()},
        "ratio": {name: [round(float(q), 3) for q in quartiles] for name, quartiles in ratios.items()},
    }


def router_calls(rounds: int) -> Iterator[dict[str, Any]]:
    for shape, hidden_size in SHAPES.items():
        stack = Stack(hidden_size, layers=8)
        for tokens, calls in TOKENS.items():
            states = [torch.randn(1, tokens, hidden_size) for _ in range(8 if tokens < 8192 else 2)]

            def work(stack: Stack = stack, states: list[torch.Tensor] = states, calls: int = calls) -> None:
                for call in range(calls):
                    stack.layers[call % 8].gate(states[call % len(states)])

            for name, setting in SETTINGS.items():
                ways: Ways = {
                    "native": nullcontext,
                    "general": lambda m=stack, s=setting: intercepted(m, s),
                    "fused": lambda m=stack, s=setting: okr.watermark(m, KEY, **s),
                }
                yield row({"shape": shape, "tokens": tokens, "setting": name}, paired(ways, work, rounds), calls)


def models(name: str, model: nn.Module, long: torch.Tensor, new_tokens: int, rounds: int) -> Iterator[dict[str, Any]]:
    """Decoding after the first tokens of ``long`` [1, T], and prefill of all of it, keyed against unkeyed."""
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


def slice_of_16b() -> nn.Module:
    """Two routed layers, embedding and head of the 16B shape, random bfloat16 weights."""
    config = DeepseekConfig(vocab_size=102400, num_hidden_layers=2, first_k_dense_replace=0, moe_intermediate_size=1408)
    with torch.device("meta"):
        model = DeepseekForCausalLM(config).to(torch.bfloat16)
    model = model.to_empty(device="cpu").eval()
    for parameter in model.parameters():
        parameter.data = torch.randn(1 << 20).mul_(0.02).to(torch.bfloat16).repeat(
            -(-parameter.numel() >> 20) + 1
        )[: parameter.numel()].view_as(parameter)  # fmt: skip
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    return model


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


def machine() -> dict[str, str]:
    info = Path("/proc/cpuinfo")
    named = [line for line in info.read_text().splitlines() if "model name" in line] if info.exists() else []
    return {
        "processor": named[0].partition(":")[2].strip() if named else platform.processor(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": np.__version__,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slice", action="store_true", help="measure a slice of the 16B shape too")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    figures: dict[str, Any] = {"machine": machine()}
    print(figures["machine"])
    figures["routers"] = list(router_calls(arguments.rounds))
    print(f"\n{table(figures['routers'])}\n", flush=True)
    figures["models"] = []
    text = " ".join(passage.text for passage in okr.loaders.passages(3))
    for name in ("tiny-deepseek-moe", "tiny-switch"):
        loaded = okr.load(name)
        tokens = loaded.tokenizer(text, return_tensors="pt")["input_ids"][:, :512]
        figures["models"] += models(name, loaded.model, tokens, 64, arguments.rounds)
    if arguments.slice:
        tokens = torch.randint(10, 100_000, (1, 1024))
        figures["models"] += models("16B, two routed layers", slice_of_16b(), tokens, 8, max(5, arguments.rounds // 2))
    print(table(figures["models"]), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
