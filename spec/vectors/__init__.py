"""Static vectors: cases and legal answers as JSON, floats bit-exact. ``python -m okr.spec.vectors`` rewrites them."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from .. import oracle
from ..cases import ProjectionCase, ScoreCase, SelectCase, Setting
from ..codec import floats, signs, unfloat
from ..subject import FUNCTIONS, Subject
from ..verdicts import Violation
from . import baking, evidence
from .baking import BakingVector
from .evidence import EvidenceVector

HERE = Path(__file__).parent
SCHEMA = HERE / "schema.json"
ORDERED = ("OKR-SEL-001", "OKR-SEL-002", "OKR-SEL-004", "OKR-TIE-002", "OKR-TIE-003", "OKR-FAIL-004")
SPOILT = ("OKR-FAIL-001", "OKR-FAIL-002", "OKR-FAIL-003")  # speak of the broken tokens, not of their neighbours


@dataclass(frozen=True, eq=False)
class Vector:
    """One stored case: the function it asks, the clauses it tests and the bug it hunts."""

    id: str
    function: str
    clauses: tuple[str, ...]
    hunts: str
    case: ProjectionCase | ScoreCase | SelectCase
    expected: Any

    def answer(self, subject: Subject) -> Any:
        """What the implementation says to this case."""
        return getattr(subject, self.function)(self.case)

    def judge(self, subject: Subject, clause: str) -> None:
        """Raise Violation unless the answer is an expected one, in its order too where the clause is about that."""
        answer = self.answer(subject)
        if self.function == "projection":
            problems = self._wrong_rows(answer)
        elif self.function == "key_scores":
            problems = self._wrong_scores(answer)
        else:
            problems = self._wrong_selections(answer.indices.tolist(), clause)
        for where, expected, got in problems:
            raise Violation(f"{where} is wrong; this vector hunts: {self.hunts}", expected=expected, got=got)

    def _wrong_rows(self, answer: Any) -> Iterator[tuple[str, str, str]]:
        for row, (right, given) in enumerate(zip(self.expected, signs(answer), strict=True)):
            if right != given:
                yield f"row {row}", right, given

    def _wrong_scores(self, answer: Any) -> Iterator[tuple[str, str, str]]:
        low, high = (np.array([[unfloat(v) for v in r] for r in self.expected[k]]) for k in ("low", "high"))
        for token, expert in np.argwhere(~((answer >= low) & (answer <= high))).tolist():
            bounds = f"{low[token, expert]:.9g} to {high[token, expert]:.9g}"
            yield f"token {token}, expert {expert}", bounds, f"{answer[token, expert]:.9g}"

    def _wrong_selections(self, answer: list[list[int]], clause: str) -> Iterator[tuple[str, str, str]]:
        for token, (legal, taken) in enumerate(zip(self.expected, answer, strict=True)):
            if not self._legal(taken, legal, clause):
                yield f"token {token}", " or ".join(map(str, legal or ["any distinct experts"])), str(taken)

    def _legal(self, taken: list[int], legal: list[list[int]] | None, clause: str) -> bool:
        """Whether one token's selection is what ``clause`` asks; None stands for any k distinct experts."""
        if legal is None:
            assert isinstance(self.case, SelectCase)
            return len(set(taken)) == len(taken) and set(taken) <= set(range(self.case.experts))
        plain = list if clause in ORDERED else sorted
        return clause in SPOILT or plain(taken) in [plain(one) for one in legal]


def files() -> list[Path]:
    """The vector files, by name."""
    return sorted(path for path in HERE.glob("*.json") if path != SCHEMA)


@cache
def load() -> tuple[Vector, ...]:
    """The stored vectors of the functions of a router."""
    return tuple(_read(entry) for entry in _entries() if entry["function"] in FUNCTIONS)


@cache
def load_evidence() -> tuple[EvidenceVector, ...]:
    """The stored vectors of chapter EVIDENCE, which no router answers."""
    return tuple(evidence.read(entry) for entry in _entries() if entry["function"] == evidence.FUNCTION)


@cache
def load_baking() -> tuple[BakingVector, ...]:
    """The stored vectors of chapter BAKE, which no router answers."""
    return tuple(baking.read(entry) for entry in _entries() if entry["function"] in baking.FUNCTIONS)


def _entries() -> Iterator[dict[str, Any]]:
    for path in files():
        yield from json.loads(path.read_text("utf-8"))["vectors"]


@cache
def for_clause(clause: str) -> tuple[Vector | EvidenceVector | BakingVector, ...]:
    """The vectors that test a clause."""
    everything: tuple[Vector | EvidenceVector | BakingVector, ...] = (*load(), *load_evidence(), *load_baking())
    return tuple(vector for vector in everything if clause in vector.clauses)


@cache
def smoke() -> tuple[Vector, ...]:
    """One plain vector for each function: the first of its kind."""
    return tuple({vector.function: vector for vector in reversed(load())}.values())


def _read(entry: dict[str, Any]) -> Vector:
    given = entry["input"]
    case: ProjectionCase | ScoreCase | SelectCase
    if entry["function"] == "projection":
        case = ProjectionCase(**{**given, "secret": bytes.fromhex(given["secret"])})
    elif entry["function"] == "key_scores":
        matrix = [[1 if sign == "+" else -1 for sign in row] for row in given["projection"]]
        case = ScoreCase(_array(given["hidden"]), np.array(matrix, np.int8))
    else:
        setting = Setting(given["top_k"], unfloat(given["epsilon"]), given["zone"], unfloat(given["strength"]))
        case = SelectCase(_array(given["choice"]), _array(given["key_scores"]), setting)
    return Vector(entry["id"], entry["function"], tuple(entry["clauses"]), entry["hunts"], case, entry["expected"])


def _array(rows: list[list[str]]) -> Any:
    return np.array([[unfloat(v) for v in row] for row in rows], np.float32)


def expected(case: ProjectionCase | ScoreCase | SelectCase) -> Any:
    """What a vector's answer may be, from the oracle: signs, a range per score, or the legal selections per token."""
    if isinstance(case, ProjectionCase):
        return signs(oracle.projection(case.secret, **case.arguments()))
    if isinstance(case, ScoreCase):
        exact, bound = oracle.key_scores(case.hidden, case.projection)
        return {"low": floats(exact - bound), "high": floats(exact + bound)}
    legal = [oracle.legal_selections(choice, key, case.setting) for choice, key in oracle.rows(case)]
    for (choice, _), found in zip(oracle.rows(case), legal, strict=True):
        if (
            found is None
            and all(c < math.inf for c in choice)
            and sum(c > -math.inf for c in choice) >= case.setting.top_k
        ):
            raise ValueError("too many legal selections for a vector")
    return legal
