"""What a method adds to the loss on held-out human text: its key known, at the temperature of sampling.

The loss of a passage is that of the very distribution the method samples from, minus the unmarked one's, in nats per
token, mean of several keys; the 95% interval is over passages. SynthID's distribution is the model's own once it is
averaged over keys, so this reading charges it for being sure of itself under one key; ``text loss`` (what an unmarked
model thinks of the texts) does not. Both are reported.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import brentq
from torch import Tensor

from okr.intervals import paired
from okr.jobs.tasks import NotAvailable
from okr.loaders import Loaded, passages
from okr.loaders.prediction import Predicted, predict_passage
from okr.suites.cells import Ledger, Outcome
from okr.suites.figures import Figure
from okr.suites.other_watermarks import NGRAM, SynthId, processor
from okr.suites.samples import Bench

MATCHED = {"kgw": "okr", "kgw louder": "okr louder"}
SYNTHID_TOKENS = 64  # of a passage: every token costs vocabulary x depth hashes
MAX_BIAS = 12.0
BOUND = 20.0  # nats per token: far beyond any vocabulary's entropy
_KEYS_FROM = 1_000_000  # numbers of keys that no text is made under


def held_out(bench: Bench) -> list[str]:
    """The passages costs are measured on: the last ones, so that few prompts are among them."""
    return [passage.text for passage in passages()[-bench.options.passages :]]


def predicted(loaded: Loaded, text: str, temperature: float) -> Predicted:
    """What the model as it stands predicts of one passage: tempered float32 logits, on the CPU."""
    found = predict_passage(loaded, text)
    return Predicted(found.logits.float().cpu() / temperature, found.targets.cpu(), found.inputs.cpu())


def cost_cell(bench: Bench, ledger: Ledger, method: str) -> Outcome:
    """The cost of ``method`` as a figure; for KGW after choosing the bias that matches OKR's cost."""
    texts, temperature = held_out(bench), bench.config.temperature
    native = [predicted(bench.loaded, text, temperature) for text in texts]
    data: dict[str, Any] = {}
    base = [passage.loss() for passage in native]
    if method.startswith("okr"):
        added = [_keyed(bench, method, number, texts) for number in range(bench.options.cost_keys)]
    elif method.startswith("kgw"):
        wanted = ledger.result(f"baselines/cost/{MATCHED[method]}").data["cost"]
        data["bias"], added = _match_kgw(bench, native, wanted)
    else:
        short = [passage.logits[:SYNTHID_TOKENS] for passage in native]
        base = [passage.loss(part) for passage, part in zip(native, short, strict=True)]
        one = bench.synthid(_KEYS_FROM, method)
        added = [[passage.loss(_tournament(passage, part, one)) for passage, part in zip(native, short, strict=True)]]
    keyed = np.mean(added, axis=0)
    note = f"bias {data['bias']:.3f}, chosen to match {MATCHED[method].replace('okr', 'OKR')}" if "bias" in data else ""
    common = {"measure": "held-out cost", "unit": "nats per token", "method": method, "samples": len(texts)}
    if not np.mean(keyed - base) <= BOUND:
        note = "beyond measure: under one key it all but rules out most words that people use"
        return Outcome([Figure(value=None, note=note, **common)], data)  # type: ignore[arg-type]
    value, low, high = paired(keyed.tolist(), base)
    figure = Figure(value=value, low=low, high=high, note=note, **common)  # type: ignore[arg-type]
    return Outcome([figure], data | {"cost": value})


def _keyed(bench: Bench, method: str, number: int, texts: Sequence[str]) -> list[float]:
    with bench.watermarked(method, bench.key(_KEYS_FROM + number)):
        return [predicted(bench.loaded, text, bench.config.temperature).loss() for text in texts]


def _match_kgw(bench: Bench, native: Sequence[Predicted], wanted: float) -> tuple[float, list[list[float]]]:
    """The bias whose mean cost is ``wanted``, and the losses by key and passage under it.

    With G the green mass of a token, a bias b turns its loss l into l - b [green] + log(1 + (e^b - 1) G).
    """
    if not wanted > 0:
        raise NotAvailable(f"OKR's cost was measured as {wanted:.4f} nats per token: nothing to match")
    terms = [
        [_green_terms(passage, bench.kgw(_KEYS_FROM + number, 0.0).green(passage.inputs)) for passage in native]
        for number in range(bench.options.cost_keys)
    ]

    def losses(bias: float) -> list[list[float]]:
        return [
            [
                passage.loss() + float((torch.log1p(np.expm1(bias) * mass) - bias * green).mean())
                for passage, (mass, green) in zip(native, row, strict=True)
            ]
            for row in terms
        ]

    base = np.mean([passage.loss() for passage in native])
    excess: Callable[[float], float] = lambda bias: float(np.mean(losses(bias)) - base) - wanted  # noqa: E731
    # on few passages a small bias may even lower the loss: begin where the cost has turned upwards
    grid = np.linspace(0, MAX_BIAS, 121)
    above = next((place for place in range(1, len(grid)) if excess(grid[place]) > 0), None)
    if above is None:
        raise NotAvailable(f"no bias up to {MAX_BIAS:g} costs as much as OKR ({wanted:.4f} nats per token)")
    bias = float(brentq(excess, grid[above - 1], grid[above]))
    return bias, losses(bias)


def _green_terms(passage: Predicted, green: Tensor) -> tuple[Tensor, Tensor]:
    """Green mass and whether the target is green, at every token."""
    mass = (passage.logits.softmax(-1).double() * green).sum(-1)
    return mass, green.gather(1, passage.targets[:, None])[:, 0].double()


def _tournament(passage: Predicted, logits: Tensor, synthid: SynthId) -> Float[Tensor, "n vocabulary"]:
    """The logits after SynthID's tournament; a context that came before is left alone."""
    machine = processor(synthid.config().keys)
    padded = torch.cat([torch.zeros(NGRAM - 2, dtype=torch.long), passage.inputs[: len(logits)]])
    contexts = padded.unfold(0, NGRAM - 1, 1)
    vocabulary = torch.arange(logits.shape[1])
    rows, seen = [], set()
    for place, context in enumerate(contexts):
        known = tuple(context.tolist())
        if known in seen:
            rows.append(logits[place])
            continue
        seen.add(known)
        keys, _ = machine._compute_keys(context[None], vocabulary[None])
        rows.append(machine.update_scores(logits[place][None], machine.sample_g_values(keys))[0])
    return torch.stack(rows)
