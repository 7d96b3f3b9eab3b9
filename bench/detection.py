"""What verification and detection take, beside making the text.

    python bench/detection.py --json figures.json
    python bench/detection.py --slice           # two routed layers of the 16B shape too, bfloat16, about 2 GB

One CPU thread; CPU time. Runs are paired and interleaved; ratios are medians over pairs with their quartiles.
"""

import argparse
import json
import math
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import routers
import torch
from memory import peak
from timing import compared, timed
from torch import nn

import okr
from okr.detection import draw_decoys, likelihoods
from okr.engines import Text
from okr.pages.machine import machine
from okr.pages.markdown import rows_table
from okr.routing import Setting

SETTING = {"epsilon": math.inf, "zone": "boundary", "strength": 1.0}
KEY = okr.Key.public("bench detection")


def making_and_judging(model: Any, tokens: int) -> tuple[Callable[[], None], Callable[[], object]]:
    """Two pieces of work: generating a sample of ``tokens`` new tokens at batch 1 under the key, and verifying the last
    one with 999 decoys. ``model`` is a model or its engine."""
    device = next(getattr(model, "model", model).parameters()).device
    ids, traces = torch.randint(3, 4096, (1, 16), device=device), []

    def make() -> None:
        with okr.watermark(model, KEY, **SETTING) as watermark:
            length = {"max_new_tokens": tokens, "min_new_tokens": tokens}
            traces[:] = watermark.generate(input_ids=ids, do_sample=True, top_k=0, **length).traces

    return make, lambda: okr.verify(model, traces[0], KEY)


def verification(model: nn.Module, tokens: int, rounds: int) -> dict[str, float]:
    """Verifying a sample with 999 decoys over generating it, at batch 1 under the key."""
    return compared(*making_and_judging(model, tokens), rounds)


def detection(model: nn.Module, tokens: int, rounds: int, rows: int) -> dict[str, float]:
    """63 decoys side by side over 64 separate passes, each under a key of its own."""
    text = torch.randint(3, 4096, (tokens,))
    keys = [okr.Key.public(f"separate {number}") for number in range(64)]

    def separate() -> None:
        for key in keys:
            with torch.no_grad(), okr.watermark(model, key, **SETTING):
                logits = model(input_ids=text[None, :-1], use_cache=False).logits.float()
                torch.nn.functional.cross_entropy(logits[0], text[1:])

    return compared(separate, lambda: okr.detect(model, text, KEY, decoys=63, rows=rows, **SETTING), rounds)


def by_decoys(model: nn.Module, tokens: int, rounds: int) -> list[dict[str, float]]:
    """How both grow with the decoys: medians in CPU seconds, and MB that each adds at its peak (detection: 8 rows)."""
    ids, found = torch.randint(3, 4096, (1, 16)), []
    with okr.watermark(model, KEY, **SETTING) as watermark:
        trace = watermark.generate(input_ids=ids, max_new_tokens=tokens, min_new_tokens=tokens).traces[0]
    text = torch.randint(3, 4096, (tokens,))

    def verify(decoys: int) -> None:
        okr.verify(model, trace, KEY, decoys=decoys, alpha=0.5)

    def detect(decoys: int) -> None:
        okr.detect(model, text, KEY, decoys=decoys, rows=8, alpha=0.5, **SETTING)

    def median(work: Callable[[], None]) -> float:
        return round(statistics.median(timed(work)() for _ in range(rounds)), 3)

    for decoys in (15, 63, 255, 999, 9999):
        work = partial(verify, decoys)
        entry = {"decoys": decoys, "verify, s": median(work), "verify, MB": round(peak(work) / 2**20, 1)}
        if decoys < 999:
            entry |= {"detect, s": median(partial(detect, decoys)), "detect, MB": memory(model, text, decoys)}
        found.append(entry)
    return found


def memory(model: nn.Module, text: torch.Tensor, decoys: int) -> float:
    """Peak memory that scoring ``text`` adds, in MB, by torch's own allocation events."""
    engine, setting = okr.prepare(model), Setting(math.inf, "boundary", 1.0)
    images = draw_decoys(decoys, engine.sites, b"memory")
    given = Text(text, 1, None)

    def score() -> None:
        likelihoods(engine, [given], KEY, setting, images, temperature=1.0, rows=8, unkeyed=False)

    return round(peak(score) / 2**20, 1)


def measured(rounds: int, *, with_slice: bool = False) -> dict[str, Any]:
    """``detection``: both ratios of every model; ``decoys``: growth on tiny-deepseek-moe."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tiny = okr.load("tiny-deepseek-moe").model
    subjects = {"tiny-deepseek-moe, 80 tokens": (tiny, 80, rounds, 16)}
    if with_slice:
        subjects["16B, two routed layers, 48 tokens"] = (routers.slice_of_16b(4096), 48, 3, 8)
    found = []
    for name, (model, tokens, times, rows) in subjects.items():
        verify, detect = verification(model, tokens, times), detection(model, tokens, times, rows)
        found.append(
            {
                "model": name,
                "verify with 999 decoys / generate at batch 1": verify,
                "detect with 63 decoys / 64 separate passes": detect,
            }
        )
    return {"machine": machine(), "detection": found, "decoys": by_decoys(tiny, 80, rounds)}


def tables(figures: dict[str, Any]) -> dict[str, str]:
    """Both parts as Markdown tables."""
    ratios = [
        {
            name: cell if name == "model" else "{ratio:.2f} ({low:.2f}-{high:.2f})".format(**cell)
            for name, cell in entry.items()
        }
        for entry in figures["detection"]
    ]
    return {"detection": rows_table(ratios), "decoys": rows_table(figures["decoys"])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slice", action="store_true", help="also two routed layers of the 16B shape")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    figures = measured(arguments.rounds, with_slice=arguments.slice)
    print("\n\n".join(tables(figures).values()))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
