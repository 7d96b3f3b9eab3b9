"""results.json: every field, its meaning and unit. The JSON Schema beside this file is generated from here."""

import json
import re
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError
from pydantic import model_validator as validator

from okr.errors import InvalidConfig
from okr.experiment.config import RunConfig
from okr.experiment.sample_results import ControlSample, Count, KeyId, PValue, Rate, Record, WatermarkedSample
from okr.jobs.placement import Origin
from okr.validation import first_problem

_LONG_LISTS = re.compile(  # of numbers, and of the texts of tokens; no string holds a line break
    r'(?<=: \[)(?:\n\s+-?\d[\d.e+-]*,?)+\n\s+(?=\])|(?<="text": \[)(?:\n\s+"(?:[^"\\]|\\.)*",?)+\n\s+(?=\])'
)
SCHEMA_PATH = Path(__file__).with_name("results.schema.json")


class Summary(Record):
    """The outcome in one object."""

    total_samples: Count = Field(description="watermarked samples made")
    watermarked_samples: Count = Field(description="of those, how many were found watermarked")
    average_hit_rate: Rate | None = Field(description="mean over watermarked samples with opportunities")
    average_chance_rate: Rate | None = Field(description="the decoys' mean hit rate on the same samples")
    detection_threshold: float = Field(description="a sample counts as watermarked if its p-value is at most this")
    largest_p_value: PValue = Field(description="of the watermarked samples")
    control_samples: Count
    control_watermarked_samples: Count = Field(description="false positives")
    control_average_hit_rate: Rate | None
    control_smallest_p_value: PValue


class Uniformity(Record):
    """Whether the control group's unrelated p-values look uniform, as they must when the test is exact."""

    test: str
    statistic: float
    p_value: float = Field(ge=0, le=1)
    samples: Count
    note: str


class Quality(Record):
    """Held-out loss of human text in nats per token, keyed and unkeyed, on the same passages."""

    unit: Literal["nats per token"] = "nats per token"
    passages: Count
    tokens: Count
    loss_unkeyed: float
    loss_keyed: float
    cost: float = Field(description="mean over passages of keyed - unkeyed")
    cost_low: float = Field(description="lower end of its 95% interval")
    cost_high: float = Field(description="upper end of its 95% interval")
    losses_unkeyed: list[float] = Field(description="of every passage")
    losses_keyed: list[float]


class SiteResult(Record):
    """One router site: what it is, how well it matched, and how often each expert ran (tokens of all samples)."""

    path: str
    stack: str
    layer: Count
    router_class: str
    num_experts: Count
    top_k: Count
    hidden_size: Count
    unit: Literal["logit", "score"]
    keyable: bool
    reason: str
    hit_rate: Rate | None
    chance_rate: Rate | None
    control_hit_rate: Rate | None
    control_chance_rate: Rate | None
    opportunities: Count = Field(description="of the watermarked samples")
    load: list[Count] = Field(description="times each expert ran in the watermarked group")
    control_load: list[Count]


class ModelInfo(Record):
    """Which model: where it came from and how to know it again."""

    source: str
    revision: str | None
    class_name: str
    parameters: Count
    dtype: str
    structure: str = Field(description="digest of class and router sites")
    routers: str | None = Field(description="digest of the router weights; null where they were offloaded")


class Environment(Record):
    """What the run ran on."""

    device: str
    threads: Count
    platform: str
    versions: dict[str, str]
    git_commit: str | None = Field(description="of the source tree, where the package runs from one")
    git_dirty: bool | None


class Seeds(Record):
    """The run's seed and the seeds derived from it, one a batch, shared by both groups."""

    run: Count
    batches: list[Count]


class GroupSpeed(Record):
    """Generation of one group, prompts included, verification not; the seconds of several processes add up."""

    tokens: Count = Field(description="new tokens")
    seconds: float = Field(gt=0)
    tokens_per_second: float


class Timings(Record):
    """Everything that differs between two otherwise equal runs."""

    started: str = Field(description="UTC, ISO 8601")
    finished: str
    load_seconds: float
    verify_seconds: float
    quality_seconds: float
    watermarked: GroupSpeed
    control: GroupSpeed


class Results(Record):
    """The outcome of one experiment."""

    schema_version: Literal["1.2", "1.3"] = Field(default="1.3", description="1.2: without the counts by token")
    spec_version: str
    experiment_name: str
    key_id: KeyId
    config: RunConfig
    config_sources: dict[str, Origin] = Field(description="where each value of config came from")
    summary: Summary
    detailed_results: list[WatermarkedSample]
    control_results: list[ControlSample]
    control_uniformity: Uniformity
    quality: Quality
    router_sites: list[SiteResult]
    model: ModelInfo
    environment: Environment
    seeds: Seeds
    notes: list[str]
    timings: Timings

    @validator(mode="after")
    def _consistent(self) -> Self:
        found = sum(sample.verdict.watermarked for sample in self.detailed_results)
        wrong = sum(sample.verdict.watermarked for sample in self.control_results)
        summary = self.summary
        counts = (summary.total_samples, summary.watermarked_samples)
        controls = (summary.control_samples, summary.control_watermarked_samples)
        if counts != (len(self.detailed_results), found) or controls != (len(self.control_results), wrong):
            raise ValueError("summary: its counts are not those of the samples")
        for sample in (*self.detailed_results, *self.control_results):
            verdict = sample.verdict
            copies = (sample.p_value, sample.hit_rate, sample.opportunities)
            if copies != (verdict.p_value, verdict.hit_rate, verdict.opportunities):
                raise ValueError(f"sample {sample.sample_id}: its figures are not those of its verdict")
            if verdict.watermarked != (verdict.p_value <= summary.detection_threshold):
                raise ValueError(f"sample {sample.sample_id}: its verdict does not follow from p and the threshold")
            if verdict.key_id != self.key_id:
                raise ValueError(f"sample {sample.sample_id}: its verdict is about another key")
        return self

    def to_json(self) -> str:
        """The file's content: strict JSON, infinities as "inf"."""
        text = json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False)
        return _LONG_LISTS.sub(lambda found: re.sub(r",\n\s+", ", ", found[0]).strip("\n "), text) + "\n"

    @classmethod
    def load(cls, path: Path) -> "Results":
        """Read and check a results.json. Raises InvalidConfig with the first problem on one line."""
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InvalidConfig(f"cannot read {path}: {error.strerror}") from None
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            problem = first_problem(error)
            raise InvalidConfig(f"{path} is not valid: {problem.line(problem.plain)}") from None


def schema() -> dict[str, Any]:
    """The JSON Schema of results.json."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | Results.model_json_schema(mode="serialization")


def schema_text() -> str:
    """The schema as it is stored in results.schema.json."""
    return json.dumps(schema(), indent=2) + "\n"


if __name__ == "__main__":
    SCHEMA_PATH.write_text(schema_text(), encoding="utf-8")
