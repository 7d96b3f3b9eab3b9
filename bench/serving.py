"""What a key costs vLLM: new tokens a second, keyed beside unkeyed.

    python bench/serving.py --json figures.json         # the embedded model, some minutes
    python bench/serving.py --slice                     # two routed layers of the 16B shape too, bfloat16, about 8 GB

Needs vLLM in the environment. Three vLLM of the same model stand side by side in processes of their own, compiled as
vLLM does by default: one without this package, one under a key, one under a key that also records what ran. They
generate in turns, the same prompts in each round, and never at once. Texts are sampled at temperature 1: greedy ones
of random weights soon repeat one token, whose experts then stay in the processor's cache. A ratio is the keyed rate
over the unkeyed rate of the same round; figures are medians over the rounds with their quartiles.

Rates are tokens for each second of the wall on a card. On a processor each vLLM is one process, front end, scheduler
and model, and rates are tokens for each second of its CPU time, which other work on the machine disturbs least.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import okr
from okr.engines.vllm import Configuration
from okr.engines.vllm.serving import environment, served
from okr.loaders.deepseek import DeepseekConfig
from okr.loaders.random_weights import SHAPE
from okr.pages.machine import machine
from okr.pages.markdown import rows_table

WAYS = ("unkeyed", "keyed", "keyed and recorded")
BATCHES = (1, 8)


class Running:
    """One vLLM in a process of its own, which generates when it is told to."""

    def __init__(self, model: str, options: dict[str, Any], way: str, key: Path) -> None:
        extra = {}
        if way != "unkeyed":
            configuration = Configuration(key_file=str(key), record=way.endswith("recorded"))
            extra = {"additional_config": configuration.section()}
            if configuration.record and torch.cuda.is_available():
                extra["enable_return_routed_experts"] = True
        line = [sys.executable, __file__, "--generate", json.dumps({"model": model, **options, **extra})]
        self.process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ask({})

    def ask(self, work: dict[str, Any]) -> float:
        """Seconds that it took."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(work) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("okr took "):
                return float(line.split()[2])
        raise SystemExit("a vLLM ended: see its last lines above")

    def end(self) -> None:
        """End the process."""
        self.process.communicate("\n")


def generate(options: dict[str, Any]) -> None:
    """Generate whenever a line asks for it (the process of a :class:`Running`)."""
    from vllm import LLM, SamplingParams

    now = time.perf_counter
    if not torch.cuda.is_available():
        now, options = time.process_time, options | {"distributed_executor_backend": "uni"}
    llm = LLM(skip_tokenizer_init=True, enable_prefix_caching=True, max_num_seqs=8, **options)
    for line in sys.stdin:
        if not line.strip():
            return
        work, began = json.loads(line), now()
        if work:
            sampling = SamplingParams(max_tokens=work["tokens"], temperature=1, ignore_eos=True, detokenize=False)
            prompts = [{"prompt_token_ids": prompt} for prompt in work["prompts"]]
            began = now()
            llm.generate(prompts, sampling, use_tqdm=False)
        print("okr took", now() - began, flush=True)


def measured(
    name: str, model: str, options: dict[str, Any], ways: Sequence[str], tokens: int, rounds: int
) -> list[dict[str, Any]]:
    """The ratios of one model, a row for each number of requests at once.

    The first process to start may be the slowest, since the system has taken its large pages apart before the last one
    is there. So all are started as often as there are ``ways``, each way in each place once.
    """
    starts = [started(model, options, [*ways[place:], *ways[:place]], tokens, rounds) for place in range(len(ways))]
    return [
        {"model": name, "requests at once": batch} | ratios([start[batch] for start in starts], tokens * batch)
        for batch in BATCHES
    ]


def started(
    model: str, options: dict[str, Any], ways: Sequence[str], tokens: int, rounds: int
) -> dict[int, dict[str, list[float]]]:
    """The seconds of each round by the number of requests at once and the way, the processes started in the order of
    ``ways``."""
    took: dict[int, dict[str, list[float]]] = {batch: {way: [] for way in ways} for batch in BATCHES}
    with tempfile.TemporaryDirectory() as folder:
        key = Path(folder) / "key.json"
        okr.Key.public("what serving costs").save(key)
        running = {way: Running(model, options, way, key) for way in ways}
        for batch in BATCHES:
            for turn in range(-2, rounds):  # the first turns are for what compiles or is allocated late
                prompts = [[3 + (turn + 2 + 7 * place) % 50, *range(10, 26)] for place in range(batch)]
                for way in ways if turn % 2 else ways[::-1]:
                    seconds = running[way].ask({"prompts": prompts, "tokens": tokens})
                    if turn >= 0:
                        took[batch][way].append(seconds)
        for process in running.values():
            process.end()
    return took


def ratios(starts: Sequence[dict[str, list[float]]], tokens: int) -> dict[str, Any]:
    """Rates without a key, and each way's rate over it. A round's ratio is the geometric mean over the starts; median
    and quartiles over the rounds."""
    plain = [start["unkeyed"] for start in starts]
    found: dict[str, Any] = {"unkeyed, tokens/s": round(tokens / statistics.median(map(statistics.median, plain)), 1)}
    for way in sorted({*starts[0]} - {"unkeyed"}):
        each = [
            statistics.geometric_mean(start["unkeyed"][number] / start[way][number] for start in starts)
            for number in range(len(plain[0]))
        ]
        low, middle, high = statistics.quantiles(each, n=4)
        found[f"{way} / unkeyed"] = {"ratio": round(middle, 3), "low": round(low, 3), "high": round(high, 3)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--slice", action="store_true", help="two routed layers of the 16B shape as well")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--generate", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.generate:
        generate(json.loads(arguments.generate))
        return
    os.environ.update(environment("tiny") | {"VLLM_LOGGING_LEVEL": "ERROR"})
    if not torch.cuda.is_available():
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    folder, options = served("tiny")
    rows = measured("tiny-deepseek-moe", folder, {**options, "max_model_len": 512}, WAYS, 64, arguments.rounds)
    if arguments.slice:
        with tempfile.TemporaryDirectory() as shape:
            DeepseekConfig(**{**SHAPE, "num_hidden_layers": 3, "vocab_size": 4096}).save_pretrained(shape)
            json_path = Path(shape) / "config.json"
            config = json.loads(json_path.read_text()) | {"architectures": ["DeepseekForCausalLM"]}
            json_path.write_text(json.dumps(config))
            options = {"load_format": "dummy", "dtype": "bfloat16", "max_model_len": 512}
            rows += measured("16B, two routed layers", shape, options, WAYS[:2], 24, arguments.rounds)
    print(rows_table(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine(), "serving": rows}, indent=1))


if __name__ == "__main__":
    main()
