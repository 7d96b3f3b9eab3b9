"""Says where in a trace a key acted (spec chapter EVIDENCE)."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from torch import nn

from okr.detection.evidence import SiteEvidence, gather_evidence, trace_setting
from okr.detection.verdict import Bounded
from okr.detection.verification import check_alpha
from okr.detection.windows import TokenSwaps, Windows
from okr.engines import Engine, prepare
from okr.errors import InvalidTrace
from okr.routing import Key
from okr.routing.keys import check_key
from okr.routing.settings import ZoneName
from okr.traces import Trace


@dataclass(frozen=True)
class Span:
    """Consecutive decoder tokens that hold tokens routed under the key.

    Attributes:
        start: the place of the first token in the trace.
        end: the place after the last token.
        p_value: the family-wise p-value: the probability that any span of a trace without a keyed token has one of at
            most x is at most x.
        swaps: how many experts ran in the span instead of ones that the model itself would have run.
    """

    start: int
    end: int
    p_value: float
    swaps: int


@dataclass(frozen=True, repr=False)
class Spans(Bounded):
    """The answer of :func:`okr.locate`. It is true, as in ``if spans``, if there is a span.

    Attributes:
        key_id: the public name of the claimed key.
        alpha: the family-wise level. The probability that any span holds no token routed under the key is at most
            alpha.
        first: the place of the first token that was looked at.
        swaps: how many experts ran, at each token that was looked at, instead of ones that the model itself would have
            run, and count as evidence.
        p_value: the smallest family-wise p-value of all windows; 1 if nothing was swapped.
        spans: the spans, in order. They do not overlap.
    """

    key_id: str
    alpha: float
    first: int
    swaps: tuple[int, ...]
    p_value: float
    spans: tuple[Span, ...]

    def as_dict(self) -> dict[str, Any]:
        """The answer as values that JSON can hold."""
        return asdict(self)

    def __bool__(self) -> bool:
        return bool(self.spans)

    def __str__(self) -> str:
        test = f"of {len(self.swaps)} tokens (family-wise p <= {self.alpha:g})"
        if not self.spans:
            return f"no span {test} shows key {self.key_id}: smallest p = {self.p_value:.3g}"
        count = len(self.spans)
        named = ", ".join(f"{span.start} to {span.end - 1}" for span in self.spans)
        return f"key {self.key_id} acted in {count} span{'s' * (count != 1)} {test}: {named}"


def locate(
    model: nn.Module | Engine,
    trace: Trace,
    key: Key,
    *,
    epsilon: float | None = None,
    zone: ZoneName | None = None,
    strength: float | None = None,
    alpha: float = 0.01,
    skip_prompt: bool = False,
) -> Spans:
    """Say in which spans of ``trace`` the routing was decided by ``key``.

    Each span claims that it holds tokens routed under the key. It does not claim that all of its tokens were. The
    probability that any of these claims is wrong is at most ``alpha``, however many spans there are.

    Arguments:
        model: the model that made the trace, or its engine (:func:`okr.prepare`).
        trace: the trace of a text of which only some passages may have been made under the key.
        key: the claimed key.
        epsilon: the epsilon to test for, in the unit of each site; by default the one in the trace's header.
        zone: the zone to test for; by default the one in the header.
        strength: the strength to test for; by default the one in the header.
        alpha: the family-wise level.
        skip_prompt: leave out the tokens that were given.

    The result is deterministic and needs no decoys. The tokens of an encoder are not looked at. Raises InvalidTrace if
    ``trace`` is none or another model made it, InvalidKey if ``key`` is none, and InvalidSetting if a value is missing
    or out of range.
    """
    if not isinstance(trace, Trace):
        raise InvalidTrace("expected one trace (see okr.Trace.load)")
    check_key(key)
    check_alpha(alpha)
    setting = trace_setting(trace, epsilon, zone, strength)
    found = gather_evidence(prepare(model), trace, setting, skip_prompt=skip_prompt)
    return spans_of(found, trace, key, alpha=alpha, skip_prompt=skip_prompt)


def spans_of(
    found: Sequence[SiteEvidence], trace: Trace, key: Key, *, alpha: float, skip_prompt: bool = False
) -> Spans:
    """The spans of :func:`locate` from the evidence ``found`` in ``trace``."""
    first = trace.prompt_length if skip_prompt else 0
    swaps = TokenSwaps(found, key, first, max(0, len(trace.token_ids) - 1 - first))
    windows, p = swaps.p_values()
    return Spans(
        key_id=key.id,
        alpha=alpha,
        first=first,
        swaps=tuple(swaps.swapped.astype(int).tolist()),
        p_value=float(p.min(initial=1.0)),
        spans=tuple(
            Span(start + first, end + first, least, int(swaps.swapped[start:end].sum()))
            for start, end, least in joined(windows, p, alpha)
        ),
    )


def joined(windows: Windows, p: Float[np.ndarray, " windows"], alpha: float) -> list[tuple[int, int, float]]:
    """First token, end and smallest p-value of each span (OKR-EVIDENCE-010).

    A span is a chain of shortest windows with p <= ``alpha``: windows that contain no other such window. Neighbours are
    joined unless the gap between them is longer than one of the two: the key could have been seen in such a gap. The
    p-value is the smallest one of the windows within the span.
    """
    found = p <= alpha
    if not found.any():
        return []
    starts, ends = _shortest(windows.starts[found], windows.ends[found])
    lengths = ends - starts
    apart = starts[1:] - ends[:-1] > np.minimum(lengths[1:], lengths[:-1])
    begins = np.concatenate(([True], apart))
    firsts, lasts = starts[begins], ends[np.append(np.flatnonzero(begins)[1:] - 1, -1)]
    place = np.searchsorted(firsts, windows.starts, side="right") - 1
    within = found & (place >= 0) & (windows.ends <= lasts[place])
    least = np.ones(len(firsts))
    np.minimum.at(least, place[within], p[within])
    return list(zip(firsts.tolist(), lasts.tolist(), least.tolist(), strict=True))


def _shortest(
    starts: Int[np.ndarray, " windows"], ends: Int[np.ndarray, " windows"]
) -> tuple[Int[np.ndarray, " shortest"], Int[np.ndarray, " shortest"]]:
    """The windows that contain no other one, each once, in order."""
    order = np.lexsort((-starts, ends))
    starts, ends = starts[order], ends[order]
    before = np.concatenate(([-1], np.maximum.accumulate(starts)[:-1]))
    return starts[starts > before], ends[starts > before]
