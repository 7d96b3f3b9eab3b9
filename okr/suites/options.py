"""How large a suite is and what the user gives to it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from okr.errors import InvalidConfig
from okr.validation import first_problem

SUITES = ("baselines", "quality", "attacks")
Suite = Literal["baselines", "quality", "attacks"]


class SuiteOptions(BaseModel):
    """Everything that shapes a suite beside the run's own configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    quick: bool = False
    samples: int = Field(default=200, ge=2, le=10_000, description="texts of each method")
    tokens: int = Field(default=120, ge=8, le=10_000, description="new tokens of each text")
    decoys: int = Field(default=999, ge=19, le=99_999, description="decoy keys of a text test, at most")
    attacked: int = Field(default=40, ge=2, le=10_000, description="texts of each method that are attacked")
    attacked_decoys: int = Field(default=99, ge=19, le=99_999, description="decoy keys of a test of an attacked text")
    batch: int = Field(default=8, ge=1, le=4096, description="texts generated at once; they share a key")
    passages: int = Field(default=24, ge=2, le=200, description="held-out passages that costs are measured on")
    prompt_words: int = Field(default=16, ge=1, le=200, description="words of a prompt that are used")
    cost_keys: int = Field(default=3, ge=1, le=100, description="keys whose mean is the cost")
    judge: str | None = Field(default=None, description="model that judges the texts; none: the other embedded one")
    paraphraser: str | None = Field(default=None, description="sequence-to-sequence model that paraphrases")
    pairs: str | None = Field(default=None, description="JSONL of human paraphrase pairs; none: shipped ones")
    choices: str | None = Field(default=None, description="JSONL of multiple-choice questions")
    human_eval: bool = Field(default=False, description="run HumanEval: executes what the model writes")

    @property
    def lengths(self) -> tuple[int, ...]:
        """Prefixes of a text that are judged, in new tokens."""
        return (self.tokens // 4, self.tokens // 2, self.tokens)


QUICK = {"samples": 24, "tokens": 64, "decoys": 99, "attacked": 8, "passages": 8, "cost_keys": 1, "quick": True}


def suite_options(asked: Mapping[str, object]) -> SuiteOptions:
    """The options of the command line over those of ``--quick``; None: not given. Raises InvalidConfig."""
    given = {
        name.removeprefix("suite_"): value for name, value in asked.items() if name != "suite" and value is not None
    }
    values = (QUICK if given["quick"] else {}) | given
    for name in ("pairs", "choices"):
        if name in given:
            readable(str(given[name]))
    try:
        options = SuiteOptions.model_validate(values)
    except ValidationError as error:
        problem = first_problem(error)
        raise InvalidConfig(f"--suite-{problem.field}: {problem.message}, got {problem.given!r}") from None
    if options.attacked > options.samples:
        options = options.model_copy(update={"attacked": options.samples})
    return options


def suites_of(word: str) -> tuple[Suite, ...]:
    """The suites that ``--suite`` names. Raises InvalidConfig."""
    if word == "all":
        return SUITES  # type: ignore[return-value]
    if word not in SUITES:
        raise InvalidConfig(f"there is no suite {word!r}: choose one of {', '.join(SUITES)} or all")
    return (word,)  # type: ignore[return-value]


def readable(path: str) -> Path:
    """``path`` if it is a file. Raises InvalidConfig."""
    if not Path(path).is_file():
        raise InvalidConfig(f"there is no file {path}")
    return Path(path)
