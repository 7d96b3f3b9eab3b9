"""docs/adequacy.md, from what was measured."""

from collections import Counter
from typing import Any

from okr import errors

from .mutation import UNREACHED

_HEAD = """# Is the conformance suite any good?

Written by `python -m okr.spec.adequacy`; do not edit. A suite that everything passes is as useless as one that
accuses the innocent, so both are measured: does it catch broken routers, and does it leave correct ones alone?
"""


def render(measured: dict[str, Any], explained: dict[str, str]) -> str:
    """The document. Parts that were never measured say so."""
    parts = [_HEAD]
    parts.append(_zoo(measured["zoo"], *_ROUTERS) if "zoo" in measured else "## The zoo\n\nNot measured yet.\n")
    if "systems" in measured:
        parts.append(_zoo(measured["systems"], *_SYSTEMS))
    parts.append(
        _mutation(measured["mutation"], explained) if "mutation" in measured else "## Mutants\n\nNot measured yet.\n"
    )
    if "attach" in measured:
        parts.append(_attach(measured["attach"], explained))
    alarms = [*measured.get("alarms", []), *measured.get("ports", [])]
    parts.append(_alarms(alarms) if alarms else "## False alarms\n\nNot measured yet.\n")
    parts.append(_LIMITS)
    return "\n".join(parts)


_ROUTERS = (
    "The zoo of routers",
    "Routers with one seeded bug each (`spec/zoo/`). Each declares the clauses it must fail, every one of them,",
    "and those it must pass all the same.",
)
_SYSTEMS = (
    "The zoo of systems",
    "The package with one seeded bug each in its keys, attached routers, traces, replays, verdicts or results",
    "(`spec/zoo/systems/`), declared in the same way. Here only a violation counts: crashes catch nobody.",
)


def _zoo(entries: list[dict[str, Any]], title: str, *what: str) -> str:
    killed = sum(bool(e["killers"]) for e in entries)
    exact = sum(not e["surprises"] for e in entries)
    lines = [
        f"## {title}",
        "",
        *what,
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
    return "\n".join([*lines, *_survivors(entries, explained), ""])


def _survivors(entries: list[dict[str, Any]], explained: dict[str, str]) -> list[str]:
    rows = [f"| {_name(e)} | {_explanation(e, explained)} |" for e in entries if e["fate"] == "survived"]
    return ["| survivor | explanation |", "| --- | --- |", *rows]


def _explanation(entry: dict[str, Any], explained: dict[str, str]) -> str:
    """Of the mutant; where no clause runs its function, of the function."""
    function = _key(entry).partition(":")[0] if entry["what"] == UNREACHED else ""
    return explained.get(_key(entry), explained.get(function, "NOT EXPLAINED"))


def _fates(entries: list[dict[str, Any]], explained: dict[str, str]) -> list[str]:
    """One row a module and one for all."""
    lines = []
    for module in [*sorted({e["module"] for e in entries}), "all"]:
        group = [e for e in entries if module in (e["module"], "all")]
        fates = Counter(e["fate"] for e in group)
        same = sum(e["fate"] == "survived" and _explanation(e, explained).startswith("equivalent") for e in group)
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


def _attach(entries: list[dict[str, Any]], explained: dict[str, str]) -> str:
    crashed = [e for e in entries if e["fate"] == "crash"]
    own = sum(e["what"].partition(":")[0] in _OWN_ERRORS for e in crashed)
    unreached = sum(e["what"] == UNREACHED for e in entries)
    lines = [
        "## Mutants of okr.engines",
        "",
        "A sixth of the mutants of the code that puts routing into models, drawn by lot with a fixed seed, asked of",
        "the chapters WEIGHT, TRACE, REPLAY and ATTACH, and TEXT for the engine that scores texts, on models of five",
        "families, with 60 cases where the ci profile has 150. A mutant is asked only the clauses that call its",
        "function; where none does, it survives.",
        "",
        "This code checks itself: a router is used only after it repeated the family's own output bit for bit, and",
        "every call is counted. So many mutants raise before a clause can judge, which is no kill: of",
        f"{len(crashed)} that crashed, {own} raised one of the package's own errors, the others Python's or torch's.",
        "",
        "| module | mutants | killed by a clause | crashed | hung | survived | of those equivalent | score |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *_fates(entries, explained),
        "",
        f"Of the survivors {unreached} stand in functions that no clause calls: the score is low where that is much.",
        "",
        *_survivors(entries, explained),
    ]
    return "\n".join([*lines, ""])


_OWN_ERRORS = {name for name, value in vars(errors).items() if isinstance(value, type)}


def _alarms(entries: list[dict[str, Any]]) -> str:
    lines = [
        "## False alarms",
        "",
        "Correct implementations that round differently, on generated cases (nine in ten ask `select`, one in ten",
        "`key_scores`), with float32 numbers and with numbers rounded to bfloat16, which tie by the thousand.",
        "`reordered` sums back to front and rearranges the comparisons of both zones; `float64` computes everything in",
        "float64; `jax` and others after it are the ports in `examples/ports`. The bound is the Clopper-Pearson upper",
        "limit (95%) on the rate per case.",
        "",
        "| implementation | numbers | cases | false alarms | rate below |",
        "| --- | --- | --- | --- | --- |",
    ]
    for e in entries:
        lines.append(f"| {e['implementation']} | {e['numbers']} | {e['cases']} | {e['alarms']} | {e['bound']:.1e} |")
    return "\n".join([*lines, ""])


_LIMITS = """## What this does not show

- The system clauses are tried on models of five families of the seventy that can be keyed, on the CPU, in float32;
  what they do not run is held by unit tests alone. Their zoo changes the package from inside, so its bugs are those
  that somebody thought of.
- The system clauses catch every bug of their zoo, but of the mutants of `okr.engines.transformers` that neither crash
  nor are equivalent they kill a third: most of the others change what happens on a card, in families that the clauses
  do not run, or how strict the engine is with itself. Unit tests stand for those.
- The Triton kernels and the code that puts them to use (`okr.routing.triton_kernels`, `okr.routing.accelerated`) are
  judged by the clauses (`okr conform triton`), but no mutants of them were tried.
- Figures are of the sources they were measured on; run it again after a change of `okr.routing`.
- The zoo's bugs were chosen by the same hand that wrote the clauses.
- `torch.compile` falls back to eager code once it has specialised too often; the suite cannot see that it did.
- Numbers below 2^-126 and hidden states beyond 2^30 or below 2^-30 are outside the text's promises and not tested.
"""
