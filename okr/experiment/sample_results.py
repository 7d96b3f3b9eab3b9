"""The records of one sample in results.json, and the types of their fields."""

from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic import model_validator as validator

KeyId = Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
Rate = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
PValue = Annotated[float, Field(gt=0, le=1)]


class Record(BaseModel):
    """A part of results.json: no other fields, no NaN, not to be changed."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


def _inside(path: str) -> str:
    """``path`` if it is a relative one that stays in its folder on every system."""
    parts = path.split("/")
    if not path or "\\" in path or ":" in path or "\0" in path or not all(parts) or {".", ".."} & set(parts):
        raise ValueError("must be a relative path inside the folder of results.json")
    return path


class SiteShare(Record):
    """One router's share of a sample's verdict."""

    path: str
    opportunities: Count
    free_slots: Count
    hit_rate: Rate | None = Field(description="matched / free slots at opportunities; null without any")
    chance_rate: Rate | None
    swaps: Count = Field(description="experts that ran instead of native ones and count as evidence")
    z: float = Field(description="the evidence in this router's swaps in its standard deviations over random keys")
    rank_p: PValue = Field(description="the rank of the matches at this router among the decoys'")

    @validator(mode="after")
    def _rates_where_slots_are(self) -> Self:
        if {self.hit_rate is None, self.chance_rate is None, not self.free_slots, not self.opportunities} == {0, 1}:
            raise ValueError("rates go with opportunities and free slots")
        return self


class SampleVerdict(Record):
    """The verdict on one sample, as okr.verify gives it, without its share by token."""

    key_id: KeyId
    watermarked: bool = Field(description="p_value <= alpha")
    p_value: PValue = Field(description="twice the smaller of swaps_p and sites_p, at most 1")
    exact: bool
    alpha: float
    decoys: Count
    z: float = Field(description="the evidence in the swaps in its standard deviations over random keys")
    normal_p: float = Field(ge=0, le=1, description="normal tail beyond z; an approximation")
    hit_rate: Rate | None = Field(description="matched / free slots at opportunities; null without opportunities")
    chance_rate: Rate | None = Field(description="the decoys' mean hit rate")
    opportunities: Count = Field(description="(token, site) pairs where the key could decide")
    swaps: Count = Field(description="experts that ran instead of native ones and count as evidence")
    expected_swaps: float = Field(ge=0, description="swaps that random keys would make on the same states")
    swaps_p: PValue = Field(description="the p-value of the swaps alone, without a floor")
    sites_p: PValue = Field(description="Fisher's combination of the routers' ranks; 1 where too little was swapped")
    rank_p: PValue = Field(description="the rank of all matches among the decoys'; reported beside, decides nothing")
    free_slots: Count = Field(description="expert slots that the key decided on there")
    outside_zone: Count = Field(description="expert slots there that the setting does not allow")
    routed: Count = Field(description="(token, site) pairs with recorded routing")
    tokens_needed: Count | None = Field(description="decoder tokens until p was first at most alpha; null: never")
    sites: list[SiteShare] = Field(description="the counts by router, which those above add up")


class TokenRows(Record):
    """What a verdict counts at each decoder token, the prompt's first: lists of one length. The last token was never
    routed."""

    text: list[str] = Field(description="the part of the text that the token adds")
    free_slots: list[Count] = Field(description="expert slots that the key decided on for the token")
    matched: list[Count] = Field(description="of those, how many hold an expert that the key prefers")
    swaps: list[Count] = Field(description="experts that ran instead of native ones and count as evidence")
    p_value: list[PValue] = Field(description="the p-value of all tokens up to this one, three digits")

    @validator(mode="after")
    def _of_one_length(self) -> Self:
        if len({len(self.text), len(self.free_slots), len(self.matched), len(self.swaps), len(self.p_value)}) > 1:
            raise ValueError("text, free_slots, matched, swaps and p_value must have one entry for each token")
        return self


class Sample(Record):
    """What both groups know of a sample."""

    sample_id: Count
    prompt: str
    hit_rate: Rate | None = Field(description="share of free slots at opportunities that hold what the key prefers")
    p_value: PValue
    opportunities: Count
    new_tokens: Count
    trace: Annotated[str, AfterValidator(_inside)] = Field(
        description="path of the trace, relative to the folder of results.json and inside it"
    )
    trace_digest: str = Field(
        pattern="^[0-9a-f]{64}$", description="SHA-256 over all of the trace that a verification depends on"
    )
    verdict: SampleVerdict
    tokens: TokenRows | None = Field(default=None, description="the counts by token; null in files before 1.3")


class WatermarkedSample(Sample):
    """One watermarked sample beside its control: the same prompt, the same seed, no key."""

    original_text: str = Field(description="the control: text from the same prompt and seed without a key")
    watermarked_text: str


class ControlSample(Sample):
    """One unwatermarked sample, verified against the same key and setting."""

    text: str
    unrelated_p_value: PValue = Field(
        description="the rank_p of a key unrelated to any sample, another one for each: independent of the others"
    )
