"""Writes the vector files anew, byte for byte the same each time."""

import json
import math
from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np

from ..cases import ProjectionCase, ScoreCase, SelectCase, Setting
from ..codec import floats, hexfloat, signs
from ..registry import VERSION
from ..strategies import bfloat16, step
from . import HERE, baking, evidence_cases, expected
from . import evidence as evidence_vectors

Case = ProjectionCase | ScoreCase | SelectCase
Entry = tuple[str, tuple[str, ...], str, Case]
INF, NAN = math.inf, math.nan
SECRET = bytes(range(16))
C, G = [4.0, 3.5, 3.0, 2.0, 1.0, 0.0], [0.0, -1.0, 2.0, 1.0, 3.0, 4.0]
RISE = [0.0, 1.0, 2.0, 3.0]


def key() -> Iterator[Entry]:
    """Projections (chapter KEY)."""
    long = bytes(i % 251 for i in range(300))
    yield "plain", ("OKR-KEY-002",), "any other hash or header", ProjectionCase(SECRET, "decoder", 0, 8, 8)
    yield "odd-size", ("OKR-KEY-003",), "rows padded to whole bytes", ProjectionCase(SECRET, "decoder", 0, 3, 5)
    yield "tall", ("OKR-KEY-003",), "column-major layout", ProjectionCase(SECRET, "decoder", 0, 8, 2)
    yield "layer-256", ("OKR-KEY-002",), "layer cut to one byte", ProjectionCase(SECRET, "decoder", 256, 8, 8)
    yield "encoder", ("OKR-KEY-002",), "the stack left out", ProjectionCase(SECRET, "encoder", 0, 8, 8)
    yield "suffix", ("OKR-KEY-002",), "the suffix left out", ProjectionCase(SECRET, "decoder.second", 0, 8, 8)
    yield (
        "long-secret",
        ("OKR-KEY-002",),
        "length of the secret cut to one byte",
        ProjectionCase(long, "decoder", 1, 8, 8),
    )
    yield (
        "zeros",
        ("OKR-KEY-002",),
        "trailing zeros of a secret stripped",
        ProjectionCase(bytes(17), "decoder", 0, 8, 8),
    )
    yield "wide", ("OKR-KEY-002",), "the stream restarted block by block", ProjectionCase(SECRET, "decoder", 3, 48, 32)


def score() -> Iterator[Entry]:
    """Key scores (chapter SCORE)."""
    rng = np.random.default_rng(20)
    plus = np.array([[1, -1], [1, 1], [1, -1], [1, 1]], np.int8)

    def state(*rows: list[float]) -> Any:
        return np.array(rows, np.float32)

    yield (
        "three-four",
        ("OKR-SCORE-001",),
        "no normalisation, or by the wrong norm",
        ScoreCase(state([3, 4, 0, 0]), plus),
    )
    yield "zero", ("OKR-SCORE-002",), "0/0 at h = 0", ScoreCase(state([0, 0, 0, 0]), plus)
    yield "tiny", ("OKR-SCORE-003",), "a constant added to the norm", ScoreCase(state([3e-6, 4e-6, 0, 0]), plus)
    yield "huge", ("OKR-SCORE-003",), "float16 overflow", ScoreCase(state([3e6, 4e6, 0, 0]), plus)
    yield "cancel", ("OKR-SCORE-004",), "16-bit accumulation", ScoreCase(state([64, -64, 2**-6, 2**-7]), plus)
    large = bfloat16(rng.normal(0, 1, (2, 64)))
    matrix = rng.choice(np.array([-1, 1], np.int8), (64, 4))
    yield "bfloat16", ("OKR-SCORE-001", "OKR-SCORE-005"), "the projection of another token", ScoreCase(large, matrix)


def _select(choice: Any, key: Any, k: int, epsilon: float, zone: str = "max", strength: float = INF) -> SelectCase:
    return SelectCase(
        np.array(choice, np.float32, ndmin=2),
        np.array(key, np.float32, ndmin=2),
        Setting(k, epsilon, zone, strength),
    )


def zone() -> Iterator[Entry]:
    """Zones (chapter ZONE)."""
    yield "plain", ("OKR-SEL-002", "OKR-STR-001", "OKR-ZONE-002"), "anything at all", _select(C, G, 2, 1.5)
    yield "max-edge", ("OKR-ZONE-011",), "the edge taken as outside", _select(C, G, 2, 2.0)
    yield (
        "max-no-lock",
        ("OKR-ZONE-003",),
        "the best expert kept whatever the key",
        _select([2, 1.5, 1], [0, 1, 2], 2, 1.0),
    )
    yield (
        "boundary",
        ("OKR-ZONE-004", "OKR-ZONE-005"),
        "zone measured from the best score",
        _select(C, G, 3, 1.0, "boundary"),
    )
    yield (
        "lock-edge",
        ("OKR-ZONE-011",),
        "a score at the lock's edge locked",
        _select([3, 2, 1, 0], RISE, 2, 1.0, "boundary"),
    )
    yield (
        "reach-edge",
        ("OKR-ZONE-011",),
        "the lower edge taken as outside",
        _select([3, 2.5, 2, 1.5], RISE, 2, 1.0, "boundary"),
    )
    yield (
        "barred",
        ("OKR-ZONE-006",),
        "a barred expert lured in by its key score",
        _select([1, 0.5, -INF, 0], [0, 1, 9, 2], 2, INF),
    )
    yield "full-zone", ("OKR-ZONE-007", "OKR-SEL-001"), "as many competitors as slots", _select(C, G, 3, 1.0)
    yield "k-is-E", ("OKR-ZONE-008", "OKR-SEL-001"), "b_out read out of range", _select(C, G, 6, 1.0, "boundary")
    yield "one-expert", ("OKR-ZONE-008", "OKR-SEL-001"), "E = 1", _select([1.0], [2.0], 1, 1.0, "boundary")
    yield "all-compete-max", ("OKR-ZONE-009",), "inf - inf", _select([*C, -INF], [*G, 9], 2, INF)
    yield "all-compete-boundary", ("OKR-ZONE-009",), "inf - inf", _select([*C, -INF], [*G, 9], 2, INF, "boundary")
    near = [1.0, step(0.9, 0), step(0.9, 1), step(0.9, -1), step(0.9, -4)]
    yield "rounded-edge", ("OKR-ZONE-012",), "16-bit zone edges", _select(near, [*RISE, 4], 1, 0.1)


def selection() -> Iterator[Entry]:
    """Selections (chapter SEL)."""
    yield "zero-epsilon", ("OKR-SEL-008",), "the zone opened at epsilon = 0", _select(C, G, 2, 0.0, "boundary")
    yield (
        "swap-cost",
        ("OKR-SEL-009",),
        "epsilon doubled in the boundary zone",
        _select([3, 2, 1.5, 0.9], [0, 0, 1, 2], 2, 0.5, "boundary"),
    )
    yield "founding-rule", ("OKR-SEL-010",), "the smallest key score taken", _select([2, 1.5, 1], [0, 1, 2], 1, 0.5)
    rows = ([C, C[::-1], [0] * 6], [G, G, G])
    yield "batch", ("OKR-SEL-005",), "the zone of the whole batch", _select(*rows, 2, 1.5, "boundary")
    yield (
        "negative-keys",
        ("OKR-SEL-002", "OKR-SEL-013"),
        "absent experts ranked at 0",
        _select(C, [-1, -2, -3, -4, -5, -6], 2, 1.5),
    )
    yield "shift", ("OKR-SEL-006",), "epsilon relative to the score", _select([1004, 1003.5, 1003, 1002], RISE, 2, 1.5)


def ties() -> Iterator[Entry]:
    """Ties, and scores that differ by one unit in the last place (chapter TIE)."""
    tied = [1.0, 2.0, 2.0, 2.0, 0.0, 2.0]
    yield "tied-keys", ("OKR-TIE-001",), "unstable or last-wins sort", _select([5, 4, 3, 2, 1, 0], tied, 2, INF)
    yield "tied-native", ("OKR-TIE-002",), "ties to the higher index", _select(tied, [NAN] * 6, 3, 1.0)
    yield "tied-output", ("OKR-TIE-003", "OKR-SEL-004"), "order by key score", _select([1] * 6, G, 3, 1.0)
    yield "signed-zeros", ("OKR-TIE-004",), "-0 sorted below +0", _select([3, 2, 1, 0], [-0.0, 0.0, -0.0, 0.0], 2, INF)
    yield (
        "tied-sums",
        ("OKR-TIE-005",),
        "ties to the higher choice score",
        _select([0, 1, 2, 3], [3, 2, 1, 0], 2, INF, "max", 1.0),
    )
    ulp = [1.0, step(1, 1), step(1, 2), step(1, 3)]
    yield (
        "one-ulp-keys",
        ("OKR-TIE-006",),
        "16-bit keys, or ties within a tolerance",
        _select([3, 2, 1, 0], ulp, 1, INF),
    )
    yield "one-ulp-choice", ("OKR-TIE-007",), "16-bit scores, or ties within a tolerance", _select(ulp, RISE, 1, 0.0)


def strength() -> Iterator[Entry]:
    """Finite strengths (chapter STR)."""
    yield "soft", ("OKR-STR-002",), "strength ignored", _select(C, G, 2, INF, "max", 0.5)
    yield "soft-precise", ("OKR-STR-003",), "16-bit sums", _select([1, 1 + 2**-12], [0, 0], 1, INF, "max", 1.0)
    yield (
        "soft-bounded",
        ("OKR-STR-004",),
        "a finite strength that drops epsilon",
        _select(C, [0, 0, 0, 0, 90, 99], 2, 1.0, "boundary", 1.0),
    )
    yield (
        "overflow",
        ("OKR-STR-005",),
        "infinite sums displacing locked experts",
        _select(C, [9, 9, 9, 9, -9, 9], 3, 1.0, "boundary", 1e38),
    )
    low = [-9.0, 0.0, 0.25, 0.5, 9.0]
    yield (
        "overflow-locked",
        ("OKR-STR-005",),
        "+inf sums tied with locked experts",
        _select(low, [2] * 5, 2, 1.0, "boundary", 3e38),
    )
    yield (
        "overflow-outside",
        ("OKR-STR-005",),
        "-inf sums tied with outsiders",
        _select(low, [-2] * 5, 2, 1.0, "boundary", 3e38),
    )
    yield "beyond-float32", ("OKR-STR-005",), "inf * 0", _select(C, [0, 0, 1, 1, 0, 0], 3, 1.0, "boundary", 1e39)
    yield "weak", ("OKR-STR-006",), "key score times choice score", _select(C, G, 2, INF, "max", 2**-10)
    yield "strong", ("OKR-STR-007",), "strength clipped", _select(C, G, 2, INF, "max", 2**16)


def failopen() -> Iterator[Entry]:
    """Tokens that are not sound, and large scores (chapter FAIL)."""
    yield (
        "nan",
        ("OKR-FAIL-001", "OKR-FAIL-006"),
        "NaN at the head of a sort",
        _select([[1, NAN, 0], [2, 1, 0]], [[0, 1, 2]] * 2, 2, 1.0),
    )
    yield (
        "inf",
        ("OKR-FAIL-002", "OKR-FAIL-006"),
        "inf - inf",
        _select([[1, INF, 0], [2, 1, 0]], [[0, 1, 2]] * 2, 2, 1.0),
    )
    yield "too-few", ("OKR-FAIL-003",), "padding with one expert twice", _select([-INF, 1, -INF], [1, 2, 3], 2, INF)
    yield "nan-key", ("OKR-FAIL-004",), "NaN taken as the best key score", _select(C, [0, 0, NAN, 0, 0, 0], 2, 2.0)
    yield "inf-key", ("OKR-FAIL-004",), "an infinite key score obeyed", _select(C, [0, 0, INF, 0, 0, 0], 2, 2.0)
    yield (
        "exactly-k",
        ("OKR-FAIL-005",),
        "barred experts beside the last candidates",
        _select([-INF, 1, 0, -INF], [9, 1, 2, 3], 2, INF),
    )
    yield (
        "large",
        ("OKR-FAIL-007",),
        "an overflowing difference of scores",
        _select([3e38, -3e38, 3e38, 0], RISE, 1, 1.0),
    )


def short_numbers() -> Iterator[Entry]:
    """Scores in bfloat16, which often tie."""
    rng = np.random.default_rng(4)
    grid = bfloat16(rng.normal(0, 1, (3, 16)))
    yield "bfloat16-max", ("OKR-SEL-002",), "bfloat16 ties", _select(grid, bfloat16(rng.normal(0, 1, (3, 16))), 4, 0.5)
    yield (
        "bfloat16-boundary",
        ("OKR-SEL-002",),
        "bfloat16 ties",
        _select(grid, bfloat16(rng.normal(0, 1, (3, 16))), 4, 0.5, "boundary", 1.0),
    )


def entry(file: str, item: Entry) -> dict[str, Any]:
    """One vector as JSON."""
    name, clauses, hunts, case = item
    given: dict[str, Any]
    if isinstance(case, ProjectionCase):
        function, given = "projection", {"secret": case.secret.hex(), **case.arguments()}
    elif isinstance(case, ScoreCase):
        function, given = "key_scores", {"hidden": floats(case.hidden), "projection": signs(case.projection)}
    else:
        options = case.setting.arguments()
        options |= {name: hexfloat(options[name]) for name in ("epsilon", "strength")}
        function, given = "select", {"choice": floats(case.choice), "key_scores": floats(case.key), **options}
    return {
        "id": f"{file}/{name}",
        "function": function,
        "clauses": list(clauses),
        "hunts": hunts,
        "input": given,
        "expected": expected(case),
    }


def render() -> dict[str, str]:
    """File name to content."""
    contents = {}
    selections = chain(zone(), selection(), ties(), strength(), failopen(), short_numbers())
    for file, entries in (("1-keys", key()), ("2-scores", score()), ("3-selections", selections)):
        document = {"spec_version": VERSION, "vectors": [entry(file[2:], item) for item in entries]}
        contents[f"{file}.json"] = json.dumps(document, indent=1) + "\n"
    contents["4-evidence.json"] = _lines(evidence_vectors.render(*item) for item in evidence_cases.every())
    return contents | {"5-baking.json": _lines(baking.render(*item) for item in baking.every())}


def _lines(vectors: Iterator[dict[str, Any]]) -> str:
    """The content of a file with a vector a line."""
    lines = [json.dumps(vector) for vector in vectors]
    return f'{{\n "spec_version": "{VERSION}",\n "vectors": [\n  ' + ",\n  ".join(lines) + "\n ]\n}\n"


if __name__ == "__main__":
    for name, content in render().items():
        (HERE / name).write_text(content, "utf-8")
        print(f"{name}: {content.count(chr(34) + 'hunts' + chr(34))} vectors")
