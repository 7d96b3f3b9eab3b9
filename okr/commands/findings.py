"""How ``okr verify`` and ``okr detect`` take several pieces of evidence, and how they say what they found."""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from okr.commands.options import say
from okr.errors import InvalidText, InvalidTrace

if TYPE_CHECKING:
    from okr.detection import Verdict

FOUND, NOT_FOUND, REFUSED = 0, 1, 2
Given = TypeVar("Given")
Made = TypeVar("Made")
Refusals = list[tuple[str, str]]
"""Names of what could not be judged, each with the reason."""


def sift(
    candidates: Iterable[tuple[str, Given]],
    make: Callable[[Given], Made],
    refused: Refusals,
    *,
    names_it: bool = False,
) -> list[tuple[str, Made]]:
    """What ``make`` makes of every candidate, by its name; ``refused`` gets those of which it makes InvalidTrace or
    InvalidText, whose message names the candidate itself or (not ``names_it``) is told behind its name. Where nothing
    is left, the first error is raised: one bad file costs nothing but itself."""
    kept, first = [], None
    for name, candidate in candidates:
        try:
            kept.append((name, make(candidate)))
        except (InvalidTrace, InvalidText) as error:
            message = str(error) if names_it else f"{name}: {error}"
            refused.append((name, message))
            first = first or type(error)(message)
    if first is not None and not kept:
        raise first
    return kept


@dataclass(frozen=True)
class Addition:
    """What is said of one piece of evidence beside its verdict: values for JSON, and lines."""

    values: dict[str, Any]
    lines: Sequence[str]


@dataclass(frozen=True)
class Findings:
    """Verdicts on the pieces of evidence ``names``: on each (none where only the pooled test was asked for) and on all
    of them as one test. ``added`` holds an addition for each piece, or none."""

    names: Sequence[str]
    each: "Sequence[Verdict]"
    pooled: "Verdict"
    refused: Refusals
    added: Sequence[Addition] = ()

    @property
    def watermarked(self) -> bool:
        """Whether every piece was found watermarked by itself; where only the pooled test was asked for, its answer."""
        return all(verdict.watermarked for verdict in self.each) if self.each else self.pooled.watermarked

    def tell(self, as_json: bool, more: "Callable[[Any], Sequence[str]]" = lambda verdict: ()) -> int:
        """Print everything, with the lines that ``more`` gives of a verdict, and return the exit code."""
        say(self.as_dict(), as_json, "\n".join(self._lines(more)))
        for _, reason in self.refused:
            print(f"okr: {reason}", file=sys.stderr)
        if self.refused:
            return REFUSED
        return FOUND if self.watermarked else NOT_FOUND

    def as_dict(self) -> dict[str, Any]:
        """The findings as plain JSON-ready values."""
        from okr.detection.verdict import holm

        adjusted = holm([verdict.p_value for verdict in self.each])
        judged = [v.as_dict() | {"adjusted_p": p} for v, p in zip(self.each, adjusted, strict=True)]
        return {
            "watermarked": self.watermarked,
            "files": [
                {"file": name} | (judged[index] if judged else {}) | (self.added[index].values if self.added else {})
                for index, name in enumerate(self.names)
            ],
            "refused": [{"file": name, "error": reason} for name, reason in self.refused],
            "pooled": self.pooled.as_dict() if len(self.names) > 1 or not self.each else None,
        }

    def _lines(self, more: "Callable[[Any], Sequence[str]]") -> list[str]:
        from okr.detection.verdict import Verdicts

        added = [part.lines for part in self.added] or [[]] * len(self.names)
        if len(self.names) == 1:
            return [str(self.pooled), *more(self.pooled), *added[0]]
        if not self.each:
            return [self.pooled.on_several(len(self.names)), *more(self.pooled)]
        lines = []
        for name, verdict, further in zip(self.names, self.each, added, strict=True):
            lines += [f"{name}: {verdict}", *more(verdict), *further]
        return [*lines, str(Verdicts(tuple(self.each), self.pooled))]
