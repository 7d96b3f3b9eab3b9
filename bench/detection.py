"""What verification and detection take, beside making the text.

    python bench/detection.py --out docs/data/detection-speed.json

On the embedded tiny-deepseek-moe, and with ``--slice`` on two routed layers of the 16B shape in bfloat16 (about 3 GB),
one CPU thread. Runs are paired and interleaved; ratios are medians over pairs with their quartiles.
"""

import argparse
import hashlib
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import okr
from okr.attach import Setting
from okr.attach.engine import keyable_sites
from okr.detection.decoys import Decoys
from okr.detection.likelihood import Text, likelihoods
from okr.loaders.deepseek import DeepseekConfig, DeepseekForCausalLM, register

SETTING = {"epsilon": math.inf, "zone": "boundary", "strength": 1.0}
KEY = okr.Key(hashlib.sha256(b"bench detection").digest())


def slice_of_16b() -> nn.Module:
    """Two routed layers of DeepSeek-MoE-16B's shape with random weights and a small vocabulary, bfloat16."""
    register()
    config = DeepseekConfig(
        vocab_size=4096,
        hidden_size=2048,
        intermediate_size=10944,
        num_hidden_layers=2,
        first_k_dense_replace=0,
        num_attention_heads=16,
        max_position_embeddings=4096,
        moe_intermediate_size=1408,
        n_routed_experts=64,
        num_experts_per_tok=6,
        n_shared_experts=2,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        return DeepseekForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(torch.float32)


def timed(work: Callable[[], object]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def paired(first: Callable[[], object], second: Callable[[], object], rounds: int) -> dict[str, float]:
    """Median and quartiles of second / first, and both medians in seconds."""
    first(), second()
    pairs = [(timed(first), timed(second)) for _ in range(rounds)]
    ratios = sorted(b / a for a, b in pairs)
    low, _, high = statistics.quantiles(ratios, n=4)
    return {
        "ratio": round(statistics.median(ratios), 3),
        "low": round(low, 3),
        "high": round(high, 3),
        "first_s": round(statistics.median(a for a, _ in pairs), 3),
        "second_s": round(statistics.median(b for _, b in pairs), 3),
    }


def verification(model: nn.Module, tokens: int, rounds: int) -> dict[str, float]:
    """Verifying a sample with 999 decoys over generating it, at batch 1 under the key."""
    ids = torch.randint(3, 4096, (1, 16))
    traces = []

    def make() -> None:
        with okr.watermark(model, KEY, **SETTING) as watermark:
            length = {"max_new_tokens": tokens, "min_new_tokens": tokens}
            traces.append(watermark.generate(input_ids=ids, do_sample=True, top_k=0, **length).traces[0])

    return paired(make, lambda: okr.verify(model, traces[-1], KEY), rounds)


def detection(model: nn.Module, tokens: int, rounds: int, rows: int) -> dict[str, float]:
    """63 decoys side by side over 64 separate passes, each under a key of its own."""
    text = torch.randint(3, 4096, (tokens,))
    keys = [okr.Key(hashlib.sha256(f"separate {number}".encode()).digest()) for number in range(64)]

    def separate() -> None:
        for key in keys:
            with torch.no_grad(), okr.watermark(model, key, **SETTING):
                logits = model(input_ids=text[None, :-1], use_cache=False).logits.float()
                torch.nn.functional.cross_entropy(logits[0], text[1:])

    return paired(separate, lambda: okr.detect(model, text, KEY, decoys=63, rows=rows, **SETTING), rounds)


def memory(model: nn.Module, tokens: int) -> dict[str, float]:
    """Peak memory that scoring adds, in MB, at 15, 63 and 255 decoys, by torch's own allocator statistics."""
    sites, setting = keyable_sites(model), Setting(math.inf, "boundary", 1.0)
    text, found = Text(torch.randint(3, 4096, (tokens,)), 1, None), {}
    for decoys in (15, 63, 255):
        images = [Decoys.draw(decoys, site.num_experts, b"memory--") for site in sites]
        with torch.profiler.profile(profile_memory=True) as profile:
            likelihoods(model, sites, [text], KEY, setting, images, temperature=1.0, rows=8, unkeyed=False)
        held = peak = 0
        for event in profile.profiler.kineto_results.events():
            if event.name() == "[memory]":
                held += event.nbytes()
                peak = max(peak, held)
        found[str(decoys)] = round(peak / 2**20, 1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--slice", action="store_true", help="also two routed layers of the 16B shape")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    models = {"tiny-deepseek-moe": (okr.load("tiny-deepseek-moe").model, 80, 16)}
    if arguments.slice:
        models["two layers of the 16B shape"] = (slice_of_16b(), 48, 8)
    result = {"date": time.strftime("%Y-%m-%d"), "torch": torch.__version__, "models": {}}
    for name, (model, tokens, rows) in models.items():
        rounds = arguments.rounds if name.startswith("tiny") else 3
        result["models"][name] = {
            "tokens": tokens,
            "verify 999 decoys / generate at batch 1": verification(model, tokens, rounds),
            "detect 63 decoys / 64 passes": detection(model, tokens, rounds, rows),
            "peak MB by decoys, 8 rows": memory(model, tokens) if name.startswith("tiny") else None,
        }
        print(json.dumps(result["models"][name], indent=2), flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
