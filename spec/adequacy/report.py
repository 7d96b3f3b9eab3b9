"""docs/adequacy.md, from what was measured."""

from collections import Counter
from typing import Any

_HEAD = """# Is the conformance suite any good?

Written by `python -m spec.adequacy`; do not edit. A suite that everything passes is as useless as one that accuses the
innocent, so both are measured: does it catch broken routers, and does it leave correct ones alone?
"""


def render(measured: dict[str, Any], explained: dict[str, str]) -> str:
    """The document. Parts that were never measured say so."""
    parts = [_HEAD]
    parts.append(_zoo(measured["zoo"]) if "zoo" in measured else "## The zoo\n\nNot measured yet.\n")
    parts.append(
        _mutation(measured["mutation"], explained) if "mutation" in measured else "## Mutants\n\nNot measured yet.\n"
    )
    if "attach" in measured:
        parts.append(_attach(measured["attach"]))
    parts.append(_alarms(measured["alarms"]) if "alarms" in measured else "## False alarms\n\nNot measured yet.\n")
    parts.append(_LIMITS)
    return "\n".join(parts)


def _zoo(entries: list[dict[str, Any]]) -> str:
    killed = sum(bool(e["killers"]) for e in entries)
    exact = sum(not e["surprises"] for e in entries)
    lines = [
        "## The zoo",
        "",
        "Routers with one seeded bug each (`spec/zoo/`). Each declares the clauses it must fail, every one of them,",
        "and those it must pass all the same.",
        "",
        f"- members: {len(entries)}; killed by a predicted clause: {killed}; exactly as declared: {exact}",
        "",
        "| member | bug | caught by | otherwise than declared |",
        "| --- | --- | --- | --- |",
    ]
    for e in entries:
        odd = ", ".join(f"{c} {v}" for c, v in e["surprises"].items()) or "-"
        lines.append(f"| {e['name']} | {e['bug']} | {', '.join(e['killers'])} | {odd} |")
    return "\n".join([*lines, ""])


def _mutation(entries: list[dict[str, Any]], explained: dict[str, str]) -> str:
    lines = [
        "## Mutants of okr.routing",
        "",
        "Small changes to the source (`spec/adequacy/mutants.py`): comparisons, arithmetic, logic, constants,",
        "negations, branches, `raise` statements. A mutant counts as killed only where a clause is violated; where it",
        "merely crashes or hangs it is listed apart. Messages, annotations and imports are not mutated.",
        "",
        "| module | mutants | killed by a clause | crashed | hung | survived | of those equivalent | score |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += _fates(entries, explained)
    lines += [
        "",
        "Score: killed / (killed + survived that are not equivalent). Crashes and hangs count on neither side.",
        "",
    ]
    lines += ["| survivor | explanation |", "| --- | --- |"]
    for e in entries:
        if e["fate"] == "survived":
            lines.append(f"| {_name(e)} | {explained.get(_key(e), 'NOT EXPLAINED')} |")
    return "\n".join([*lines, ""])


def _fates(entries: list[dict[str, Any]], explained: dict[str, str]) -> list[str]:
    """One row a module and one for all."""
    lines = []
    for module in [*sorted({e["module"] for e in entries}), "all"]:
        group = [e for e in entries if module in (e["module"], "all")]
        fates = Counter(e["fate"] for e in group)
        same = sum(e["fate"] == "survived" and explained.get(_key(e), "").startswith("equivalent") for e in group)
        judged = fates["killed"] + fates["survived"] - same
        score = f"{fates['killed'] / judged:.1%}" if judged else "-"
        row = (module, len(group), fates["killed"], fates["crash"], fates["timeout"], fates["survived"], same, score)
        lines.append("| " + " | ".join(map(str, row)) + " |")
    return lines


def _key(entry: dict[str, Any]) -> str:
    """A mutant's name in survivors.json."""
    return f"{entry['module'].rpartition('.')[2]}.{entry['mutant']}"


def _name(entry: dict[str, Any]) -> str:
    name = entry["mutant"].replace("|", "\\|")
    return f"`{entry['module'].rpartition('.')[2]}:{entry['line']}` {name}"


def _attach(entries: list[dict[str, Any]]) -> str:
    lines = [
        "## Mutants of okr.attach",
        "",
        "Every sixteenth mutant of the code that puts routing into models, asked of the chapters WEIGHT, ATTACH, TRACE",
        "and REPLAY on two small models. Much of this code checks itself and raises, so many mutants crash. The two",
        "models are of two families out of many, each run in one way: what survives stands in code for other families,",
        "devices and ways to generate, or for speed, which unit tests cover and clauses do not.",
        "",
        "| module | mutants | killed by a clause | crashed | hung | survived | of those equivalent | score |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *_fates(entries, {}),
        "",
        "No survivor here was examined for equivalence.",
        "",
        "| survivor |",
        "| --- |",
    ]
    lines += [f"| {_name(e)} |" for e in entries if e["fate"] == "survived"]
    return "\n".join([*lines, ""])


def _alarms(entries: list[dict[str, Any]]) -> str:
    lines = [
        "## False alarms",
        "",
        "Correct implementations that round differently, on generated cases (nine in ten ask `select`, one in ten",
        "`key_scores`), with float32 numbers and with numbers rounded to bfloat16, which tie by the thousand.",
        "`reordered` sums back to front and rearranges the comparisons of both zones; `float64` computes everything in",
        "float64. The bound is the Clopper-Pearson upper limit (95%) on the rate per case.",
        "",
        "| implementation | numbers | cases | false alarms | rate below |",
        "| --- | --- | --- | --- | --- |",
    ]
    for e in entries:
        lines.append(f"| {e['implementation']} | {e['numbers']} | {e['cases']} | {e['alarms']} | {e['bound']:.1e} |")
    return "\n".join([*lines, ""])


_LIMITS = """## What this does not show

- The system clauses have no zoo of their own.
- The system clauses are weakly shown to catch anything: a first run over 48 mutants of `okr/attach` (two cases where
  the ci profile has thirty) killed none; 16 crashed, since that code checks itself and raises, and 32 survived, some
  of which the ci profile does catch. `python -m spec.adequacy attach` measures it with ci's cases; not yet done.
- Figures are of the sources they were measured on; run it again after a change of `okr.routing`.
- The zoo's bugs were chosen by the same hand that wrote the clauses.
- `torch.compile` falls back to eager code once it has specialised too often; the suite cannot see that it did.
- Numbers below 2^-126 and hidden states beyond 2^30 or below 2^-30 are outside the text's promises and not tested.
"""
