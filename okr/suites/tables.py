"""Tables of a suite's figures, for report.html and report.md alike."""

from collections.abc import Sequence

from okr.pages.numbers import NONE, number
from okr.pages.sections import Table
from okr.suites.figures import Figure
from okr.suites.model_attacks import CHANGES
from okr.suites.runner import SuiteResults

LABELS = {
    "okr": "OKR, from text",
    "okr, trace": "OKR, from the trace",
    "okr louder": "OKR louder, from text",
    "okr louder, trace": "OKR louder, from the trace",
    "none by okr, trace": "no watermark, tested by OKR's trace test",
    "kgw": "KGW",
    "kgw louder": "KGW louder",
    "synthid": "SynthID",
    "synthid shallow": "SynthID, one layer",
    "none": "no watermark",
}


def label(method: str) -> str:
    """What a method is called in a report."""
    return LABELS.get(method, method)


def amount(condition: str, strength: float | None) -> str:
    """The strength of an attack with its unit; empty where there is one strength only."""
    if condition in _ONE:
        return ""
    return f"{strength:g} {CHANGES[condition][3]}" if condition in CHANGES else f"{strength:g}"


def interval(figure: Figure | None, digits: int = 3) -> str:
    """A figure with its interval; a dash where it was not, or could not be, measured."""
    if figure is None or figure.value is None:
        return NONE
    if figure.low is None or figure.high is None:
        return number(figure.value, digits)
    spread = f"{number(figure.low, digits)} to {number(figure.high, digits)}"
    return f"{number(figure.value, digits)} ({spread})"


def baseline_tables(results: SuiteResults) -> list[Table]:
    """Cost, power and false alarms of every method."""
    tables = [_costs(results)]
    found, alarms = results.figures("found", "baselines"), results.figures("false alarms", "baselines")
    if found:
        caption = (
            f"Share of texts found, with 95% Clopper-Pearson intervals; {_samples(found)} texts of each method, "
            f"{min(results.options.batch, results.options.samples)} under each key.{_unmeasured(found)}"
        )
        tables.append(by_length("Found, by length and false-positive rate", caption, found))
    if alarms:
        caption = (
            "Share of unmarked texts that the same tests would have found: it should lie at the false-positive rate or "
            f"below. Tests in stages and ties keep it below.{_unmeasured(alarms)}"
        )
        tables.append(by_length("False alarms", caption, alarms))
    return [table for table in tables if table.rows]


def _costs(results: SuiteResults) -> Table:
    held_out = {figure.method: figure for figure in results.figures("held-out cost")}
    texts = {figure.method: figure for figure in results.figures("text loss", "baselines")}
    methods = list(dict.fromkeys([*held_out, *texts]))
    rows = [
        (label(m).removesuffix(", from text"), interval(held_out.get(m), 4), interval(texts.get(m), 3),
         held_out[m].note if m in held_out else "")
        for m in methods
    ]  # fmt: skip
    return Table(
        "Cost",
        f"Added loss on {results.options.passages} held-out passages (95% interval over passages, "
        f"{_keys(results)}), and the loss of the method's own texts under the unmarked model (95% "
        "interval over texts); nats per token, both at the temperature of sampling. SynthID keeps the model's "
        "distribution on average over keys: its text loss shows that, its held-out cost, under one key, does not.",
        ("method", "held-out cost", "loss of its texts", ""),
        tuple(rows),
    )


def by_length(title: str, caption: str, figures: Sequence[Figure]) -> Table:
    """Methods down, lengths and levels across."""
    columns = sorted({(f.tokens or 0, -(f.level or 0)) for f in figures if f.value is not None})
    at = {(f.method, f.tokens or 0, -(f.level or 0)): f for f in figures}
    rows = tuple(
        (label(method), *(interval(at.get((method, *column)), 2) for column in columns))
        for method in dict.fromkeys(f.method for f in figures)
    )
    header = ("method", *(f"{tokens} tokens, FPR {-level:g}" for tokens, level in columns))
    return Table(title, caption, header, rows)


def _samples(figures: Sequence[Figure]) -> str:
    counts = sorted({figure.samples for figure in figures})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _unmeasured(figures: Sequence[Figure]) -> str:
    """A sentence on what could not be measured; empty where everything was."""
    missing = [f for f in figures if f.value is None and f.note]
    sentences = []
    for note in dict.fromkeys(f.note for f in missing):
        own = [f for f in missing if f.note == note]
        methods = "; ".join(dict.fromkeys(label(f.method) for f in own))
        levels = ", ".join(dict.fromkeys(f"{f.level:g}" for f in own))
        sentences.append(f" {note.capitalize()}: {methods}, at FPR {levels}.")
    return "".join(sentences)


def _keys(results: SuiteResults) -> str:
    count = results.options.cost_keys
    return "one key" if count == 1 else f"mean of {count} keys"


def failed_table(results: SuiteResults) -> Table | None:
    """Cells that were not done, with the reason; None where all were."""
    rows = tuple((cell.name, cell.status, cell.reason) for cell in results.cells if cell.status != "done")
    if not rows:
        return None
    caption = "Each of these costs its own figures only. Those that failed are tried again with --resume."
    return Table("Not measured", caption, ("cell", "", "reason"), rows)


def quality_tables(results: SuiteResults) -> list[Table]:
    """Losses by register, the texts' diversity, the experts' load, the judge, canaries and accuracy."""
    tables = [_registers(results), _texts(results), _loads(results), _tasks(results)]
    return [table for table in tables if table.rows]


def _registers(results: SuiteResults) -> Table:
    names = (
        ("register loss", "none", 3), ("register cost", "okr", 4), ("divergence", "okr", 4),
        ("next token right", "none", 3), ("next token right", "okr", 3),
    )  # fmt: skip
    columns = [{f.condition: f for f in results.figures(m) if f.method == by} for m, by, _ in names]
    rows = tuple(
        (register, *(interval(column.get(register), d) for column, (_, _, d) in zip(columns, names, strict=True)))
        for register in columns[0]
    )
    header = ("register", "loss without a key", "added under the key", "divergence", "next token right, without",
              "next token right, keyed")  # fmt: skip
    caption = (
        "Held-out human text by register: loss and what the key adds to it, Kullback-Leibler divergence of the keyed "
        "from "
        "the unkeyed model, all in nats per token; the share of tokens that are the model's first choice. 95% "
        "intervals "
        f"over passages, {_keys(results)}."
    )
    return Table("Predictions on held-out text", caption, header, rows)


def _texts(results: SuiteResults) -> Table:
    measures = ("judged loss", *(f"distinct {n}-grams" for n in (1, 2, 3)), "repeated 4-grams")
    columns = [{f.method: f for f in results.figures(measure)} for measure in measures]
    methods = list(dict.fromkeys(method for column in columns for method in column))
    judges = {f.note for f in results.figures("judged loss")}
    rows = tuple((label(m).removesuffix(", from text"), *(interval(c.get(m)) for c in columns)) for m in methods)
    caption = (
        "Judged loss: what another model thinks of the texts, given their prompts, in nats per character "
        f"({'; '.join(judges) or 'no judge'}). Distinct n-grams as a share of a text's n-grams; 4-grams of a text that "
        "came before in it. 95% intervals over texts."
    )
    return Table("The texts", caption, ("method", *measures), rows)


def _loads(results: SuiteResults) -> Table:
    figures = results.figures("busiest expert")
    at = {(f.condition, f.method): f for f in figures}
    rows = tuple(
        (site, interval(at.get((site, "none")), 2), interval(at.get((site, "okr")), 2))
        for site in dict.fromkeys(f.condition for f in figures)
    )
    caption = "How often the busiest expert ran, as a multiple of an even load. 95% intervals over batches of texts."
    return Table("Expert load", caption, ("router", "without a key", "under the key"), rows)


def _tasks(results: SuiteResults) -> Table:
    rows = []
    for measure in ("canaries", "multiple choice", "HumanEval pass@1"):
        own = {f.method: f for f in results.figures(measure)}
        if own:
            samples = next(iter(own.values())).samples
            rows.append((measure, interval(own.get("none")), interval(own.get("okr")), str(samples)))
    caption = (
        "Exact answers, with 95% Clopper-Pearson intervals. Canaries: set phrases of the embedded models' training "
        "texts, "
        "completed word for word by the model's first choice."
    )
    return Table("Tasks", caption, ("task", "without a key", "under the key", "items without a key"), tuple(rows))


def attack_tables(results: SuiteResults) -> list[Table]:
    """What is found after attacks on the text, on the model, and what a human paraphrase leaves."""
    text = results.figures("found after attack")
    tables = [
        _attacks("Attacks on the text", _TEXT_CAPTION, text),
        _attacks("Attacks on the model", _MODEL_CAPTION, results.figures("found after change"), results),
        _carried(results),
    ]
    return [table for table in tables if table.rows]


_TEXT_CAPTION = (
    "Share of texts found after the attack, with 95% Clopper-Pearson intervals, all tokens that are left being judged. "
    "Strength: the share of tokens (synonyms: of words that have one) that is changed, lost, added or human. The "
    "prompt is "
    "known to whoever tests, save in the two rows about it. Traces do not depend on what is done to a text afterwards."
)
_MODEL_CAPTION = (
    "Texts and traces written under the key by a changed copy of the model and tested with the unchanged one: shares "
    "found, "
    "with 95% Clopper-Pearson intervals, and what the change itself costs on held-out text. Fine-tuning: steps of "
    "AdamW at "
    "1e-4; noise: as a share of each matrix's deviation; rounded: to so many bits and back; pruned: the share of "
    "experts "
    "that were emptied; router replaced: by fresh random weights of the same size."
)


_ONE = ("not attacked", "not changed", "re-encoded", "sentences shuffled", "prompt unknown", "wrong prompt",
        "paraphrased by a model", "router replaced")  # fmt: skip


def _attacks(title: str, caption: str, figures: Sequence[Figure], losses: SuiteResults | None = None) -> Table:
    """Conditions and strengths down, methods and levels across."""
    columns = list(dict.fromkeys((f.method, f.level) for f in figures if f.value is not None))
    lost = {(f.condition, f.strength): f for f in losses.figures("loss of the change")} if losses else {}
    at = {(f.condition, f.strength, f.method, f.level): f for f in figures}
    rows = []
    for condition, strength in dict.fromkeys((f.condition, f.strength) for f in figures):
        own = [interval(at.get((condition, strength, *column)), 2) for column in columns]
        extra = [interval(lost.get((condition, strength)))] if losses else []
        rows.append((condition, amount(condition, strength), *own, *extra))
    header = ["attack", "strength", *(f"{label(method)}, FPR {level:g}" for method, level in columns)]
    header += ["loss added, nats per token"] if losses else []
    if figures:
        caption = f"{figures[0].samples} texts of {figures[0].tokens} tokens a row. {caption}{_unmeasured(figures)}"
    return Table(title, caption, tuple(header), tuple(rows))


def _carried(results: SuiteResults) -> Table:
    figures = results.figures("evidence carried over")
    at = {(f.method, f.condition): f for f in figures}
    rows = tuple(
        (label(m), interval(at.get((m, "human paraphrase")), 2), interval(at.get((m, "unrelated text")), 2))
        for m in dict.fromkeys(f.method for f in figures)
    )
    caption = (
        "Two human translations of the same passages. Nobody wrote them under a key; what is shown is the "
        "correlation over "
        "keys between a method's score of one translation and of the other: how much of the evidence in a text would "
        "survive such a paraphrase (1: all, 0: none), beside the level between unrelated texts. 95% intervals over "
        "pairs."
    )
    return Table("Human paraphrase", caption, ("method", "other translation", "unrelated text"), rows)
