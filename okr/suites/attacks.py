"""The attack suite: how often texts and traces are still found after attacks on the text and on the model."""

import copy
import dataclasses
import zlib
from functools import cache

import numpy as np

from okr.intervals import mean
from okr.jobs.tasks import NotAvailable
from okr.loaders import passages
from okr.loaders.prediction import passage_loss
from okr.suites.baselines import bias_of, found_figures, smallest_p, text_cells, texts_of
from okr.suites.cells import Cell, Ledger, Outcome, bound, cell
from okr.suites.figures import Figure
from okr.suites.model_attacks import CHANGES
from okr.suites.paraphrase import Paraphraser, human_cell
from okr.suites.samples import ATTACKED, Bench, Made, as_made, make_traces, trace_p
from okr.suites.text_attacks import STRENGTHS, Attack, Victim
from okr.suites.text_tests import p_values
from okr.traces import Trace

OWN = ATTACKED[0]


def attack_cells(bench: Bench, ledger: Ledger) -> list[Cell]:
    """Every cell of the suite."""
    cells = text_cells(bench, ledger, ("okr", *ATTACKED))
    heavy = 0.6 * bench.options.attacked_decoys * bench.options.attacked * bench.options.tokens / 12_000
    for method in ATTACKED:
        weight = heavy if method == OWN else 0.05 * heavy
        cells.append(cell(f"attacks/text/none/{method}", bound(_plain, bench, ledger, method), weight))
        for name, (attack, every, few) in STRENGTHS.items():
            for strength in few if bench.options.quick else every:
                label = f"attacks/text/{name} {strength:g}/{method}"
                work = bound(_attacked, bench, ledger, method, name, attack, strength)
                cells.append(cell(label, work, weight))
        given = (("paraphraser", bench.options.paraphraser),)
        cells.append(
            cell(f"attacks/text/paraphrased/{method}", bound(_paraphrased, bench, ledger, method), weight, given)
        )
        given = (("pairs", bench.options.pairs),)
        cells.append(cell(f"attacks/text/human paraphrase/{method}", bound(human_cell, bench, method), weight, given))
    cells.append(cell("attacks/model/not changed", bound(_changed, bench, "not changed", 0.0), 2 * heavy))
    for name, (_, every_strength, few_strengths, _) in CHANGES.items():
        for strength in few_strengths if bench.options.quick else every_strength:
            label = f"attacks/model/{name} {strength:g}"
            cells.append(cell(label, bound(_changed, bench, name, strength), 2 * heavy))
    return cells


def victims(bench: Bench, ledger: Ledger, method: str) -> list[tuple[int, list[Victim]]]:
    """The attacked texts of ``method`` by batch."""
    left, found = bench.options.attacked, []
    human = [passage.text for passage in passages()][::-1]
    for index in range(bench.batches):
        made = texts_of(ledger, method, index)[:left]
        if not made:
            break
        others = [*made[1:], made[0]]
        group = []
        for sample, text, other in zip(bench.batch(index), made, others, strict=False):
            seed = zlib.crc32(f"{bench.config.seed} {sample}".encode())
            group.append(Victim(bench.loaded, text, human[sample % len(human)], other, seed))
        found.append((index, group))
        left -= len(made)
    return found


def _plain(bench: Bench, ledger: Ledger, method: str) -> Outcome:
    groups = [(index, [v.made for v in group]) for index, group in victims(bench, ledger, method)]
    return _tested(bench, ledger, method, groups, "not attacked", 0.0)


def _attacked(bench: Bench, ledger: Ledger, method: str, name: str, attack: Attack, strength: float) -> Outcome:
    groups = [(index, [attack(v, strength) for v in group]) for index, group in victims(bench, ledger, method)]
    return _tested(bench, ledger, method, groups, name, strength)


@cache
def _paraphraser(name: str) -> Paraphraser:
    return Paraphraser(name)


def _paraphrased(bench: Bench, ledger: Ledger, method: str) -> Outcome:
    if bench.options.paraphraser is None:
        raise NotAvailable("name a sequence-to-sequence model that paraphrases with --paraphraser")
    rewrite = _paraphraser(bench.options.paraphraser)
    groups = [
        (index, [v.with_text(rewrite(v.text, v.seed)) for v in group])
        for index, group in victims(bench, ledger, method)
    ]
    found = _tested(bench, ledger, method, groups, "paraphrased by a model", 1.0)
    note = f"by {bench.options.paraphraser}"
    figures = [f if f.note else f.model_copy(update={"note": note}) for f in found.figures]
    return Outcome(figures)


def _tested(
    bench: Bench, ledger: Ledger, method: str, groups: list[tuple[int, list[Made]]], name: str, strength: float
) -> Outcome:
    """The share of the texts that is found, all tokens that are left being judged."""
    bias, decoys = bias_of(ledger, method), bench.options.attacked_decoys
    room = [max(bench.options.tokens, 1)]
    p = np.concatenate([
        p_values(bench, method, made, index, bias=bias, lengths=room, decoys=decoys) for index, made in groups
    ])  # fmt: skip
    return Outcome(
        found_figures(p, method=method, lengths=room, smallest=smallest_p(method, decoys), condition=name,
                      strength=strength, measure="found after attack")
    )  # fmt: skip


def _changed(bench: Bench, name: str, strength: float) -> Outcome:
    """Texts and traces made under the key by a changed model, tested with the unchanged one, and what it lost."""
    stolen = dataclasses.replace(bench.loaded, model=copy.deepcopy(bench.loaded.model))
    if name in CHANGES:
        CHANGES[name][0](stolen, strength)
    thief = dataclasses.replace(bench, loaded=stolen, prepared=None)
    traces: list[tuple[int, list[Trace]]] = []
    left = bench.options.attacked
    for index in range(bench.batches):
        if left > 0:
            traces.append((index, make_traces(thief, OWN, index)[:left]))
            left -= len(traces[-1][1])
    length = [bench.options.tokens]
    own = [(index, [_anonymous(trace) for trace in group]) for index, group in traces]
    setting = bench.setting(OWN)
    by_trace = np.array([
        trace_p(bench.engine, trace, bench.key(index), setting, length) for index, group in own for trace in group
    ])  # fmt: skip
    by_text = np.concatenate([
        p_values(bench, OWN, [as_made(t) for t in group], index, bias=0, lengths=length,
                 decoys=bench.options.attacked_decoys)
        for index, group in own
    ])  # fmt: skip
    figures: list[Figure] = []
    for method, p in ((f"{OWN}, trace", by_trace), (OWN, by_text)):
        smallest = smallest_p(method, bench.options.attacked_decoys)
        figures += found_figures(p, method=method, lengths=length, smallest=smallest, condition=name,
                                 strength=strength, measure="found after change")  # fmt: skip
    texts = [passage.text for passage in passages()[-bench.options.passages :]]
    value, low, high = mean([passage_loss(stolen, text)[0] - passage_loss(bench.loaded, text)[0] for text in texts])
    figures.append(Figure(measure="loss of the change", unit="nats per token", method="none", condition=name,
                          strength=strength, value=value, low=low, high=high, samples=len(texts)))  # fmt: skip
    return Outcome(figures)


def _anonymous(trace: Trace) -> Trace:
    """Without what its header says of the weights, or verification would refuse the trace at once."""
    model = trace.header.model.model_copy(update={"routers": None, "weights": None})
    return dataclasses.replace(trace, header=trace.header.model_copy(update={"model": model}))
