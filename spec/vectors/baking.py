"""Vectors of the chapter BAKE: gates to bake, bytes to seal, weights to inspect."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import baking
from ..cases import BakeCase, FloatArray, Found, InspectCase, SealCase
from ..codec import floats, unfloats
from ..subject import Subject
from ..verdicts import require

Case = BakeCase | SealCase | InspectCase
Entry = tuple[str, tuple[str, ...], str, Case]
FUNCTIONS = ("bake", "seal", "inspect")
SECRET = bytes(range(16))
BAKE, SEAL, SHOW, MATCH, BEYOND = (f"OKR-BAKE-00{number}" for number in (1, 3, 5, 6, 7))


@dataclass(frozen=True, eq=False)
class BakingVector:
    """One stored case: the function it asks, the clauses it tests, the bug it hunts and the right answer."""

    id: str
    function: str
    clauses: tuple[str, ...]
    hunts: str
    case: Case
    expected: Any

    def judge(self, subject: Subject, clause: str) -> None:
        """Raise Violation unless the answer is the stored one."""
        got = _answer(getattr(subject, self.function)(self.case))
        numbers = self.function == "inspect"
        right = self.expected
        fine = all(_close(got[name], right[name]) for name in right) if numbers else got == right
        require(fine, f"the answer is wrong; this vector hunts: {self.hunts}", expected=right, got=got)


def _close(got: float, right: float) -> bool:
    return abs(got - right) <= 1e-6 * abs(right)


def _answer(answer: Any) -> Any:
    """An answer as JSON: floats of a weight, hexadecimal bytes, or the numbers of an inspection."""
    if isinstance(answer, np.ndarray):
        return floats(answer)
    if isinstance(answer, tuple):
        return dict(zip(("tag", "sealed"), (part.hex() for part in answer), strict=True))
    return {name: float(f"{getattr(answer, name):.12g}") for name in ("z", "matched_z", "p_value")}


def every() -> Iterator[Entry]:
    """All of them."""
    weight: FloatArray = np.arange(-5, 7, dtype=np.float32).reshape(3, 4) / np.float32(16)
    plain = BakeCase(SECRET, "decoder", 0, weight, "float32", 0.1, 12.5)
    yield "plain", (BAKE,), "P laid into W untransposed", plain
    lowered = baking.rounded(weight + np.float32(0.3), "bfloat16")
    short = BakeCase(SECRET, "decoder", 7, lowered, "bfloat16", 0.1, 9.7)
    yield "bfloat16", (BAKE,), "the step rounded before it is added", short
    halves = baking.rounded(weight * np.float32(0.01), "float16")
    yield "float16", (BAKE,), "rounding to float16 twice", BakeCase(SECRET, "encoder", 3, halves, "float16", 0.2, 30.0)
    yield "plain", (SEAL,), "any other stream or tag", SealCase(SECRET, bytes(range(48)))
    yield "empty", (SEAL,), "nothing to seal", SealCase(SECRET, b"")
    long = bytes(i % 251 for i in range(300))
    yield "long-secret", (SEAL,), "the size of the secret cut to one byte", SealCase(long, b"okr")
    square = np.array([[2, 0, 1, 0, 1], [0, 3, 0, 1, 0], [1, 0, 2, 0, 1]], np.float32)
    carrying = baking.baked(BakeCase(SECRET, "decoder", 0, square, "float32", 3.0, 1.0))
    other, whole = Found("decoder", 1, 3, square[::-1].copy()), Found("decoder", 0, 3, carrying)
    yield "one-gate", (SHOW,), "W itself in place of its polar factor", InspectCase(SECRET, (whole,))
    yield "two-gates", (SHOW,), "sites averaged", InspectCase(SECRET, (whole, other))
    flat = Found("decoder", 0, 2, np.ones((2, 5), np.float32))
    yield "rank", (SHOW,), "directions that the weight lacks", InspectCase(SECRET, (flat, other))
    yield "permuted", (MATCH,), "one order", InspectCase(SECRET, (Found("decoder", 0, 3, carrying[[2, 0, 1]]),))
    fewer = Found("decoder", 0, 3, carrying[[2, 1]])
    yield "pruned", (MATCH,), "the number of injections", InspectCase(SECRET, (fewer, other))
    left = Found("decoder", 0, 3, carrying[[2, 0]], square)
    yield "original", (BEYOND,), "the columns of P in their own order", InspectCase(SECRET, (left,))


def render(name: str, clauses: tuple[str, ...], hunts: str, case: Case) -> dict[str, Any]:
    """A vector as JSON, with the oracle's answer."""
    given: dict[str, Any]
    right: Any
    if isinstance(case, BakeCase):
        function, given, right = "bake", vars(case) | {"weight": floats(case.weight)}, baking.baked(case)
    elif isinstance(case, SealCase):
        function, given, right = "seal", {"content": case.content.hex()}, baking.sealed(case)
    else:
        gates = [
            {name: floats(part) if isinstance(part, np.ndarray) else part for name, part in vars(gate).items()}
            for gate in case.gates
        ]
        function, given, right = "inspect", {"gates": gates}, baking.inspected(case)
    return {
        "id": f"{function}/{name}",
        "function": function,
        "clauses": list(clauses),
        "hunts": hunts,
        "input": given | {"secret": case.secret.hex()},
        "expected": _answer(right),
    }


def read(entry: dict[str, Any]) -> BakingVector:
    """A vector from its JSON."""
    given = entry["input"] | {"secret": bytes.fromhex(entry["input"]["secret"])}
    case: Case
    if entry["function"] == "bake":
        case = BakeCase(**{**given, "weight": unfloats(given["weight"]).astype(np.float32)})
    elif entry["function"] == "seal":
        case = SealCase(given["secret"], bytes.fromhex(given["content"]))
    else:
        case = InspectCase(given["secret"], tuple(Found(**_with_arrays(gate)) for gate in given["gates"]))
    expected = entry["expected"]
    return BakingVector(entry["id"], entry["function"], tuple(entry["clauses"]), entry["hunts"], case, expected)


def _with_arrays(gate: dict[str, Any]) -> dict[str, Any]:
    """A gate with its matrices as arrays."""
    return {name: unfloats(part).astype(np.float32) if isinstance(part, list) else part for name, part in gate.items()}
