"""Answers worked out elsewhere: a JSON file from vector id to answer, for machines the suite cannot run on.

``{"answers": {"selections/plain": {"indices": [[0, 2]]}, "keys/plain": {"projection": ["+-+-", ...]}, ...}}``; an
entry ``{"error": "..."}`` says that the implementation failed there.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import vectors
from ..codec import unfloats, unsigns
from ..verdicts import BadImplementation, Fault, Unsupported

Array = NDArray[Any]


class AnswersAdapter:
    """Answers the stored vectors and nothing else; clauses that no vector covers come out as unsupported."""

    static = True

    def __init__(self, path: Path) -> None:
        self.name = f"vectors:{path}"
        try:
            self._answers = dict(json.loads(path.read_text("utf-8"))["answers"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadImplementation(f"{path} holds no answers: {error}") from None
        self._ids = {_question(vector.function, vector.case): vector.id for vector in vectors.load()}

    def _find(self, function: str, *parts: Any) -> dict[str, Any]:
        name = self._ids.get((function, *map(_frozen, parts)))
        if name is None or name not in self._answers:
            raise Unsupported(f"no answer to {name or 'this question'}")
        answer = self._answers[name]
        if "error" in answer:
            raise Fault("crash", f"{name}: {answer['error']}")
        return dict(answer)

    def projection(self, secret: bytes, **site: Any) -> Array:
        """The stored projection."""
        return unsigns(self._find("projection", secret, *site.values())["projection"])

    def key_scores(self, hidden: Array, projection: Array) -> Array:
        """The stored scores."""
        return unfloats(self._find("key_scores", hidden, projection)["key_scores"])

    def select(self, choice: Array, key_scores: Array, **setting: Any) -> dict[str, Array | None]:
        """The stored selection."""
        answer = self._find("select", choice, key_scores, *setting.values())
        kinds = {"indices": np.int64, "opportunity": bool, "pool": bool, "locked": bool}
        return {name: np.array(answer[name], kind) for name, kind in kinds.items() if answer.get(name) is not None}


def _question(function: str, case: Any) -> tuple[Any, ...]:
    parts = {
        "projection": lambda: (case.secret, *case.arguments().values()),
        "key_scores": lambda: (case.hidden, case.projection),
        "select": lambda: (case.choice, case.key, *case.setting.arguments().values()),
    }[function]()
    return (function, *map(_frozen, parts))


def _frozen(part: Any) -> Any:
    return (part.shape, part.tobytes()) if isinstance(part, np.ndarray) else part
