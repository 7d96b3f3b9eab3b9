"""What a verification says."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class SiteScore:
    """One router site's share of a verdict. Rates are matched / free slots at opportunities; None without any."""

    path: str
    opportunities: int
    free_slots: int
    hit_rate: float | None
    chance_rate: float | None


@dataclass(frozen=True)
class Verdict:
    """Whether a key was there.

    p_value: under the null hypothesis that the evidence was made without knowledge of this key, P(p_value <= x) <= x
        for every x. It is (1 + decoys that match at least as well) / (decoys + 1), so never below 1 / (decoys + 1).
    exact: True where that holds whatever the dependence between tokens (always, for decoys).
    watermarked: p_value <= alpha.
    z, normal_p: the claimed key's distance from the decoys in their standard deviations, and the normal tail beyond
        it: an approximation that reaches below 1 / (decoys + 1). Never the basis of ``watermarked``.
    hit_rate: matched / free slots at opportunities under the claimed key; chance_rate: the decoys' mean.
    opportunities: (token, site) pairs where the key could decide; free_slots: experts it decided on there.
    outside_zone: expert slots at opportunities that the settings do not allow at all: above 0.01 or so of free_slots
        the trace was not made with these settings.
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
    free_slots: int
    outside_zone: int
    routed: int
    sites: tuple[SiteScore, ...]

    def as_dict(self) -> dict[str, Any]:
        """The verdict as plain JSON-ready values."""
        return asdict(self) | {"sites": [asdict(site) for site in self.sites]}

    def __str__(self) -> str:
        if not self.opportunities:
            return f"cannot tell: no opportunities for key {self.key_id} (p = 1)"
        answer = "watermarked" if self.watermarked else "not watermarked"
        return (
            f"{answer} under key {self.key_id}: p = {self.p_value:.3g} (alpha {self.alpha:g}), hit rate "
            f"{self.hit_rate:.3f} (chance {self.chance_rate:.3f}) over {self.opportunities} opportunities"
        )
