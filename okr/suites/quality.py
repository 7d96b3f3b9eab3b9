"""Quality: what the watermark changes in the model's predictions and in its texts, each with an interval."""

import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from okr.intervals import mean, paired, share
from okr.jobs.tasks import NotAvailable
from okr.loaders import Loaded, load, passages
from okr.loaders.prediction import Predicted, predict, predict_passage
from okr.suites.baselines import text_cells, texts_of
from okr.suites.cells import Cell, Ledger, Outcome, bound, cell
from okr.suites.figures import Figure
from okr.suites.human_eval import human_eval_cell
from okr.suites.multiple_choice import choices_cell
from okr.suites.samples import Bench, Made

SHOWN = ("none", "okr", "kgw", "synthid")
OTHER = {"tiny-deepseek-moe": "tiny-switch", "tiny-switch": "tiny-deepseek-moe"}
PER_REGISTER = {True: 4, False: 8}  # passages of each register; True: quick
_KEYS_FROM = 2_000_000


def quality_cells(bench: Bench, ledger: Ledger) -> list[Cell]:
    """Every cell of the suite."""
    registers = list(dict.fromkeys(passage.register for passage in passages()))
    size = bench.options.tokens / 50
    cells = text_cells(bench, ledger, ("none", "okr", "kgw", "synthid"))
    cells += [cell(f"quality/loss/{register}", bound(_register, bench, register), 12) for register in registers]
    cells += [cell(f"quality/diversity/{m}", bound(_diversity, bench, ledger, m), 0.1) for m in SHOWN]
    cells += [cell(f"quality/load/{m}", bound(_load, bench, ledger, m), 0.2 * size) for m in ("none", "okr")]
    judge = bench.options.judge or OTHER.get(bench.loaded.source)
    given = (("judge", judge),)
    cells += [cell(f"quality/judge/{m}", bound(_judged, bench, ledger, m, judge), 6 * size, given) for m in SHOWN]
    cells += [cell(f"quality/canaries/{m}", bound(_canaries, bench, m), 6) for m in ("none", "okr")]
    if bench.options.choices is not None:
        given = (("choices", bench.options.choices),)
        cells += [cell(f"quality/choices/{m}", bound(choices_cell, bench, m), 20, given) for m in ("none", "okr")]
    if bench.options.human_eval:
        cells += [cell(f"quality/human-eval/{m}", bound(human_eval_cell, bench, m), 500) for m in ("none", "okr")]
    return cells


def _register(bench: Bench, register: str) -> Outcome:
    """Loss, cost, Kullback-Leibler divergence and next-token accuracy on passages of one register."""
    chosen = [p.text for p in passages() if p.register == register][-PER_REGISTER[bench.options.quick] :]
    native = [predict_passage(bench.loaded, text) for text in chosen]
    rows: list[dict[str, list[float]]] = []
    for number in range(bench.options.cost_keys):
        with bench.watermarked("okr", bench.key(_KEYS_FROM + number)):
            rows.append(_compared(bench.loaded, chosen, native))
    base = _described([_measure(found) for found in native])
    keyed = {name: np.mean([row[name] for row in rows], axis=0).tolist() for name in rows[0]}
    cost = paired(keyed["loss"], base["loss"])
    samples = len(chosen)

    def figure(measure: str, unit: str, method: str, values: tuple[float, float, float]) -> Figure:
        value, low, high = values
        return Figure(measure=measure, unit=unit, method=method, condition=register, value=value, low=low, high=high,
                      samples=samples)  # fmt: skip

    return Outcome([
        figure("register loss", "nats per token", "none", mean(base["loss"])),
        figure("register loss", "nats per token", "okr", mean(keyed["loss"])),
        figure("register cost", "nats per token", "okr", cost),
        figure("divergence", "nats per token", "okr", mean(keyed["divergence"], least=0)),
        figure("next token right", "share of tokens", "none", mean(base["right"], least=0, most=1)),
        figure("next token right", "share of tokens", "okr", mean(keyed["right"], least=0, most=1)),
    ])  # fmt: skip


def _measure(found: Predicted) -> dict[str, float]:
    right = (found.logits.argmax(-1) == found.targets).float().mean()
    return {"loss": found.loss(), "right": float(right)}


def _described(rows: Sequence[dict[str, float]]) -> dict[str, list[float]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def _compared(loaded: Loaded, texts: Sequence[str], native: Sequence[Predicted]) -> dict[str, list[float]]:
    """The same under the key, and KL(unkeyed || keyed) averaged over tokens."""
    rows = []
    for text, unkeyed in zip(texts, native, strict=True):
        keyed = predict_passage(loaded, text)
        p, q = (found.logits.float().log_softmax(-1) for found in (unkeyed, keyed))
        divergence = float((p.exp() * (p - q)).sum(-1).mean())
        rows.append(_measure(keyed) | {"divergence": divergence})
    return _described(rows)


def _diversity(bench: Bench, ledger: Ledger, method: str) -> Outcome:
    """Distinct n-grams as a share of all n-grams of a text, and repeated 4-grams; mean over texts."""
    made = [text.new for index in range(bench.batches) for text in texts_of(ledger, method, index)]
    figures = []
    for n in (1, 2, 3):
        figures.append(_mean_figure(f"distinct {n}-grams", "share", method, [distinct(text, n) for text in made]))
    return Outcome([*figures, _mean_figure("repeated 4-grams", "share", method, [1 - distinct(t, 4) for t in made])])


def distinct(tokens: Sequence[int], n: int) -> float:
    """How many of a text's n-grams differ, as a share of all of them; 1 where there is none."""
    grams = [tuple(tokens[place : place + n]) for place in range(len(tokens) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def _mean_figure(measure: str, unit: str, method: str, values: Sequence[float], condition: str = "") -> Figure:
    value, low, high = mean(values, least=0, most=1 if unit == "share" else np.inf)
    return Figure(measure=measure, unit=unit, method=method, condition=condition, value=value, low=low, high=high,
                  samples=len(values))  # fmt: skip


def _load(bench: Bench, ledger: Ledger, method: str) -> Outcome:
    """How often each router's busiest expert ran, as a multiple of an even load; mean over batches (keys)."""
    by_site: dict[str, list[float]] = {}
    for left in ledger.results(f"texts/{method}/"):
        for path, counts in left.data["load"].items():
            loads = np.asarray(counts, float)
            by_site.setdefault(path, []).append(float(loads.max() / max(loads.mean(), 1e-9)))
    return Outcome([
        _mean_figure("busiest expert", "multiple of an even load", method, values, path)
        for path, values in by_site.items()
    ])  # fmt: skip


@cache
def _loaded_judge(name: str) -> Loaded:
    return load(name)


def _judged(bench: Bench, ledger: Ledger, method: str, judge: str | None) -> Outcome:
    """What another model thinks of the texts: its loss given the prompt, in nats per character of the text."""
    if judge is None:
        raise NotAvailable("name a model that judges the texts with --judge")
    judging = _loaded_judge(judge)
    losses = []
    for index in range(bench.batches):
        for sample, made in zip(bench.batch(index), texts_of(ledger, method, index), strict=True):
            losses.append(judged(judging, bench.prompts[sample], _text(bench.loaded, made)))
    found = _mean_figure("judged loss", "nats per character", method, losses)
    return Outcome([found.model_copy(update={"note": f"judge: {judge}"})])


def _text(loaded: Loaded, made: Made) -> str:
    return str(loaded.tokenizer.decode(list(made.new), skip_special_tokens=True))


def judged(judge: Loaded, prompt: str, text: str) -> float:
    """The judge's loss on ``text`` after ``prompt`` in nats per character; what does not fit the judge is left out."""
    before = judge.tokenizer(prompt)["input_ids"]
    own = judge.tokenizer(text, add_special_tokens=False)["input_ids"]
    if not own:
        raise NotAvailable("a text is empty in the judge's tokens")
    positions = getattr(judge.model.config, "max_position_embeddings", None)
    if positions is not None and not judge.model.config.is_encoder_decoder:
        own = own[: max(1, positions - len(before))]
    return predict(judge, before, own).loss() * len(own) / max(1, len(judge.tokenizer.decode(own)))


def canaries() -> list[dict[str, Any]]:
    """Contexts from the embedded models' training texts whose next word is nearly always the same there."""
    text = files("okr.suites").joinpath("data/canaries.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def _canaries(bench: Bench, method: str) -> Outcome:
    """Set phrases of the training texts that the model completes exactly (greedily)."""
    if bench.loaded.source not in OTHER:
        raise NotAvailable("these canaries are set phrases that only the embedded models were trained on")
    every = canaries()
    keys = [None] if method == "none" else [bench.key(_KEYS_FROM + n) for n in range(bench.options.cost_keys)]
    hits = []
    for key in keys:
        with bench.engine.recorded() if key is None else bench.watermarked("okr", key):
            hits += [completes(bench.loaded, canary["context"], canary["answer"]) for canary in every]
    value, low, high = share(sum(hits), len(hits))
    return Outcome([
        Figure(measure="canaries", unit="share completed", method=method, value=value, low=low, high=high,
               samples=len(hits))
    ])  # fmt: skip


def completes(loaded: Loaded, context: str, answer: str) -> bool:
    """Whether the model's first choice after ``context`` is every token of ``answer`` in turn."""
    word = answer if loaded.model.config.is_encoder_decoder else f" {answer}"
    target = loaded.tokenizer(word, add_special_tokens=False)["input_ids"]
    found = predict(loaded, loaded.tokenizer(context)["input_ids"], target)
    return bool((found.logits.argmax(-1) == found.targets).all())
