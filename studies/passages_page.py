"""Make docs/passages.md from what the study of mixed documents wrote.

python studies/passages_page.py
"""

import json
from pathlib import Path
from typing import Any

from okr.pages.markdown import rows_table

ROOT = Path(__file__).parents[1]
DATA, PAGE = ROOT / "docs" / "data" / "passages.json", ROOT / "docs" / "passages.md"
FOUND = ("documents", "with a span", "spans", "false spans", "documents with a false span")
EDGES = ("documents", "of the tokens in spans, keyed", "of the keyed tokens, in spans")
TEXT = """# Mixed documents: where did the key act?

Written by `python studies/passages_page.py` from the figures of the command below; do not edit. How to ask:
[Where did the key act?](how-to/mixed-documents.md). How it works: [the last two clauses of the chapter
EVIDENCE](../spec/text/15-evidence.md).

{findings}

`python studies/passages.py --json docs/data/passages.json`, {on}.
{texts} documents in each row, of 200 tokens, of which 60 ran under the key in one to three passages at random places.
Family-wise level 0.01. A false span is one that holds no keyed token. Shares have 95% intervals of Clopper and Pearson
over documents. Twenty documents share a key and the places of their passages, so a row has ten keys and ten layouts,
and its intervals are somewhat too narrow. The keys are fresh and not vetted.

## Spans found, and false spans

{found}

Where the rest is native nothing is swapped outside the passages, so a false span is all but impossible there. The rows
with another key and with parts put together test it. No interval over 200 documents can show less than 0.018; the tests
of [documents without a keyed token](#documents-without-a-keyed-token) show more.

**Put together.** A keyed answer of 60 tokens was generated after its own prompt and then placed between two other
answers. The replay shows it behind the wrong tokens and at other positions, so the routers see other states than they
saw when the key chose, and the swaps that a replay shows are only in part those that the key made. A third of the
answers is not found then. If you have the parts, verify each as it was generated.

## How precise the edges are

A span claims that it holds keyed tokens, not that it holds them alone. Means over documents with 95% intervals: the
share of the tokens in spans that are keyed, and the share of the keyed tokens that lie in spans.

{edges}

## How short a passage may be

Passages of which a token lies in a span, by their length in tokens.

{lengths}

## Documents without a keyed token

Each document is judged under ten keys that had no part in it. The share of tests whose smallest p-value, over all
windows, is at most a level. The tests of one document share its windows, so the intervals, over tests, are somewhat too
narrow.

{unkeyed}

The family-wise error is far below its level. Native documents have p = 1 under every key, because nothing is swapped in
them. The others hold the swaps of another key. The bound of the test is about three times the tail that it bounds, and
windows overlap, so fewer are found than the level allows.

## What was chosen, and why

- **The windows** follow from the number of tokens alone: 1, 2, 3, 4, 6, 8, 12, 16 and so on up to 512 tokens, and the
  whole. Each length has an equal share of alpha. With equal parts for all windows instead, long windows would pay for
  the many short ones, and short passages are found less often.
- **The statistic** is that of the swaps, with the bound that [the p-value of a trace](detection.md#from-traces) has. It
  has no floor, so a family-wise level of 1e-6 can be asked for, it needs no decoys, and native passages show nothing
  under any key. The alternative, the rank of a window's statistic among the decoys' largest ones (Westfall and Young),
  ends at 1 / (decoys + 1). On 24 documents that were made to choose between them it found three more of 32 passages
  beside another key, each of under ten tokens, and as many as the bound where the rest was native.
- **Strong control.** Each span is a union of windows that are significant by themselves. For a window without a keyed
  token the bound needs the states and experts at its tokens not to depend on the key. Tokens after a keyed passage were
  written in a context that depends on the key, so there the bound is not proven. The rows above with another key
  measure it.
- **What is not claimed.** That tokens outside the spans are not keyed; and anything about models of other sizes. A
  model with more routers shows its key in fewer tokens.
"""


def figures() -> dict[str, Any]:
    """The figures of the study."""
    return dict(json.loads(DATA.read_text(encoding="utf-8")))


def on(found: dict[str, Any]) -> str:
    """When, and with which versions."""
    shown = [f"{name} {found['machine'][name]}" for name in found["machine"] if name not in ("processor", "date")]
    return ", ".join([found["machine"]["date"], *shown])


def part(rows: list[dict[str, Any]], names: tuple[str, ...]) -> str:
    """Some columns of the rows as a table."""
    return rows_table([{name: row[name] for name in names} for row in rows])


def findings(found: dict[str, Any]) -> str:
    """What the figures say, in a list."""
    lines = [
        f"- {row['documents']}: {row['with a span']} show a span; {row['false spans']} of {row['spans']} "
        "spans are false."
        for row in found["rows"]
    ]
    return "\n".join(lines)


def page() -> str:
    """The text of the page."""
    found = figures()
    rows = found["rows"]
    lengths = ("documents", *(name for name in rows[0] if name.startswith("passages found")))
    return TEXT.format(
        findings=findings(found),
        on=on(found),
        texts=found["texts"],
        found=part(rows, FOUND),
        edges=part(rows, EDGES),
        lengths=part(rows, lengths),
        unkeyed=rows_table(found["unkeyed"]),
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
