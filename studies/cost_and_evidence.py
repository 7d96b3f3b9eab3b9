"""What a setting's cost buys: how much of it makes keys differ, and how much only makes the model worse.

    python studies/cost_and_evidence.py tiny-deepseek-moe --out docs/data/efficiency-tiny-deepseek-moe.json
    python studies/cost_and_evidence.py FOLDER --out docs/data/efficiency-coarse-mixtral.json # as text_power.py

Twelve random keys score 24 held-out passages and 8 texts of the unkeyed model. With q the probability of a token
without a key, p under a key and m the mean of p over keys, the cost is mean log(q / p) on the passages. It falls into
log(q / m), what keyed models lose together, and mean log(m / p), by which they differ. Evidence is what a token of the
model's own text tells about the key, their mutual information: mean (p / m) log(p / m). Both that speak of
differences are raised by 12 / 11, as m holds each key itself. Yield: evidence over cost. 95% intervals: bootstrap over
passages and texts, the keys kept.
"""

import argparse
import json
import math
from functools import cache, partial
from pathlib import Path

import numpy as np
import text_power
import torch
from common import worked
from scipy.special import logsumexp
from scipy.stats import bootstrap

import okr
from okr.discovery import keyable_sites
from okr.jobs.folders import write_atomically
from okr.loaders import Loaded, passages

INF = math.inf
SETTINGS = {  # zone, epsilon, strength
    "fine": [
        *(("boundary", INF, s) for s in (0.5, 1.0, 1.5)), ("boundary", 3.0, 1.5), ("boundary", 2.0, 2.0),
        ("boundary", 1.0, INF), ("max", 4.0, 1.5), ("max", 2.0, INF),
    ],
    "coarse": [
        *(("boundary", INF, s) for s in (0.2, 0.3, 0.4)), ("boundary", 0.75, 0.4), ("boundary", 0.5, 0.5),
        ("boundary", 0.25, INF), ("max", 1.0, 0.4), ("max", 1.0, INF),
    ],
}  # fmt: skip
KEYS, PASSAGES, OWN, TOKENS = 12, 24, 8, 256


def texts(loaded: Loaded) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Token ids of the passages, and of texts of the unkeyed model."""
    shipped = [passage.text for passage in passages(200)[-PASSAGES:]]
    human = [torch.tensor(loaded.tokenizer(text)["input_ids"][:TOKENS]) for text in shipped]
    return human, list(text_power.generate(loaded, text_power.prompts(loaded, OWN), 5))


def log_p(loaded: Loaded, row: torch.Tensor, start: int, setting: tuple) -> tuple[np.ndarray, np.ndarray]:
    """log p in nats of each token of ``row`` from ``start``, under random keys [KEYS, tokens] and none [tokens]."""
    found = text_power.judged(loaded, row, start, text_power.key("efficiency"), setting, KEYS - 1, rows=KEYS)
    return found.keyed.double().numpy(), found.unkeyed.double().numpy()


def measured(loaded: Loaded, setting: tuple, human: list[torch.Tensor], own: list[torch.Tensor]) -> dict:
    """One setting's line: cost, the part of it by which keys differ, evidence, yield, each with its interval."""
    fair = KEYS / (KEYS - 1)
    cost, differing, evidence = [], [], []
    for row in human:
        keyed, unkeyed = log_p(loaded, row, 1, setting)
        cost.append((unkeyed - keyed).mean())
        differing.append(fair * (mean_p(keyed) - keyed).mean())
    for row in own:
        keyed, _ = log_p(loaded, row, 24, setting)
        ahead = keyed - mean_p(keyed)
        evidence.append(fair * (np.exp(ahead) * ahead).mean())
    return {
        "setting": text_power.name_of(setting),
        "cost": interval(cost),
        "differing": interval(differing),
        "evidence": interval(evidence),
        "yield": interval(evidence, cost),
    }


def mean_p(log_p: np.ndarray) -> np.ndarray:
    """The log of the mean probability over keys, [tokens]."""
    return logsumexp(log_p, axis=0) - math.log(KEYS)


def interval(*samples: list[float]) -> list[float]:
    """The mean of a sample, or the ratio of the means of two, with its 95% percentile bootstrap interval."""

    def ratio(*parts: np.ndarray, axis: int) -> np.ndarray:
        means = [part.mean(axis=axis) for part in parts]
        return means[0] if len(means) == 1 else means[0] / means[1]

    data = [np.array(sample) for sample in samples]
    found = bootstrap(data, ratio, method="percentile", rng=np.random.default_rng(0)).confidence_interval
    return [round(float(v), 5) for v in (ratio(*data, axis=0), found.low, found.high)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    loaded = okr.load(arguments.model)
    kind = "fine" if keyable_sites(loaded.model)[0].num_experts > 32 else "coarse"
    read = cache(partial(texts, loaded))
    tasks = {
        f"settings/{text_power.name_of(setting)}": lambda setting=setting: measured(loaded, setting, *read())
        for setting in SETTINGS[kind]
    }
    plan = {"model": arguments.model, "identity": okr.prepare(loaded.model).identity().model_dump(mode="json")}
    plan |= {"keys": KEYS, "passages": PASSAGES, "texts": OWN, "tokens": TOKENS}
    done = worked(arguments.out, plan, tasks)
    if done is not None:
        figures = {"lines": list(done.results.values()), "date": done.machine["date"], "torch": done.machine["torch"]}
        write_atomically(arguments.out, json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
