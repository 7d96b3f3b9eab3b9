"""Can text detection be made to survive edits? Anchors smoother than one state, statistics that bear contamination.

    python studies/edit_robustness.py --out docs/data/robustness.json    # about ten minutes of one core

tiny-deepseek-moe, soft keying at the boundary. The *anchor* is what the key is projected on at each token: OKR takes
the router's input. Every other anchor gets the strength at which it costs the same on held-out passages; then texts are
written with it, attacked, and scored as `okr.detect` scores them, with the same anchor. The *statistic* makes one
number a key of the probabilities; every one here treats all keys alike, so each gives an exact test. z: how far the
true key is ahead of the decoys, in their standard deviations. Plain sampling without a cache, so that an anchor may
look back as far as it likes.
"""

import argparse
import contextlib
import json
import math
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from common import worked
from torch import Tensor

import okr
from okr.detection import Decoys, draw_decoys, statistic
from okr.detection.likelihood import KeyRows
from okr.engines import Engine, Text
from okr.engines.protocol import Score
from okr.jobs.folders import write_atomically
from okr.loaders import Loaded, passages
from okr.routing import Setting
from okr.suites.samples import Made
from okr.suites.text_attacks import Victim, delete, dilute, substitute

MODEL, OWN_STRENGTH = "tiny-deepseek-moe", 1.5
TEXTS, PER_KEY, PROMPT, TOKENS, DECOYS = 24, 6, 24, 200, 63
COST_PASSAGES, COST_KEYS, COST_TOKENS, ROWS = 16, 4, 256, 32

Anchor = Callable[[Tensor, Tensor], Tensor]
"""What the key is projected on [rows, tokens, d], from the router's inputs and the token embeddings (same shape)."""


def decayed(factor: float) -> Anchor:
    """Mean of this state and those before, each ``factor`` times as heavy as the next; all of length one."""

    def anchor(states: Tensor, tokens: Tensor) -> Tensor:
        place = torch.arange(states.shape[1])
        back = (place[:, None] - place[None]).clamp_min(0)
        weights = torch.tril(torch.tensor(factor) ** back)
        return weights @ torch.nn.functional.normalize(states, dim=-1)

    return anchor


def last_tokens(count: int) -> Anchor:
    """Mean of the embeddings of the last ``count`` tokens."""

    def anchor(states: Tensor, tokens: Tensor) -> Tensor:
        place = torch.arange(tokens.shape[1])
        back = place[:, None] - place[None]
        return ((back >= 0) & (back < count)).to(tokens.dtype) @ torch.nn.functional.normalize(tokens, dim=-1)

    return anchor


ANCHORS: dict[str, Anchor] = {
    "the state (OKR)": lambda states, tokens: states,
    "decaying mean of states, factor 0.5": decayed(0.5),
    "embedding of the token": last_tokens(1),
    "decaying mean of states, factor 0.9": decayed(0.9),
}

FOR_ANCHORS = 3  # the first attacks, which other anchors are tried under
ATTACKS: dict[str, Callable[[Victim], Made]] = {
    "untouched": lambda victim: victim.made,
    "10% substituted": lambda victim: substitute(victim, 0.1),
    "10% deleted": lambda victim: delete(victim, 0.1),
    "20% substituted": lambda victim: substitute(victim, 0.2),
    "half pasted into human text": lambda victim: dilute(victim, 0.5),
}


def _against_mean(log_p: Tensor) -> tuple[Tensor, Tensor]:
    """log(p / q) of every key and token, and log q: q is the mean of p over the keys."""
    mean = log_p.logsumexp(0) - math.log(len(log_p))
    return log_p - mean, mean


def unsurprising(log_p: Tensor, after: int) -> Tensor:
    """log(p + q) without the tokens that every key finds unlikely (q < 0.002), and without the ``after`` next ones."""
    ratio, mean = _against_mean(log_p)
    odd = mean < math.log(0.002)
    for step in range(1, after + 1):
        odd = odd | torch.cat([torch.zeros(step, dtype=torch.bool), (mean < math.log(0.002))[:-step]])
    return (torch.logaddexp(ratio, torch.zeros_like(ratio)) * ~odd).sum(1)


def best_window(log_p: Tensor, share: float) -> Tensor:
    """The largest sum of log(p + q) over any stretch of that share of the text, among all starts."""
    ratio, _ = _against_mean(log_p)
    terms = torch.logaddexp(ratio, torch.zeros_like(ratio))
    sums = torch.nn.functional.pad(terms.cumsum(1), (1, 0))
    length = max(1, round(share * log_p.shape[1]))
    return (sums[:, length:] - sums[:, :-length]).amax(1)


def trimmed(log_p: Tensor, share: float) -> Tensor:
    """Sum of log(p / q) without each key's own ``share`` of largest and of smallest terms."""
    terms = _against_mean(log_p)[0].sort(1).values
    cut = round(share * terms.shape[1])
    return terms[:, cut : terms.shape[1] - cut].sum(1)


STATISTICS: dict[str, Callable[[Tensor], Tensor]] = {
    "log(0.9 p + 0.1 q) (OKR)": statistic,
    "log p": lambda log_p: log_p.sum(1),
    "log(p + q)": lambda log_p: torch.logaddexp(_against_mean(log_p)[0], torch.tensor(0.0)).sum(1),
    "log(0.2 p + 0.8 q)": lambda log_p: torch.logaddexp(_against_mean(log_p)[0], torch.tensor(math.log(4.0))).sum(1),
    "log(p / q), cut at 0.5 either way": lambda log_p: _against_mean(log_p)[0].clamp(-0.5, 0.5).sum(1),
    "log(p / q), a tenth trimmed at either end": lambda log_p: trimmed(log_p, 0.1),
    "log(p + q), surprising tokens left out": lambda log_p: unsurprising(log_p, 0),
    "log(p + q), they and the next 3 left out": lambda log_p: unsurprising(log_p, 3),
    "log(p + q), best half of the text": lambda log_p: best_window(log_p, 0.5),
    "log(p + q), best quarter of the text": lambda log_p: best_window(log_p, 0.25),
}


class Anchored(KeyRows):
    """Routes every row by its own image of a key, projected on an anchor instead of the state."""

    anchor: Anchor
    tokens: Tensor

    def __call__(self, choice: Tensor, hidden: Tensor, native: object) -> Tensor:
        rows = self.rows[1] - self.rows[0]
        states = hidden.view(rows, -1, hidden.shape[-1])
        return super().__call__(choice, self.anchor(states, self.tokens).flatten(0, 1), native)


@contextlib.contextmanager
def keyed(
    engine: Engine, key: okr.Key, strength: float, anchor: str, images: list[Decoys]
) -> Iterator[tuple[list[Anchored], Score]]:
    """The model keyed at an anchor, every row by its own image."""
    setting = Setting(math.inf, "boundary", strength)
    routings = [Anchored(site, key, setting, part) for site, part in zip(engine.sites, images, strict=True)]
    for routing in routings:
        routing.anchor = ANCHORS[anchor]

    def remember(module: object, args: object, output: Tensor) -> None:
        for routing in routings:
            routing.tokens = output

    hook = engine.model.get_input_embeddings().register_forward_hook(remember)
    try:
        with engine.scoring(routings) as score:
            yield routings, score
    finally:
        hook.remove()


@torch.no_grad()
def log_p(engine: Engine, text: Text, key: okr.Key, strength: float, anchor: str, images: list[Decoys]) -> Tensor:
    """log p [keys, tokens] of a text under a key and its images."""
    keys, parts = len(images[0].columns), []
    with keyed(engine, key, strength, anchor, images) as (routings, score):
        for first in range(0, keys, ROWS):
            last = min(first + ROWS, keys)
            for routing in routings:
                routing.rows = (first, last)
            parts.append(score(text, last - first, 1.0))
    return torch.cat(parts)


def cost(loaded: Loaded, strength: float, anchor: str) -> float:
    """What an anchor adds to the loss of held-out passages, nats per token, mean of several keys."""
    engine = okr.prepare(loaded.model)
    key, images = (
        okr.Key.from_passphrase("robustness cost"),
        draw_decoys(COST_KEYS - 1, engine.sites, b"robustness cost"),
    )
    added = []
    for passage in passages()[-COST_PASSAGES:]:
        row = loaded.tokenizer(passage.text, return_tensors="pt")["input_ids"][0, :COST_TOKENS]
        text = Text(row, 1, None)
        with engine.scoring(None) as score:
            native = score(text, 1, 1.0).mean()
        added.append(float(native - log_p(engine, text, key, strength, anchor, images).mean()))
    return float(np.mean(added))


def matched(loaded: Loaded, anchor: str, wanted: float) -> float:
    """The strength at which ``anchor`` costs ``wanted``: the cost grows about as the square of the strength."""
    strength = OWN_STRENGTH
    for _ in range(2):
        strength *= math.sqrt(wanted / cost(loaded, strength, anchor))
    return strength


@torch.no_grad()
def write(loaded: Loaded, key: okr.Key, strength: float, anchor: str, prompts: Tensor, seed: int) -> Tensor:
    """A continuation of every prompt [rows, n], sampled at temperature 1: prompts and new tokens."""
    torch.manual_seed(seed)
    engine = okr.prepare(loaded.model)
    rows, own = prompts, draw_decoys(len(prompts) - 1, engine.sites, b"")
    same = [Decoys(i.columns[:1].expand_as(i.columns), i.signs[:1].expand_as(i.signs)) for i in own]
    with keyed(engine, key, strength, anchor, same) as (routings, _):
        for routing in routings:
            routing.rows = (0, len(prompts))
        for _ in range(TOKENS):
            logits = loaded.model(input_ids=rows, use_cache=False, logits_to_keep=1).logits[:, -1]
            rows = torch.cat([rows, torch.multinomial(logits.float().softmax(-1), 1)], 1)
    return rows


def scored(loaded: Loaded, strength: float, anchor: str, texts: int) -> dict[str, list[Tensor]]:
    """log p [keys, tokens] of ``texts`` texts after every attack; other anchors than OKR's meet the first few."""
    engine = okr.prepare(loaded.model)
    attacks = list(ATTACKS) if anchor == next(iter(ANCHORS)) else list(ATTACKS)[:FOR_ANCHORS]
    prompts = torch.tensor([loaded.tokenizer(p.text)["input_ids"][:PROMPT] for p in passages(texts)])
    human = [passage.text for passage in passages()[::-1]]
    found: dict[str, list[Tensor]] = {attack: [] for attack in attacks}
    for first in range(0, texts, PER_KEY):
        key = okr.Key.from_passphrase(f"robustness texts {first}")
        for place, row in enumerate(write(loaded, key, strength, anchor, prompts[first : first + PER_KEY], first)):
            made = Made(tuple(row.tolist()), PROMPT)
            victim = Victim(loaded, made, human[first + place], made, 1000 + first + place)
            images = draw_decoys(DECOYS, engine.sites, b"robustness %d" % (first + place))
            for attack in attacks:
                text = Text(torch.tensor(ATTACKS[attack](victim).tokens), PROMPT, None)
                found[attack].append(log_p(engine, text, key, strength, anchor, images))
    return found


def z_of(score: Tensor) -> float:
    """The distance of the claimed key from the decoys in their standard deviations."""
    return float((score[0] - score[1:].mean()) / score[1:].std())


def line(loaded: Loaded, anchor: str, strength: float, texts: int) -> dict:
    """One anchor's record, by attack and statistic: z of every text, how many keys are ahead of all their decoys; by
    statistic, the 99% point of the decoys' own z."""
    found = scored(loaded, strength, anchor, texts)
    names = STATISTICS if anchor == next(iter(ANCHORS)) else dict([next(iter(STATISTICS.items()))])
    z: dict[str, dict[str, list[float]]] = {}
    ahead: dict[str, dict[str, int]] = {}
    point: dict[str, float] = {}
    for name, work in ((name, STATISTICS[name]) for name in names):
        scores = {attack: [work(matrix) for matrix in matrices] for attack, matrices in found.items()}
        z[name] = {attack: [round(z_of(score), 3) for score in own] for attack, own in scores.items()}
        ahead[name] = {attack: sum(bool(s[0] > s[1:].max()) for s in own) for attack, own in scores.items()}
        decoys = [s[1:] for own in scores.values() for s in own]
        point[name] = round(float(np.quantile(np.concatenate([(d - d.mean()) / d.std() for d in decoys]), 0.99)), 3)
    return {"anchor": anchor, "strength": round(strength, 4), "cost": round(cost(loaded, strength, anchor), 5),
            "z": z, "ahead": ahead, "point": point}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    loaded = okr.load(MODEL)
    wanted = cache(partial(cost, loaded, OWN_STRENGTH, next(iter(ANCHORS))))

    def measured(anchor: str) -> dict:
        own = anchor == next(iter(ANCHORS))
        return line(loaded, anchor, OWN_STRENGTH if own else matched(loaded, anchor, wanted()), TEXTS)

    head = {"model": MODEL, "texts": TEXTS, "tokens": TOKENS, "decoys": DECOYS}
    done = worked(arguments.out, head, {f"anchors/{anchor}": partial(measured, anchor) for anchor in ANCHORS})
    if done is not None:
        figures = {"lines": list(done.results.values())} | head | {"torch": done.machine["torch"]}
        write_atomically(arguments.out, json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
