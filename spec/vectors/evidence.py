"""Vectors of the chapter EVIDENCE: small traces with their swap weights, z and p-value."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import evidence
from ..cases import EvidenceCase, Routed, Setting
from ..codec import unfloat, unfloats
from ..subject import Subject
from ..verdicts import require

FUNCTION = "evidence"
_WEIGHTS = ("OKR-EVIDENCE-001", "OKR-EVIDENCE-002")


@dataclass(frozen=True, eq=False)
class EvidenceVector:
    """One stored case: the clauses it tests, the bug it hunts and the right answer."""

    id: str
    clauses: tuple[str, ...]
    hunts: str
    case: EvidenceCase
    expected: dict[str, Any]

    def judge(self, subject: Subject, clause: str) -> None:
        """Raise Violation unless the answer is the stored one: the weights where the clause is about them, else z and
        p."""
        answer = subject.evidence(self.case)
        hunted = f"this vector hunts: {self.hunts}"
        if clause in _WEIGHTS:
            got, right = [part.tolist() for part in answer.weights], self.expected["weights"]
            fine = all(np.allclose(a, b, rtol=1e-9, atol=0) for a, b in zip(got, right, strict=True))
            require(fine, f"the swap weights are wrong; {hunted}", expected=right, got=got)
            return
        evidence.require_same_z(hunted, self.expected["z"], answer.z)
        evidence.require_close(f"the p-value is wrong; {hunted}", self.expected["p_value"], answer.p_value)


def read(entry: dict[str, Any]) -> EvidenceVector:
    """A vector from its JSON."""
    given = entry["input"]
    setting = Setting(given["top_k"], unfloat(given["epsilon"]), given["zone"], unfloat(given["strength"]))
    shown = tuple(
        Routed(
            stack=part["stack"],
            layer=part["layer"],
            choice=unfloats(part["choice"]).astype(np.float32),
            hidden=unfloats(part["hidden"]).astype(np.float32),
            experts=np.array(part["experts"], np.int64),
        )
        for part in given["shown"]
    )
    case = EvidenceCase(bytes.fromhex(given["secret"]), setting, shown)
    return EvidenceVector(entry["id"], tuple(entry["clauses"]), entry["hunts"], case, entry["expected"])


def render(name: str, clauses: tuple[str, ...], hunts: str, case: EvidenceCase) -> dict[str, Any]:
    """A vector as JSON, with the oracle's answer."""
    setting = {key: _plain(value) for key, value in case.setting.arguments().items()}
    shown = [
        {
            "stack": part.stack,
            "layer": part.layer,
            "choice": _rows(part.choice),
            "hidden": _rows(part.hidden),
            "experts": part.experts.tolist(),
        }
        for part in case.shown
    ]
    right = evidence.answer(case)
    expected = {
        "weights": [_rows(part) for part in right.weights],
        "swaps": right.swaps,
        "z": _rounded(right.z),
        "p_value": _rounded(right.p_value),
    }
    return {
        "id": f"{FUNCTION}/{name}",
        "function": FUNCTION,
        "clauses": list(clauses),
        "hunts": hunts,
        "input": {"secret": case.secret.hex(), **setting, "shown": shown},
        "expected": expected,
    }


def _rows(array: Any) -> list[list[Any]]:
    return [[_plain(value) for value in row] for row in array.tolist()]


def _rounded(value: float) -> float:
    """A number to as many digits as every machine computes alike."""
    return float(f"{value:.12g}")


def _plain(value: Any) -> Any:
    """A number as JSON: whole where it is, and as text where it is not finite."""
    if not isinstance(value, float):
        return value
    if not math.isfinite(value):
        return str(value)
    return int(value) if value.is_integer() else value
