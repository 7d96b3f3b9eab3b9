"""What quantisation costs an embedded model and its watermark: memory, held-out loss, hit rate, p-values.

    python studies/quantised.py

Eight prompts of 40 words, 64 new tokens each; every trace is verified alone, by the model that made it. The loss is the
mean of eight shipped passages without a key. Needs bitsandbytes (the extra ``quant``). Prints a Markdown table;
``--out FILE`` writes it too.
"""

import argparse
import math
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import torch
from common import tell_table, worked

import okr
from okr.detection import TraceVerdict
from okr.experiment.presets import named_for
from okr.loaders import passages
from okr.loaders.prediction import passage_loss

KEY = okr.Key.from_passphrase("a quantised model's key")
SOFT = {name: named_for(name)["loud"].strength for name in ("tiny-deepseek-moe", "tiny-switch")}


def verdicts(loaded: okr.Loaded, setting: dict) -> list[TraceVerdict]:
    tokenizer = loaded.tokenizer
    tokenizer.padding_side = "right" if loaded.model.config.is_encoder_decoder else "left"
    prompts = [" ".join(passage.text.split()[:40]) for passage in passages(8)]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True)
    torch.manual_seed(0)
    with okr.watermark(loaded.model, KEY, **setting) as watermark:
        made = watermark.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=64,
            min_new_tokens=64,
            do_sample=True,
            top_k=0,
        )
    return [okr.verify(loaded.model, trace, KEY) for trace in made.traces]


def rows(name: str, quantization: str | None) -> Iterator[list[str]]:
    """The cells of the table's lines for one model in one precision: one line a setting."""
    loaded = okr.load(name, quantization=quantization)
    loss = sum(passage_loss(loaded, passage.text)[0] for passage in passages(8)) / 8
    size = loaded.model.get_memory_footprint() / 2**20
    for label, setting in {
        "max 2.0": {"epsilon": 2.0, "zone": "max", "strength": math.inf},
        f"boundary, strength {SOFT[name]:g}": {"epsilon": math.inf, "zone": "boundary", "strength": SOFT[name]},
    }.items():
        found = verdicts(loaded, setting)
        slots = sum(verdict.free_slots for verdict in found)
        hits = sum((verdict.hit_rate or 0.0) * verdict.free_slots for verdict in found) / slots
        largest = max(verdict.p_value for verdict in found)
        made = [name, quantization or "float32", f"{size:.1f}", f"{loss:.3f}", label, f"{slots:,}", f"{hits:.4f}"]
        yield [*made, f"{largest:.1g}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tasks = {
        f"{name}/{quantization or 'float32'}": lambda name=name, kind=quantization: {"rows": list(rows(name, kind))}
        for name in SOFT
        for quantization in (None, "8bit", "4bit")
    }
    done = worked(arguments.out, {"bitsandbytes": version("bitsandbytes")}, tasks)
    if done is None:
        return
    table = [
        "| model | weights | MB | held-out loss | setting | free slots | hit rate | largest p of 8 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *(f"| {' | '.join(cells)} |" for result in done.results.values() for cells in result["rows"]),
    ]
    tell_table(table, arguments.out)


if __name__ == "__main__":
    main()
