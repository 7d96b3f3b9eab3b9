"""The cases of the vectors of chapter EVIDENCE."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import oracle
from ..cases import EvidenceCase, Routed, Setting

Entry = tuple[str, tuple[str, ...], str, EvidenceCase]
INF, NAN = math.inf, math.nan
SECRET = bytes(range(16))
C = [4.0, 3.5, 3.0, 2.0, 1.0, 0.0]
H = [-1.0, -2.0, 0.0, 2.0]
HARD = Setting(2, 2.0, "boundary")
SWAPS, REACH, SUM, P_VALUE, NONE = (f"OKR-EVIDENCE-00{number}" for number in range(1, 6))


def _site(experts: Any, choice: Any = C, hidden: Any = H, stack: str = "decoder", layer: int = 0) -> Routed:
    """A site with a token for each row of ``experts``; one row of scores or states serves all tokens."""
    ran = np.array(experts, np.int64, ndmin=2)
    scores = np.broadcast_to(np.array(choice, np.float32), (len(ran), np.shape(choice)[-1])).copy()
    states = np.broadcast_to(np.array(hidden, np.float32), (len(ran), np.shape(hidden)[-1])).copy()
    return Routed(stack, layer, scores, states, ran)


def _case(*shown: Routed, setting: Setting = HARD) -> EvidenceCase:
    return EvidenceCase(SECRET, setting, shown)


def every() -> Iterator[Entry]:
    """All of them."""
    yield from swaps()
    yield from reach()
    yield from statistic()
    yield from p_values()


def swaps() -> Iterator[Entry]:
    """Which experts were swapped."""
    both = (SWAPS, SUM, P_VALUE)
    yield "plain", both, "the experts that came in counted alone", _case(_site([0, 2]))
    yield "order", (SWAPS,), "experts compared place by place", _case(_site([2, 0]))
    yield "ties", (SWAPS,), "native ties to the higher index", _case(_site([1, 2], [1.0, 2.0, 2.0, 2.0, 0.0, 0.0]))
    tokens = [[0, 2], [-1, -1], [0, -1], [-2, -2], [2, 3]]
    yield "not-recorded", (SWAPS, SUM), "unrecorded experts taken for expert -1", _case(_site(tokens))
    scores = [[4, 3, 2, 1], [NAN, 3, 2, 1], [INF, 3, 2, 1], [4, -INF, -INF, -INF], [4, 2.5, 2, -INF]]
    unsound = _site([[0, 2]] * 5, scores, _states(5))
    yield "no-opportunity", (SWAPS, SUM), "swaps where nothing was to be decided", _case(unsound)
    states = [H, [NAN, 0, 0, 0], [INF, 0, 0, 0], [0, 0, 0, 0]]
    yield "states", (SWAPS, SUM), "NaN, or 0/0 at h = 0", _case(_site([[0, 2], [0, 2], [0, 2], [1, 2]], C, states))


def _states(tokens: int) -> list[list[float]]:
    """As many different states."""
    return [[1.0, float(token), -2.0, 0.5] for token in range(tokens)]


def reach() -> Iterator[Entry]:
    """Which of them count."""
    wide = Setting(3, INF, "max", 0.25)  # experts within 1 of the edge count
    yield "outside-the-pool", (REACH, SUM), "far swaps at full weight", _case(_site([2, 5]))
    locked = _site([1, 2], [9.0, 3.5, 3.0, 2.0, 1.0, 0.0])
    yield "locked-left-out", (REACH,), "a locked expert that did not run", _case(locked)
    yield "reach", (REACH, SUM), "the reach of a finite strength ignored", _case(_site([0, 3, 5]), setting=wide)
    edge = [4.0, 3.5, 3.0, 2.0, 2.0, 1.75]
    yield "reach-edge", (REACH,), "the edge taken as out of reach", _case(_site([0, 1, 4], edge), setting=wide)
    narrow = Setting(2, 1.0, "boundary", 4.0)
    yield "pool-within-reach", (REACH,), "the reach in place of the pool", _case(_site([0, 3]), setting=narrow)
    yield "all-far", (REACH, NONE), "0/0 where all swaps are far", _case(_site([0, 5], C), setting=_tiny())


def _tiny() -> Setting:
    """A strength so small that nothing is within reach."""
    return Setting(2, INF, "max", 0.0625)


def statistic() -> Iterator[Entry]:
    """W, z and which sums come first."""
    alike = _site([[0, 2]] * 5)
    yield "alike-tokens", (SUM, P_VALUE), "tokens taken for independent", _case(alike)
    other = _site([[2, 3], [0, 3]], C, [[1, 0, 0, 0], [0, 3, -4, 0]], layer=1)
    source = _site([1, 3], C, [2, 2, 1, 0], "encoder", 1)
    yield "three-sites", (SUM,), "one projection for all sites", _case(_site([0, 2]), other, source)
    first, second = _site([[0, 2], [1, 2]]), _site([[0, 2], [0, 3]], C, [[-1, -2, 0, 2], [0, -1, -1, 0]])
    yield "two-traces", (SUM,), "z of several traces added as if they were independent", _case(first, second)
    scaled = _site([[0, 2], [1, 3]], C, [[-3, -4, 0, 0], [0, 0, -3000, -4000]])
    yield "scales", (SUM,), "states not normed", _case(scaled)
    yield "native", (NONE, P_VALUE), "native routing taken for evidence", _case(_site([[0, 1], [1, 0]]))
    against = _site([[0, 2], [1, 0]], [C, [4.0, 3.0, 3.5, 2.0, 1.0, 0.0]])
    yield "cancelled", (NONE,), "0/0 where the swaps cancel", _case(against)


def p_values() -> Iterator[Entry]:
    """Large and small z."""
    signs = oracle.projection(SECRET, stack="decoder", layer=0, hidden_size=32, num_experts=6).astype(float)
    for name, sign, hunts in (("for", 1, "the normal tail itself"), ("against", -1, "a two-sided test")):
        states = [sign * (signs[:, 2] - signs[:, 1]), sign * (signs[:, 3] - signs[:, 0])]
        yield f"{name}-the-key", (P_VALUE,), hunts, _case(_site([[0, 2], [1, 3]], C, states))
