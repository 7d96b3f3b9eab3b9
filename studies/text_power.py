"""How much text shows: detection from text alone against its cost, beside KGW on the same model and prompts.

    python studies/text_power.py tiny-deepseek-moe --out docs/data/power-tiny-deepseek-moe.json
    OMP_NUM_THREADS=1 python tools/train_tiny.py coarse-mixtral --corpus DIR --out FOLDER  # docs/embedded-models.md
    python studies/text_power.py FOLDER --out docs/data/power-coarse-mixtral.json

Six texts share a key; every text is sampled at temperature 1 from the first words of a shipped passage. OKR is tested
by okr.detect's statistic with 99 decoys and 60 texts, near the highest cost with 399 and 120; KGW (transformers'
WatermarkLogitsProcessor, half of the vocabulary green, left hash of one token) by an exact binomial test over the
distinct (token before, token) pairs, 120 texts. Cost: added loss on held-out passages in nats per token, mean of three
keys, 95% interval over passages; for both alike. Power: the share of texts with p <= 0.01 and its 95% Clopper-Pearson
interval, for the first n tokens of single texts and for texts pooled into one test.
"""

import argparse
import hashlib
import json
import math
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from common import worked
from scipy.stats import binom
from transformers import WatermarkingConfig, WatermarkLogitsProcessor

import okr
from okr.detection import Likelihoods, draw_decoys, likelihoods, statistic
from okr.discovery import keyable_sites
from okr.engines import Text
from okr.intervals import paired, share
from okr.jobs.folders import write_atomically
from okr.loaders import Loaded, passages
from okr.routing import Setting

INF = math.inf
SETTINGS = {
    "fine": [("boundary", INF, s) for s in (1.5, 1.0)] + [("boundary", 1.0, INF), ("max", 2.0, INF)],
    "coarse": [("boundary", INF, 0.3), ("boundary", 0.25, INF), ("max", 1.0, INF)],
}
KGW_BIASES = (0.65, 0.4)
SHARP = {  # at a cost of about 0.05
    "fine": [("boundary", INF, 1.55)],
    "coarse": [("boundary", INF, 0.42)],
}
LENGTHS = (25, 50, 100, 200, 300, 400)
POOLED = (2, 4)  # texts of the largest length in one test
LEVEL, BATCH = 0.01, 6
DECOYS, TEXTS = 99, 60
SHARP_DECOYS, SHARP_TEXTS = 399, 120
STATISTICS = {  # of log p [keys, tokens], q the mean of p; what detect uses, and what it was chosen over
    "log(0.9 p + 0.1 q)": statistic,
    "log p": lambda log_p: log_p.sum(1),
    "log(p + q)": lambda log_p: torch.logaddexp(log_p, log_p.logsumexp(0) - math.log(len(log_p))).sum(1),
    "standardised": lambda log_p: ((log_p - log_p.mean(0)) / log_p.std(0)).sum(1),
}
OWN = next(iter(STATISTICS))


def key(*parts: object) -> okr.Key:
    """A key to measure with, no secret: anyone can derive it."""
    return okr.Key.public(" ".join(map(str, ("power", *parts))))


def prompts(loaded: Loaded, texts: int) -> list[list[int]]:
    """The first 24 tokens of shipped passages."""
    return [loaded.tokenizer(passage.text)["input_ids"][:24] for passage in passages(texts)]


def generate(loaded: Loaded, ids: list[list[int]], seed: int, **options: object) -> torch.Tensor:
    """Texts of LENGTHS[-1] new tokens, sampled at temperature 1: prompts and continuations."""
    torch.manual_seed(seed)
    inputs = torch.tensor(ids)
    length = {"max_new_tokens": LENGTHS[-1], "min_new_tokens": LENGTHS[-1]}
    return loaded.model.generate(
        input_ids=inputs,
        attention_mask=torch.ones_like(inputs),
        do_sample=True,
        top_k=0,
        top_p=1.0,
        **length,
        **options,
    )


@torch.no_grad()
def losses(loaded: Loaded, texts: list[str], kgw: WatermarkLogitsProcessor | None = None) -> list[float]:
    """Mean loss of each text; with ``kgw``, of the distribution that KGW samples from."""
    found = []
    for text in texts:
        ids = loaded.tokenizer(text, return_tensors="pt")["input_ids"][:, :256]
        logits = loaded.model(input_ids=ids, use_cache=False).logits[0, :-1]
        if kgw is not None:
            logits = kgw(ids[0, :-1, None], logits.clone())
        found.append(float(torch.nn.functional.cross_entropy(logits, ids[0, 1:])))
    return found


def okr_line(
    loaded: Loaded, setting: tuple, ids: list[list[int]], held_out: list[str], native: list[float], decoys: int
) -> dict:
    """Cost and power of one OKR setting."""
    options = {"zone": setting[0], "epsilon": setting[1], "strength": setting[2]}
    added = []
    for number in range(3):
        with okr.watermark(loaded.model, key("cost", number), **options):
            added.append(losses(loaded, held_out))
    matrices = scored(loaded, setting, ids, decoys)
    p = {n: [rank(statistic(m[:, :n])) for m in matrices] for n in LENGTHS}
    for count in POOLED:
        groups = [matrices[first : first + count] for first in range(0, len(matrices) - count + 1, count)]
        p[count * LENGTHS[-1]] = [rank(sum(statistic(m) for m in group)) for group in groups]
    found = line("OKR", name_of(setting), added, native, p) | {"decoys": decoys}
    if decoys > DECOYS:  # the same texts, judged by the first of their decoys alone
        found["power_of_fewer"] = powers({n: [rank(statistic(m[: DECOYS + 1, :n])) for m in matrices] for n in LENGTHS})
    by_statistic = {name: {n: [f(m[:, :n]) for m in matrices] for n in LENGTHS} for name, f in STATISTICS.items()}
    found["power_of"] = {
        name: powers({n: [rank(score) for score in scores] for n, scores in by_length.items()})
        for name, by_length in by_statistic.items()
    }
    found["z"] = {str(n): round(float(np.mean([z_of(s) for s in by_statistic[OWN][n]])), 3) for n in LENGTHS}
    return found


def name_of(setting: tuple) -> str:
    """A setting as the tables call it."""
    zone, epsilon, strength = setting
    return f"{zone} {epsilon:g}" + ("" if strength == INF else f", strength {strength:g}")


def judged(
    loaded: Loaded, row: torch.Tensor, start: int, made_under: okr.Key, setting: tuple, decoys: int, **options: object
) -> Likelihoods:
    """The tokens of ``row`` from ``start`` under a key and its decoys; ``options`` as for ``likelihoods``."""
    zone, epsilon, strength = setting
    engine, seed = okr.prepare(loaded.model), hashlib.sha256(row.numpy().tobytes()).digest()
    images = draw_decoys(decoys, engine.sites, seed)
    chosen, text = Setting(epsilon, zone, strength), Text(row, start, None)
    return likelihoods(engine, [text], made_under, chosen, images, temperature=1.0, **options)


def scored(loaded: Loaded, setting: tuple, ids: list[list[int]], decoys: int) -> list[torch.Tensor]:
    """log p of each text's new tokens under its key and the decoys, [keys, tokens] a text; BATCH texts a key."""
    zone, epsilon, strength = setting
    matrices = []
    for first in range(0, len(ids), BATCH):
        made_under = key("text", setting, first)
        with okr.watermark(loaded.model, made_under, epsilon=epsilon, zone=zone, strength=strength):
            made = generate(loaded, ids[first : first + BATCH], first)
        for row in made:
            found = judged(loaded, row, len(ids[0]), made_under, setting, decoys, rows=8, unkeyed=False)
            matrices.append(found.keyed)
    return matrices


def rank(score: torch.Tensor) -> float:
    """The exact p-value of key 0."""
    return (1 + int((score[1:] >= score[0]).sum())) / len(score)


def z_of(score: torch.Tensor) -> float:
    """The distance of key 0 from the others in their standard deviations."""
    return float((score[0] - score[1:].mean()) / score[1:].std())


def kgw_line(
    loaded: Loaded, bias: float, ids: list[list[int]], held_out: list[str], native: list[float], decoys: int
) -> dict:
    """Cost and power of one KGW bias, which needs no decoys."""
    vocabulary, ratio = loaded.model.config.vocab_size, 0.5

    def processor(number: int) -> WatermarkLogitsProcessor:
        hashing_key = 15485863 + 7919 * number
        return WatermarkLogitsProcessor(
            vocab_size=vocabulary, device="cpu", greenlist_ratio=ratio, bias=bias, hashing_key=hashing_key
        )

    added = [losses(loaded, held_out, processor(1000 + number)) for number in range(3)]
    counts = []
    for number, first in enumerate(range(0, len(ids), BATCH)):
        config = WatermarkingConfig(greenlist_ratio=ratio, bias=bias, hashing_key=15485863 + 7919 * number)
        made = generate(loaded, ids[first : first + BATCH], first, watermarking_config=config)
        counts += [green(processor(number), row, len(ids[0])) for row in made]
    share = int(vocabulary * ratio) / vocabulary

    def p_value(parts: list[np.ndarray]) -> float:
        new, hits = np.sum([part.sum(0) for part in parts], axis=0)
        return float(binom.sf(hits - 1, new, share))

    p = {n: [p_value([part[:n]]) for part in counts] for n in LENGTHS}
    for count in POOLED:
        p[count * LENGTHS[-1]] = [
            p_value(counts[first : first + count]) for first in range(0, len(counts) - count + 1, count)
        ]
    return line("KGW", f"bias {bias:g}", added, native, p)


def green(processor: WatermarkLogitsProcessor, row: torch.Tensor, start: int) -> np.ndarray:
    """[tokens, 2]: whether each new token is the first of its pair, and green as well."""
    seen, found = set(), []
    for place in range(start, len(row)):
        pair = (int(row[place - 1]), int(row[place]))
        fresh = pair not in seen
        seen.add(pair)
        hit = fresh and bool((processor._get_greenlist_ids(row[place - 1 : place]) == pair[1]).any())
        found.append((fresh, hit))
    return np.array(found, int)


def line(method: str, name: str, added: list[list[float]], native: list[float], p: dict[int, list[float]]) -> dict:
    """One setting's record."""
    cost, low, high = paired(np.mean(added, axis=0).tolist(), native)
    texts = len(p[LENGTHS[0]])
    found = {"method": method, "setting": name, "texts": texts, "cost": [round(v, 5) for v in (cost, low, high)]}
    return found | {"power": powers(p)}


def powers(p: dict[int, list[float]]) -> dict[str, list[float]]:
    """The share of texts found, with its interval, by their number of tokens."""
    found = {n: sum(p_value <= LEVEL + 1e-12 for p_value in values) for n, values in p.items()}
    return {str(n): [round(v, 4) for v in share(hits, len(p[n]))] for n, hits in found.items()}


def lines(loaded: Loaded, kind: str, held_out: list[str]) -> dict[str, Callable[[], dict]]:
    """What measures each line, by method and setting."""
    ids, native = prompts(loaded, SHARP_TEXTS), cache(partial(losses, loaded, held_out))
    jobs = {f"KGW/bias {bias:g}": (kgw_line, bias, SHARP_TEXTS, 0) for bias in KGW_BIASES}
    jobs |= {f"OKR/{name_of(s)}": (okr_line, s, SHARP_TEXTS, SHARP_DECOYS) for s in SHARP[kind]}
    jobs |= {f"OKR/{name_of(s)}": (okr_line, s, TEXTS, DECOYS) for s in SETTINGS[kind]}

    def measured(of: Callable[..., dict], what: float | tuple, texts: int, decoys: int) -> dict:
        return of(loaded, what, ids[:texts], held_out, native(), decoys)

    return {name: partial(measured, *job) for name, job in jobs.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--passages", type=int, default=30, help="held-out passages that the cost is measured on")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    loaded = okr.load(arguments.model)
    kind = "fine" if keyable_sites(loaded.model)[0].num_experts > 32 else "coarse"
    held_out = [passage.text for passage in passages(200)[-arguments.passages :]]
    plan = {"model": arguments.model, "identity": okr.prepare(loaded.model).identity().model_dump(mode="json")}
    plan |= {"passages": arguments.passages, "level": LEVEL}
    done = worked(arguments.out, plan, lines(loaded, kind, held_out))
    if done is not None:
        figures = {"lines": list(done.results.values()), "model": type(loaded.model).__name__, "grain": kind}
        figures |= {"level": LEVEL, "date": done.machine["date"], "torch": done.machine["torch"]}
        write_atomically(arguments.out, json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
