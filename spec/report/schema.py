"""A conformance report: every field, and what must hold between them. docs/reports.md says the same in words."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from okr.validation import first_problem

from .. import registry
from ..levels import CONDITIONAL, LEVELS, Tally, tallies
from ..verdicts import Verdict

FORMAT: Literal["okr-conformance-report"] = "okr-conformance-report"
SCHEMA_VERSION: Literal["1.0"] = "1.0"
_ADDRESS = re.compile(r"https?://[\w.-]+\.\w+(:\d+)?(/[\w.~%/?#=&+@,;:-]*)?")
_IN_REPOSITORY = re.compile(r"(?!.*\.\.)\w[\w.-]*(/[\w.-]+)*")


def _line(text: str) -> str:
    """``text`` if it is one line of characters that can be seen."""
    if not text.isprintable() or text != text.strip():
        raise ValueError("must be one line of printable characters without spaces around it")
    return text


def _place(text: str) -> str:
    if not _ADDRESS.fullmatch(text) and not _IN_REPOSITORY.fullmatch(text):
        raise ValueError("must be an address (https://...), or a path in the repository of OKR")
    return text


Printable = Annotated[str, AfterValidator(_line)]
Line = Annotated[Printable, Field(min_length=1, max_length=200)]
Command = Annotated[Printable, Field(min_length=1, max_length=1000)]
Place = Annotated[Line, AfterValidator(_place)]
Signature = Annotated[Line, Field(pattern=r"^[^<>]+ <[^<>@\s]+@[^<>@\s]+>$")]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=10**12)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Implementation(_Part):
    """What was judged, in the words of whoever answers for it."""

    name: Line
    version: Line
    url: Place
    contact: Line = Field(description="where questions go: a mail address, an account, an issue tracker")


class Specification(_Part):
    """By what it was judged."""

    version: str = Field(pattern=r"^[0-9]{1,3}\.[0-9]{1,3}$")
    clauses: Digest = Field(description="SHA-256 over the ids of its clauses, each on a line of its own")
    vectors: Digest = Field(description="SHA-256 over the files of the static vectors")


class Platform(_Part):
    """On what; nothing that tells one machine from another."""

    os: Line
    architecture: Line
    python: Line
    numpy: Line


class ClauseResult(_Part):
    """What came out for one clause."""

    id: str = Field(pattern="^OKR-[A-Z]{1,20}-[0-9]{3}$")
    verdict: Verdict
    cases: Count
    known_failure: Line | None = Field(None, description="the reason for a failure that was announced")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.verdict == "suite error":
            raise ValueError(f"{self.id}: where the suite failed, nothing can be reported")
        if (self.verdict == "pass" and not self.cases) or (self.verdict == "not applicable" and self.cases):
            raise ValueError(f"{self.id}: {self.verdict} with {self.cases} cases")
        if self.known_failure is not None and self.verdict in ("pass", "not applicable"):
            raise ValueError(f"{self.id}: a known failure that is none ({self.verdict})")
        return self


class LevelResult(_Part):
    """How the implementation stands to one conformance level."""

    level: Line
    clauses: Count
    passed: Count
    not_applicable: Count
    conforms: bool

    @classmethod
    def of(cls, tally: Tally) -> Self:
        return cls(**asdict(tally), conforms=tally.conforms)


class Results(_Part):
    """What does not change when the same implementation is judged again with a profile that draws no new cases."""

    clauses: list[ClauseResult] = Field(min_length=1, max_length=10_000)
    levels: list[LevelResult] = Field(max_length=10)


class ConformanceReport(_Part):
    """One implementation judged once, by all clauses."""

    format: Literal["okr-conformance-report"]
    schema_version: Literal["1.0"]
    implementation: Implementation
    specification: Specification
    suite: Line = Field(description="the version of okr that judged")
    profile: Literal["smoke", "ci", "thorough"]
    platform: Platform
    date: date
    results: Results
    reproduce: Command = Field(description="the command that judged, without what is one machine's alone")
    signed_off_by: Signature
    digest: Digest = Field(description="SHA-256 over the other fields as canonical JSON")

    @property
    def current(self) -> bool:
        """Whether it is of the present version of the specification, with the clauses that the version has now."""
        said = self.specification
        return (said.version, said.clauses) == (registry.VERSION, registry.ids_digest())

    @property
    def tallies(self) -> list[Tally]:
        """How the implementation stands to each level."""
        return [Tally(one.level, one.clauses, one.passed, one.not_applicable) for one in self.results.levels]

    @model_validator(mode="after")
    def _agree(self) -> Self:
        ids = [clause.id for clause in self.results.clauses]
        if len(set(ids)) < len(ids):
            raise ValueError("a clause stands there twice")
        if self.current:
            self._of_this_version(ids)
        elif self.specification.version not in (*registry.EARLIER, registry.VERSION):
            raise ValueError(f"there is no version {self.specification.version} of the specification here")
        else:
            self._of_another_version()
        return self

    def _of_this_version(self, ids: list[str]) -> None:
        known = registry.load()
        strange, left_out = [i for i in ids if i not in known], [i for i in known if i not in ids]
        if strange:
            raise ValueError(f"version {registry.VERSION} has no clause {strange[0]}")
        if left_out:
            raise ValueError(f"the clause {left_out[0]} is left out")
        verdicts = {clause.id: clause.verdict for clause in self.results.clauses}
        for kind in ("routing", "system"):
            members = [clause.id for clause in known.values() if clause.level == kind]
            idle = [i for i in members if verdicts[i] == "not applicable" and i not in CONDITIONAL]
            if idle and len(idle) < len(set(members) - {*CONDITIONAL}):
                raise ValueError(f"{idle[0]} applies where other {kind} clauses do")
        if self.results.levels != [LevelResult.of(tally) for tally in tallies(verdicts, known.values())]:
            raise ValueError("the levels do not follow from the clauses")

    def _of_another_version(self) -> None:
        """Which clauses its levels had is no longer known, only how many."""
        said = [clause.verdict for clause in self.results.clauses]
        found = len(said), said.count("pass"), said.count("not applicable")
        levels = self.results.levels
        claimed = tuple(sum(getattr(one, part) for one in levels) for part in ("clauses", "passed", "not_applicable"))
        names = {one.level for one in levels}
        right = names <= set(LEVELS) and len(names) == len(levels)
        if not right or found != claimed or levels != [LevelResult.of(tally) for tally in self.tallies]:
            raise ValueError("the levels do not follow from the clauses")


def digest_of(fields: dict[str, Any]) -> str:
    """SHA-256 over ``fields`` without ``digest`` as canonical JSON: keys sorted, no spaces, ASCII with \\u escapes."""
    rest = {name: value for name, value in fields.items() if name != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode("ascii")).hexdigest()


def read(content: bytes) -> ConformanceReport:
    """A report from a file's bytes. Raises ValueError, with one line, for anything else."""
    if len(content) > 1 << 20:
        raise ValueError("it has more than 1 MiB")
    try:
        fields = json.loads(content, object_pairs_hook=_once, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is no JSON: {str(error)[:200]}") from None
    given = fields.get("digest") if isinstance(fields, dict) else None
    if isinstance(given, str) and given != digest_of(fields):
        raise ValueError("it was changed after it was written: the digest is not that of its content")
    try:
        return ConformanceReport.model_validate_json(content)
    except ValidationError as error:
        problem = first_problem(error)
        raise ValueError(problem.line(problem.plain)) from None


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a name stands twice in one object")
    return fields


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")
