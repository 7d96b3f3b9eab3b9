"""What a verification or a detection says."""

from dataclasses import asdict, dataclass, fields
from typing import Any

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
        if not self.opportunities:
            return f"cannot tell: no opportunities for key {self.key_id} (p = 1)"
        answer = "watermarked" if self.watermarked else "not watermarked"
        return f"{answer} under key {self.key_id}: p = {self.p_value:.3g} (alpha {self.alpha:g}), {self._evidence()}"

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

    tokens: how many were scored. log_likelihood: sum of log p under the claimed key, in nats.
    log_likelihood_ratio: that minus the same sum under the unkeyed model, in nats. Its exponential is an e-value (at
        least 1 / a with probability at most a) against one null hypothesis only, ``ratio_null``; against text of any
        other origin it proves nothing, and only ``p_value`` does.
    """

    tokens: int
    log_likelihood: float
    log_likelihood_ratio: float
    ratio_null: str

    def _evidence(self) -> str:
        return f"z = {self.z:.2f} over {self.tokens} tokens"
