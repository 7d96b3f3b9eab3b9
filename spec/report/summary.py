"""A finished run as data, and the verdict over it."""

import json
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from .. import registry
from ..levels import Tally, level_of, tallies
from ..runner import Result
from ..verdicts import UsageError
from .reproduction import reproduction

CONFORMS, FAILS, USAGE, BROKEN, SUITE = range(5)


@dataclass(frozen=True)
class Report:
    """Everything that was found out about one implementation."""

    implementation: str
    profile: str
    results: list[Result]

    @property
    def applicable(self) -> list[Result]:
        """The denominator: every clause asked for, less those that speak of something else."""
        return [r for r in self.results if r.verdict != "not applicable"]

    @property
    def passed(self) -> int:
        return sum(r.verdict == "pass" for r in self.results)

    @property
    def unexpected(self) -> list[Result]:
        """Failures that no known-failures file announced."""
        return [r for r in self.results if r.failed and not r.known]

    @property
    def surprising(self) -> list[Result]:
        """Announced failures that did not fail: the file is out of date."""
        return [r for r in self.results if r.known and r.verdict == "pass"]

    @property
    def exit_code(self) -> int:
        """0 conforms, 1 does not, 4 the suite itself failed. Unsupported clauses do not conform."""
        if any(r.verdict == "suite error" for r in self.results):
            return SUITE
        missing = any(r.verdict == "unsupported" and not r.known for r in self.results)
        return FAILS if self.unexpected or self.surprising or missing or not self.applicable else CONFORMS

    @property
    def counts(self) -> dict[str, int]:
        """How often each verdict was given; a known failure stays a failure here."""
        return dict(sorted(Counter(r.verdict for r in self.results).items()))

    @property
    def levels(self) -> list[Tally]:
        """The conformance levels of which a clause was judged. Those none of whose clauses applied do not apply."""
        found = tallies({r.clause.id: r.verdict for r in self.results}, registry.load().values())
        judged, apply = ({level_of(r.clause) for r in some} for some in (self.results, self.applicable))
        return [
            tally if tally.level in apply else replace(tally, not_applicable=tally.clauses)
            for tally in found
            if tally.level in judged
        ]

    def as_dict(self) -> dict[str, Any]:
        """For JSON. All that depends on the clock stands under ``seconds``."""
        return {
            "format": "okr-conformance-1",
            "spec_version": registry.VERSION,
            "implementation": self.implementation,
            "profile": self.profile,
            "conforms": self.exit_code == CONFORMS and not any(r.known for r in self.results),
            "exit_code": self.exit_code,
            "applicable": len(self.applicable),
            "passed": self.passed,
            "counts": self.counts,
            "levels": {tally.level: {**asdict(tally), "conforms": tally.conforms} for tally in self.levels},
            "clauses": [_entry(r, self.implementation) for r in self.results],
            "seconds": {r.clause.id: round(r.seconds, 3) for r in self.results},
        }

    def to_json(self) -> str:
        return json.dumps(self.as_dict(), indent=1, ensure_ascii=False) + "\n"


def _entry(result: Result, implementation: str) -> dict[str, Any]:
    entry: dict[str, Any] = {"id": result.clause.id, "keyword": result.clause.keyword, "verdict": result.verdict}
    entry["cases"] = result.cases
    if result.note:
        entry["note"] = result.note
    if result.known:
        entry["known_failure"] = result.known
    if result.failure is not None:
        failure = result.failure
        entry["failure"] = {
            "check": failure.check,
            "what": failure.what,
            "expected": failure.expected,
            "got": failure.got,
            "case": failure.case,
        }
        if failure.call is not None:
            entry["failure"]["reproduce"] = reproduction(failure.call, implementation)
    return entry


def read_known(path: Path) -> dict[str, str]:
    """A known-failures file: lines ``OKR-XXX-000  reason``; # starts a comment. A line without reason is an error."""
    known: dict[str, str] = {}
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"cannot read {path}: it is no UTF-8 text") from None
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split(maxsplit=1)
        if len(words) == 1:
            raise UsageError(f"{path}:{number}: {words[0]} needs a reason")
        if words and words[0] in known:
            raise UsageError(f"{path}:{number}: {words[0]} stands there twice")
        if words:
            known[words[0]] = words[1].strip()
    return known


def announce(results: list[Result], known: dict[str, str], clauses: set[str]) -> None:
    """Mark the known failures. Raises UsageError for a clause that does not exist."""
    unknown = sorted(set(known) - clauses)
    if unknown:
        raise UsageError(f"the known-failures file names clauses that do not exist: {', '.join(unknown)}")
    for result in results:
        result.known = known.get(result.clause.id, "")
