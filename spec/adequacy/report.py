"""docs/adequacy.md and the tables beside it, from what was measured."""

import csv
import io
from collections import Counter
from collections.abc import Iterable
from typing import Any

from okr import errors

from . import targets
from .targets import UNREACHED

OPEN = "open: no clause notices it, and no reason is known why none should"
_GROUPS = {
    "mutation": ("okr.routing", "keys, scores and selections"),
    "detection": ("okr.detection", "verdicts on traces and on text"),
    "traces": ("okr.traces", "what ran: its parts, its files, the arrays and answers of serving engines"),
    "attach": ("okr.engines", "routing in models"),
    "baking": ("okr.baking", "keys in the weights of checkpoints"),
}
_OWN_ERRORS = {name for name, value in vars(errors).items() if isinstance(value, type)}


def documents(measured: dict[str, Any], explained: dict[str, str]) -> dict[str, str]:
    """The page, and the tables that are too long for it, by their places in docs/."""
    groups = {part: measured.get(part, []) for part in _GROUPS}
    mutants = [entry for entries in groups.values() for entry in entries]
    survivors = [
        (entry["module"], entry["line"], entry["mutant"], _explanation(entry, explained))
        for entry in mutants
        if entry["fate"] == "survived"
    ]
    return {
        "adequacy.md": _page(measured, groups, explained),
        "data/adequacy-zoo.csv": _table(
            ("zoo", "member", "bug", "caught by", "otherwise than declared"),
            (_member(part, entry) for part in ("zoo", "systems") for entry in measured.get(part, ())),
        ),
        "data/adequacy-survivors.csv": _table(("module", "line", "mutant", "explanation"), survivors),
    }


def _table(names: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([names, *rows])
    return text.getvalue()


def _member(part: str, entry: dict[str, Any]) -> tuple[str, ...]:
    odd = ", ".join(f"{clause} {said}" for clause, said in entry["surprises"].items())
    kind = "routers" if part == "zoo" else "systems"
    return kind, entry["name"], entry["bug"], ", ".join(entry["killers"]), odd


def _page(measured: dict[str, Any], groups: dict[str, Any], explained: dict[str, str]) -> str:
    parts = [_HEAD, _findings(measured, groups, explained), _ZOOS, _MUTANTS]
    for part, entries in groups.items():
        parts.append(_group(part, entries, explained))
    parts.append(_alarms(measured.get("alarms", []), measured.get("ports", [])))
    return "\n".join([*parts, _LIMITS])


def _findings(measured: dict[str, Any], groups: dict[str, Any], explained: dict[str, str]) -> str:
    lines = ["| what | figure |", "| --- | --- |"]
    for part, what in (("zoo", "broken routers"), ("systems", "broken systems")):
        entries = measured.get(part, ())
        caught = sum(bool(entry["killers"]) for entry in entries)
        exact = sum(not entry["surprises"] for entry in entries)
        lines.append(f"| {what} caught by a predicted clause | {caught} of {len(entries)}, {exact} as declared |")
    for part, entries in groups.items():
        module, _ = _GROUPS[part]
        lines.append(f"| mutants of `{module}` killed, of those that can be | {_score(entries, explained)} |")
    alarms = [*measured.get("alarms", ()), *measured.get("ports", ())]
    cases, false = sum(entry["cases"] for entry in alarms), sum(entry["alarms"] for entry in alarms)
    lines.append(f"| false alarms on correct implementations | {false} in {cases:,} cases |")
    return "\n".join([*lines, ""])


def _fates(entries: list[dict[str, Any]], explained: dict[str, str]) -> tuple[Counter[str], int]:
    """How many had each fate, and how many of the survivors are equivalent."""
    same = [e for e in entries if e["fate"] == "survived" and _explanation(e, explained).startswith("equivalent")]
    return Counter(entry["fate"] for entry in entries), len(same)


def _score(entries: list[dict[str, Any]], explained: dict[str, str]) -> str:
    fates, same = _fates(entries, explained)
    judged = fates["killed"] + fates["survived"] - same
    return f"{fates['killed'] / judged:.1%}" if judged else "-"


def _group(part: str, entries: list[dict[str, Any]], explained: dict[str, str]) -> str:
    module, what = _GROUPS[part]
    crashed = [entry for entry in entries if entry["fate"] == "crash"]
    own = sum(entry["what"].partition(":")[0] in _OWN_ERRORS for entry in crashed)
    unreached = sum(entry["what"] == UNREACHED for entry in entries)
    still = sum(entry["fate"] == "survived" and _explanation(entry, explained) == OPEN for entry in entries)
    lines = [
        f"### {module}: {what}",
        "",
        "| module | mutants | killed | crashed | hung | survived | of those equivalent | score |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in [*sorted({entry["module"] for entry in entries}), "all"]:
        chosen = [entry for entry in entries if name in (entry["module"], "all")]
        fates, same = _fates(chosen, explained)
        row = (name.removeprefix(f"{module}."), len(chosen), fates["killed"], fates["crash"], fates["timeout"])
        row += (fates["survived"], same, _score(chosen, explained))  # type: ignore[assignment]
        lines.append("| " + " | ".join(map(str, row)) + " |")
    lacking = [target.module for target in targets.PARTS[part] if target.module not in {e["module"] for e in entries}]
    if lacking:
        lines += ["", "Not measured yet: " + ", ".join(name.removeprefix(f"{module}.") for name in lacking) + "."]
    said = f"Of the crashed {own} raised one of the package's own errors. No clause runs {unreached} of the survivors;"
    return "\n".join([*lines, "", f"{said} {still} survivors are open.", ""])


def _explanation(entry: dict[str, Any], explained: dict[str, str]) -> str:
    """Of the mutant; where no clause runs it, of the function."""
    function = key(entry).partition(":")[0] if entry["what"] == UNREACHED else ""
    return explained.get(key(entry), explained.get(function, OPEN))


def key(entry: dict[str, Any]) -> str:
    """A mutant's name in survivors.json."""
    package, _, module = entry["module"].removeprefix("okr.").rpartition(".")
    return (
        f"{package}.{module}.{entry['mutant']}" if package in ("detection", "traces") else f"{module}.{entry['mutant']}"
    )


def _alarms(entries: list[dict[str, Any]], ports: list[dict[str, Any]]) -> str:
    named = ", ".join(f"`{name}`" for name in dict.fromkeys(entry["implementation"] for entry in ports))
    lines = [
        "## False alarms",
        "",
        "Correct implementations that round differently, on generated cases (nine in ten ask `select`, one in ten",
        "`key_scores`), with float32 numbers and with numbers rounded to bfloat16, which tie by the thousand.",
        "`reordered` sums back to front and rearranges the comparisons of both zones; `float64` computes everything in",
        "float64. The bound is the Clopper-Pearson upper limit (95%) on the rate per case.",
        *([f"Ports in `examples/ports`: {named}."] if ports else []),
        "",
        "| implementation | numbers | cases | false alarms | rate below |",
        "| --- | --- | --- | --- | --- |",
    ]
    for e in [*entries, *ports]:
        lines.append(f"| {e['implementation']} | {e['numbers']} | {e['cases']} | {e['alarms']} | {e['bound']:.1e} |")
    return "\n".join([*lines, ""])


_HEAD = """# Is the conformance suite any good?

Written by `python -m okr.spec.adequacy`; do not edit. A suite that everything passes is as useless as one that
accuses the innocent, so both are measured: does it catch broken implementations, and does it leave correct ones alone?
"""

_ZOOS = """## The zoos

Routers with one seeded bug each (`spec/zoo/`), and the package with one seeded bug each in its keys, attached routers,
traces, replays, verdicts or results (`spec/zoo/systems/`). Each declares the clauses it must fail, every one of them,
and those it must pass all the same. For systems only a violation counts: crashes catch nobody.
[All members](data/adequacy-zoo.csv), with their bugs and the clauses that caught them.
"""

_MUTANTS = """## Mutants

Small changes to the source (`spec/adequacy/mutants.py`): comparisons, arithmetic, logic, constants, negations,
branches, `raise` statements. Messages, annotations and imports are not mutated. A mutant counts as killed only where a
clause is violated; where it merely crashes or hangs it is listed apart, but for a few checks, of models of any make,
that count every exception as a refusal. A mutant is asked every check that runs its line. The score is killed /
(killed + survived that are not equivalent): crashes and hangs count on neither side.
[Every survivor](data/adequacy-survivors.csv), each with its explanation.
"""

_LIMITS = """## What this does not show

- The system clauses are tried on models of five families of the seventy that can be keyed, on the CPU, in float32;
  what they do not run is held by unit tests alone. The zoos change what the package does from inside, so their bugs are
  those that somebody thought of, and the same hand chose them that wrote the clauses.
- Code that checks itself raises before a clause can judge, which is no kill: a router is used only after it repeated
  the family's own output bit for bit, and every call is counted.
- Not every survivor of `okr.detection` was asked the dozen questions that take more than two seconds while they are
  watched; those of its modules `likelihood`, `text`, `spans` and `windows` were. They might lose some more.
- What is said to be not measured is judged by the clauses and their zoo, but nobody knows what they miss.
- The Triton kernels and the code that puts them to use (`okr.routing.triton_kernels`, `okr.routing.accelerated`) are
  judged by the clauses (`okr conform triton`), and so is the router that vLLM serves (`okr conform vllm`), but no
  mutants of them or of the rest of `okr.engines.vllm` were tried. Nor were those of the modules of `okr.baking` that
  read checkpoints, write folders and measure norms: no clause says how.
- Figures are of the sources they were measured on; run it again after a change.
- `torch.compile` falls back to eager code once it has specialised too often; the suite cannot see that it did.
- Numbers below 2^-126 and hidden states beyond 2^30 or below 2^-30 are outside the text's promises and not tested.
"""
