"""Defines the verdicts: what a verification or a detection answers."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Generic, TypeVar

LEAST_TOKENS = 16
"""The fewest judged tokens for which a text is tested. The test is exact at any length. With fewer tokens a p-value
below alpha is hardly more than chance: the share of watermarked texts that it finds is about alpha too
(docs/detection.md). 16 tokens is the length at which KGW with a hard list, which excludes half of the vocabulary,
reaches z = 4 (Kirchenbauer et al. 2023, section 3). Soft watermarks such as this one show less in each token."""

_SHOWN = 4  # the most items of a tuple that a repr shows


class Bounded:
    """A dataclass with a short repr. It shows the length of a long tuple instead of its items."""

    def __repr__(self) -> str:
        values = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        shown = (f"{name}={_shortened(value)}" for name, value in values.items())
        return f"{type(self).__name__}({', '.join(shown)})"


def _shortened(value: Any) -> str:
    return f"<{len(value)} items>" if isinstance(value, tuple) and len(value) > _SHOWN else repr(value)


@dataclass(frozen=True, repr=False)
class Verdict(Bounded):
    """The answer of one test of one key, from a trace or from text. It is true, as in ``if verdict``, if the key was
    found (``watermarked``).

    Attributes:
        key_id: the public name of the claimed key.
        p_value: if the evidence was made without knowledge of the key, P(p_value <= x) <= x for every x.
        exact: whether this bound holds however tokens depend on each other. It always does.
        watermarked: whether p_value <= alpha.
        alpha: the significance level.
        decoys: how many decoys the key was compared with.
        z: how far the key's statistic lies above its mean under the null hypothesis, in standard deviations.
        normal_p: the tail of the normal distribution beyond z. It is an approximation and never decides
            ``watermarked``.
        hit_rate: the share of free slots at opportunities that match; None for text.
        chance_rate: the mean hit rate of the decoys; None for text.
        opportunities: how many (token, site) pairs the key could decide. With none, p_value is 1.
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
        """The verdict as values that JSON can hold."""
        return asdict(self)

    def __bool__(self) -> bool:
        return self.watermarked

    def __str__(self) -> str:
        if self._obstacle():
            return f"cannot tell: {self._obstacle()} (p = 1)"
        answer = "watermarked" if self.watermarked else "not watermarked"
        return f"{answer} under key {self.key_id}: p = {self.p_value:.3g} (alpha {self.alpha:g}), {self._evidence()}"

    def on_several(self, count: int) -> str:
        """This verdict in words, as that of one pooled test of ``count`` pieces of evidence. It claims no more than
        that at least one of them was made under the key."""
        test = f"pooled test of all {count}"
        if self._obstacle():
            return f"{test}: cannot tell: {self._obstacle()} (p = 1)"
        answer = "at least one of them was made" if self.watermarked else "nothing shows that any of them was made"
        return f"{test}: {answer} under key {self.key_id}: p = {self.p_value:.3g} (alpha {self.alpha:g}), " + (
            self._evidence()
        )

    def _obstacle(self) -> str:
        """Why this evidence cannot show anything, or "" if it can."""
        return "" if self.opportunities else f"no opportunities for key {self.key_id}"

    def _out_of_reach(self, level: float) -> str:
        """That the p-value cannot be as small as ``level``, in words, or "" if it can."""
        return ""

    def _evidence(self) -> str:
        """The numbers behind the answer, in words."""
        return f"z = {self.z:.2f}"


@dataclass(frozen=True)
class SiteScore:
    """One router site's part of a verdict. The rates are the share of free slots at opportunities that match, or None
    if there is no free slot. ``swaps``, ``z`` and ``rank_p`` are those of :class:`TraceVerdict` at this site alone."""

    path: str
    opportunities: int
    free_slots: int
    hit_rate: float | None
    chance_rate: float | None
    swaps: int
    z: float
    rank_p: float


@dataclass(frozen=True)
class TokenScore:
    """One decoder token's part of a verdict, summed over sites. ``index`` is its place in its trace, and ``trace`` is
    the number of the trace. ``swaps`` are those of :class:`TraceVerdict`. ``p_value`` is that of all tokens up to this
    one; at each site a decoy with as many matches as the key ranks above it."""

    trace: int
    index: int
    opportunities: int
    free_slots: int
    matched: int
    swaps: int
    p_value: float


@dataclass(frozen=True, repr=False)
class TraceVerdict(Verdict):
    """The verdict of :func:`okr.verify`. It also has the attributes of :class:`Verdict`.

    Its p-value combines ``swaps_p`` and ``sites_p`` (:mod:`okr.detection.combination`). It is 1 where nothing was
    swapped, and has no floor. Its z is the evidence in the swaps divided by its standard deviation over random keys.

    Attributes:
        swaps: how many experts ran instead of ones that the model itself would have run, and count as evidence.
        expected_swaps: how many swaps random keys would make on these states.
        swaps_p: the p-value of the swaps alone (:mod:`okr.detection.swaps`).
        sites_p: the combined p-value of the ranks among decoys at the sites; 1 where the trace has too few swaps.
        rank_p: the rank among decoys by the matches at all sites: (1 + decoys that match at least as well) / (decoys +
            1). It is a valid p-value of its own, reported beside; it never decides ``watermarked``.
        free_slots: how many expert slots at opportunities the key decides.
        outside_zone: how many expert slots at opportunities hold an expert that the setting does not allow. More than
            about 0.01 of free_slots means that the trace was made with another setting or dtype.
        routed: how many (token, site) pairs have recorded routing.
        tokens_needed: after how many decoder tokens, in order, p was first at most alpha; None if never. It says how
            early the evidence was enough. It is no test of its own, because it looks at every prefix.
        dtypes: the dtypes in which the traces were made, and the one in which they were replayed.
        sites: the counts of each router.
        tokens: the counts of each decoder token.
    """

    swaps: int
    expected_swaps: float
    swaps_p: float
    sites_p: float
    rank_p: float
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
            f"z = {self.z:.2f} from {self.swaps:,} swap{'s' * (self.swaps != 1)}, hit rate {self.hit_rate:.3f} (chance "
            f"{self.chance_rate:.3f}) over {self.opportunities} opportunities{needed}"
        )


@dataclass(frozen=True, repr=False)
class TextVerdict(Verdict):
    """The verdict of :func:`okr.detect`, from text alone. It also has the attributes of :class:`Verdict`.

    Its p-value is (1 + decoys that do at least as well) / (decoys + 1).

    Attributes:
        tokens: how many tokens were scored. With fewer than LEAST_TOKENS, p_value is 1.
        log_likelihood: the sum of log p under the claimed key, in nats.
        log_likelihood_ratio: log_likelihood less the same sum under the unkeyed model, in nats. Its exponential is an
            e-value (at least 1 / a with probability at most a) against the null hypothesis ``ratio_null`` alone. For
            text of any other origin it proves nothing, and only ``p_value`` does.
        ratio_null: the null hypothesis of the log-likelihood ratio, in words.
    """

    tokens: int
    log_likelihood: float
    log_likelihood_ratio: float
    ratio_null: str

    def _obstacle(self) -> str:
        few = f"{self.tokens} judged token{'s' * (self.tokens != 1)}, at least {LEAST_TOKENS} are needed"
        return few if self.tokens < LEAST_TOKENS else super()._obstacle()

    def _out_of_reach(self, level: float) -> str:
        needed = math.ceil(1 / level - 1e-9) - 1
        return "" if self.decoys >= needed else f" (for which {self.decoys} decoys are too few: {needed} are enough)"

    def _evidence(self) -> str:
        return f"z = {self.z:.2f} over {self.tokens} tokens"


Kind = TypeVar("Kind", bound=Verdict)


@dataclass(frozen=True)
class Verdicts(Generic[Kind]):
    """The verdicts on several pieces of evidence under one key, one by one and all together.

    Attributes:
        each: one test for each piece. A piece made without the key is found watermarked with probability at most alpha.
            The same holds for the answer of ``every`` on a set that contains such a piece.
        pooled: one test of all pieces. Its null hypothesis is that none of them was made with knowledge of the key, so
            a single watermarked piece among many others can be enough to reject it.
    """

    each: tuple[Kind, ...]
    pooled: Kind

    @property
    def every(self) -> bool:
        """Whether every piece was found watermarked in its own test."""
        return all(verdict.watermarked for verdict in self.each)

    @property
    def adjusted_p(self) -> tuple[float, ...]:
        """The p-values of ``each`` after Holm's correction. The probability that any piece made without the key has one
        of at most alpha is at most alpha. Use them to say *which* of many pieces are watermarked."""
        return tuple(holm([verdict.p_value for verdict in self.each]))

    def __str__(self) -> str:
        count, alpha = len(self.each), self.pooled.alpha
        found = sum(verdict.watermarked for verdict in self.each)
        corrected = sum(p <= alpha * (1 + 1e-9) for p in self.adjusted_p)
        return (
            f"{found} of {count} found watermarked, each by a test of its own at alpha {alpha:g}; {corrected} after "
            f"Holm's correction for {count} tests{self.pooled._out_of_reach(alpha / count)}\n"
            f"{self.pooled.on_several(count)}"
        )


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted by Holm's method (1979), in the order given."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, running = [1.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted
