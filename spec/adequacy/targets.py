"""The modules whose mutants are made, the chapters that judge each, and the parts of a measurement they belong to."""

from dataclasses import dataclass

from ..registry import Clause
from ..runner import chosen

_SELECTION = ("selection", "zone", "ties", "strength", "failopen")
_MODEL = ("weight", "trace", "replay", "attach")
_JUDGED = ("verify", "evidence", "text", "result")
_RECORDED = ("trace", "replay")


@dataclass(frozen=True)
class Target:
    """A module, the chapters about what it does, the implementation they are asked of, and how hard.

    ``cases``: how many each check gets. ``limit``: seconds for one question. ``keeps``: models and what was made with
    them may be kept, for the module has no part in them. ``again``: modules that are executed anew after each mutant,
    for their classes check values against classes of the module.
    """

    module: str
    chapters: tuple[str, ...]
    implementation: str = "okr"
    cases: int = 60
    limit: float = 60.0
    keeps: bool = False
    again: tuple[str, ...] = ()

    @property
    def clauses(self) -> list[Clause]:
        """The chapters' clauses, in the order of ``chapters``."""
        return sorted(
            (c for c in chosen([]) if c.chapter in self.chapters), key=lambda c: self.chapters.index(c.chapter)
        )


ROUTING = (
    Target("okr.routing.keys", ("key", "bake")),
    Target("okr.routing.scores", ("score",)),
    Target("okr.routing.settings", ("zone", "attach")),
    Target("okr.routing.selection", (*_SELECTION, "verify")),
    Target("okr.routing.compiled", (*_SELECTION, "weight"), "numba-in-okr"),
)
DETECTION = tuple(
    Target(f"okr.detection.{name}", _JUDGED, keeps=True)
    for name in (
        "combination", "counting", "evidence", "decoys", "swaps", "tally", "by_token", "compiled", "verification",
        "verdict", "attribution", "many_keys", "likelihood", "text", "spans", "windows",
    )
)  # fmt: skip
TRACES = (
    *(
        Target(f"okr.traces.{name}", _RECORDED)
        for name in ("passes", "trace", "header", "routed_experts", "unrouted", "responses", "load")
    ),
    Target("okr.traces.weights", _RECORDED, again=("okr.traces.header",)),
)
_TRANSFORMERS = (
    "routings", "session", "replay", "attaching", "guard", "proof", "swapping", "fused", "families", "generation",
    "columns", "recording", "journal", "rotary",
)  # fmt: skip
ATTACH = (
    *(
        Target(f"okr.engines.{name}", _MODEL)
        for name in ("choice", "matching", "prepared", *(f"transformers.{name}" for name in _TRANSFORMERS))
    ),
    *(Target(f"okr.engines.transformers.{name}", (*_MODEL, "text")) for name in ("calling", "engine")),
)
PARTS = {"mutation": ROUTING, "detection": DETECTION, "traces": TRACES, "attach": ATTACH}
WATCHED = tuple(target.module for targets in PARTS.values() for target in targets)
UNREACHED = "no clause runs it"
"""What is found of a mutant that no question runs."""
