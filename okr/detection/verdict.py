"""What a verification or a detection says."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Generic, TypeVar

LEAST_TOKENS = 16
"""Judged tokens below which a text cannot be told from others. It is the length from which KGW with a hard list, which
leaves half of the vocabulary out, reaches z = 4 (Kirchenbauer et al. 2023, section 3); soft marks such as this one
show less a token. The test is exact at any length, but on less than that a p-value below alpha is chance and hardly
anything else: the share of marked texts that it finds is about alpha, too (docs/detection.md)."""

_SHOWN = 4  # of a tuple, in a repr


class Bounded:
    """A dataclass whose repr is short whatever it holds: of a long tuple it tells the length."""

    def __repr__(self) -> str:
        values = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        shown = (f"{name}={_shortened(value)}" for name, value in values.items())
        return f"{type(self).__name__}({', '.join(shown)})"


def _shortened(value: Any) -> str:
    return f"<{len(value)} items>" if isinstance(value, tuple) and len(value) > _SHOWN else repr(value)


@dataclass(frozen=True, repr=False)
class Verdict(Bounded):
    """Whether a key was there; what a verdict on a trace and one on a text have in common. It is true, as in
    ``if verdict``, where the key was found: ``watermarked``.

    p_value: under the null hypothesis that the evidence was made without knowledge of this key, P(p_value <= x) <= x
        for every x. It is (1 + decoys that do at least as well) / (decoys + 1), so never below 1 / (decoys + 1).
    exact: True where that holds whatever the dependence between tokens (always, for decoys).
    watermarked: p_value <= alpha.
    z, normal_p: the claimed key's distance from the decoys in their standard deviations, and the normal tail beyond
        it: an approximation that reaches below 1 / (decoys + 1). Never the basis of ``watermarked``.
    hit_rate: matched / free slots at opportunities under the claimed key; chance_rate: the decoys' mean. None for text.
    opportunities: (token, site) pairs where the key could decide. Without any p_value is 1.
    """

    key_id: str
    p_value: float
    exact: bool
    watermarked: bool
    alpha: float
    decoys: int
    z: float
    normal_p: float
    hit_rate: float | None
    chance_rate: float | None
    opportunities: int

    def as_dict(self) -> dict[str, Any]:
        """The verdict as plain JSON-ready values."""
        return asdict(self)

    def __bool__(self) -> bool:
        return self.watermarked

    def __str__(self) -> str:
        if self._obstacle():
            return f"cannot tell: {self._obstacle()} (p = 1)"
        answer = "watermarked" if self.watermarked else "not watermarked"
        return f"{answer} under key {self.key_id}: p = {self.p_value:.3g} (alpha {self.alpha:g}), {self._evidence()}"

    def on_several(self, count: int) -> str:
        """This verdict as that of one test on ``count`` pieces of evidence, in words that say no more than it does."""
        test = f"pooled test of all {count}"
        if self._obstacle():
            return f"{test}: cannot tell: {self._obstacle()} (p = 1)"
        answer = "at least one of them was made" if self.watermarked else "nothing shows that any of them was made"
        return f"{test}: {answer} under key {self.key_id}: p = {self.p_value:.3g} (alpha {self.alpha:g}), " + (
            self._evidence()
        )

    def _obstacle(self) -> str:
        """Why this evidence can say nothing, or ""."""
        return "" if self.opportunities else f"no opportunities for key {self.key_id}"

    def _evidence(self) -> str:
        return f"z = {self.z:.2f}"


@dataclass(frozen=True)
class SiteScore:
    """One router site's share of a verdict. Rates are matched / free slots at opportunities; None without any."""

    path: str
    opportunities: int
    free_slots: int
    hit_rate: float | None
    chance_rate: float | None


@dataclass(frozen=True)
class TokenScore:
    """One token's share of a verdict, summed over sites; ``index`` is its place in its trace's decoder tokens."""

    trace: int
    index: int
    opportunities: int
    free_slots: int
    matched: int


@dataclass(frozen=True, repr=False)
class TraceVerdict(Verdict):
    """The verdict of :func:`okr.verify`.

    free_slots: experts the key decided on at opportunities.
    outside_zone: expert slots at opportunities that the settings do not allow at all: above 0.01 or so of free_slots
        the trace was not made with these settings (or in another dtype).
    routed: (token, site) pairs with recorded routing.
    tokens_needed: how many decoder tokens, in order, until p was first at most alpha; None: never. It says how early
        the evidence sufficed; looking at every prefix is no test of its own.
    dtypes: those the traces were made in, and the one they were replayed in.
    sites, tokens: the counts by router and by decoder token.
    """

    free_slots: int
    outside_zone: int
    routed: int
    tokens_needed: int | None
    dtypes: tuple[tuple[str, ...], str]
    sites: tuple[SiteScore, ...]
    tokens: tuple[TokenScore, ...]

    def _evidence(self) -> str:
        needed = f", {self.tokens_needed} token{'s' * (self.tokens_needed != 1)} sufficed" if self.tokens_needed else ""
        return (
            f"hit rate {self.hit_rate:.3f} (chance {self.chance_rate:.3f}) over {self.opportunities} "
            f"opportunities{needed}"
        )


@dataclass(frozen=True, repr=False)
class TextVerdict(Verdict):
    """The verdict of :func:`okr.detect`, from text alone.

    tokens: how many were scored; below LEAST_TOKENS p_value is 1. log_likelihood: sum of log p under the claimed key,
        in nats.
    log_likelihood_ratio: that minus the same sum under the unkeyed model, in nats. Its exponential is an e-value (at
        least 1 / a with probability at most a) against one null hypothesis only, ``ratio_null``; against text of any
        other origin it proves nothing, and only ``p_value`` does.
    """

    tokens: int
    log_likelihood: float
    log_likelihood_ratio: float
    ratio_null: str

    def _obstacle(self) -> str:
        few = f"{self.tokens} judged token{'s' * (self.tokens != 1)}, at least {LEAST_TOKENS} are needed"
        return few if self.tokens < LEAST_TOKENS else super()._obstacle()

    def _evidence(self) -> str:
        return f"z = {self.z:.2f} over {self.tokens} tokens"


Kind = TypeVar("Kind", bound=Verdict)


@dataclass(frozen=True)
class Verdicts(Generic[Kind]):
    """What several pieces of evidence say of one key, one by one and all together.

    each: every piece as a test of its own. One that was made without the key is found watermarked with probability at
        most alpha; so is a set that holds such a piece, where "watermarked" asks it of ``every`` piece.
    adjusted_p: those p-values after Holm's correction: that any piece made without the key has one of at most alpha
        happens with probability at most alpha. The basis for saying *which* of many pieces are watermarked.
    pooled: all of them as one test. Its null hypothesis is that none of them was made with knowledge of the key: a
        single marked piece among many unmarked ones can be enough to reject that.
    """

    each: tuple[Kind, ...]
    pooled: Kind

    @property
    def every(self) -> bool:
        """Whether each piece by itself was found watermarked."""
        return all(verdict.watermarked for verdict in self.each)

    @property
    def adjusted_p(self) -> tuple[float, ...]:
        """The p-values of ``each`` after Holm's correction."""
        return tuple(holm([verdict.p_value for verdict in self.each]))

    def __str__(self) -> str:
        count, alpha, decoys = len(self.each), self.pooled.alpha, self.pooled.decoys
        found = sum(verdict.watermarked for verdict in self.each)
        corrected = sum(p <= alpha * (1 + 1e-9) for p in self.adjusted_p)
        needed = math.ceil(count / alpha - 1e-9) - 1
        reach = "" if decoys >= needed else f" (for which {decoys} decoys are too few: {needed} are enough)"
        return (
            f"{found} of {count} found watermarked, each by a test of its own at alpha {alpha:g}; {corrected} after "
            f"Holm's correction for {count} tests{reach}\n{self.pooled.on_several(count)}"
        )


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p-values, in the order given."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, running = [1.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted
