"""What a watermark adds to memory, at its peak, and how large its traces are.

    python bench/memory.py              # the embedded models; the 16B shape by arithmetic
    python bench/memory.py --slice      # two routed layers of the 16B shape too: 3 GB of random bfloat16 weights

The peak is that of everything torch allocates during a prefill and eight decoded tokens, attaching included, keyed less
unkeyed: on the CPU by torch's own allocation events, on a card by its allocator. Prints a Markdown table.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import routers
import torch
from torch import nn

import okr
from okr.pages.machine import machine

SETTINGS = routers.SETTINGS
FULL = {"layers": 27, "hidden_size": 2048, "experts": 64, "parameters": 16_375_728_128}
"""DeepSeek-MoE-16B; the projection is float32, the weights bfloat16."""


def peak(work: Callable[[], object], device: str = "cpu") -> int:
    """The most bytes of ``device`` that ``work`` held at once beyond what was there before."""
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(profile_memory=True) as profile:
        work()
    held = highest = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            highest = max(highest, held)
    return highest


def size_of(model: nn.Module) -> int:
    return sum(part.numel() * part.element_size() for part in (*model.parameters(), *model.buffers()))


@torch.no_grad()
def added(model: nn.Module, tokens: torch.Tensor) -> dict[str, Any]:
    """What a watermark adds to the peak of prefill and decoding of ``tokens`` [B, T], in bytes, and its share."""
    device = tokens.device.type

    def work() -> None:
        model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=8, min_new_tokens=8)

    def keyed(setting: dict[str, Any]) -> None:
        with okr.watermark(model, routers.KEY, **setting):
            work()

    work()  # what is made at the first call
    native = peak(work, device)
    most = max(peak(lambda setting=setting: keyed(setting), device) for setting in SETTINGS.values())
    whole = size_of(model)
    return {"model": whole, "native": native, "added": most - native, "share": max(0, most - native) / whole}


def bytes_per_choice(model: nn.Module, prompt: torch.Tensor) -> float:
    """Bytes that a saved trace's tensors take for each expert that ran, token ids included."""
    with okr.watermark(model, routers.KEY, **SETTINGS["max 2.0"]) as watermark:
        trace = watermark.generate(input_ids=prompt, max_new_tokens=32, min_new_tokens=32).traces[0]
    return trace.experts.nbytes / trace.experts.size


def measured(*, with_slice: bool = False) -> dict[str, Any]:
    """``memory``: peaks by model; ``trace``: bytes an expert choice; ``arithmetic``: projections of the 16B shape."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    loaded = okr.load("tiny-deepseek-moe")
    text = " ".join(passage.text for passage in okr.loaders.passages(3))
    tokens = loaded.tokenizer(text, return_tensors="pt")["input_ids"][:, :512]
    found = {"tiny-deepseek-moe, 512 tokens": added(loaded.model, tokens)}
    if with_slice:
        found["16B, two routed layers, 1024 tokens"] = added(
            routers.slice_of_16b(), torch.randint(10, 100_000, (1, 1024))
        )
    projections = FULL["layers"] * FULL["hidden_size"] * FULL["experts"] * 4
    found["16B, by arithmetic: the projections"] = {
        "model": 2 * FULL["parameters"], "added": projections, "share": projections / (2 * FULL["parameters"])
    }  # fmt: skip
    return {"machine": machine(), "memory": found, "trace": bytes_per_choice(loaded.model, tokens[:, :16])}


def table(figures: dict[str, Any]) -> str:
    """The peaks as a Markdown table."""
    lines = ["| model | weights, MB | peak beside them, unkeyed, MB | added by a key, MB | of the model |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for name, found in figures["memory"].items():
        native = f"{found['native'] / 2**20:,.1f}" if "native" in found else ""
        sizes = f"{found['model'] / 2**20:,.1f} | {native} | {found['added'] / 2**20:,.1f}"
        lines.append(f"| {name} | {sizes} | {found['share']:.2%} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slice", action="store_true", help="measure a slice of the 16B shape too")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    figures = measured(with_slice=arguments.slice)
    print(f"{table(figures)}\n\nTraces: {figures['trace']:g} bytes an expert choice.")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
