"""Which model a command uses, and where its weights go. Imports nothing heavy."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from okr.errors import InvalidConfig
from okr.validation import first_problem

ENVIRONMENT_PREFIX = "OKR_"
Origin = Literal["flag", "file", "environment", "preset", "default"]


class Placement(BaseModel):
    """Which model, and where and how its weights are held. Strict: unknown names and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    model: str = Field(min_length=1, description="embedded name, preset, folder or hub id")
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="auto, cpu, cuda or cuda:N; auto fills the CUDA cards where there are any, else it is the CPU",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(default="auto", description="dtype of the weights")
    quantization: Literal["8bit", "4bit"] | None = Field(default=None, description="quantisation of the weights")
    max_memory: str | None = Field(
        default=None,
        pattern=r"^\d+(\.\d+)? ?[KMGT]i?B$",
        description="most memory used on the first card, such as 70GiB",
    )
    trust_remote_code: bool = Field(default=False, description="run Python code from the checkpoint")

    @classmethod
    def of(cls, model: str, **options: Any) -> "Placement":
        """The placement that a command's options ask for; None is a default. Raises InvalidConfig with one line."""
        given = {name: value for name, value in options.items() if value is not None}
        try:
            return cls(model=model, **given)
        except ValidationError as error:
            raise InvalidConfig(complaint(error, dict.fromkeys(given, "flag"), cls)) from None


def complaint(error: ValidationError, sources: Mapping[str, Origin], config: type[BaseModel]) -> str:
    """The first problem of a configuration, on one line, with the name and origin of the value."""
    problem = first_problem(error)
    name, message = problem.field, problem.plain.replace("Input should be", "must be")
    if problem.kind == "string_pattern_mismatch":
        message = f"expected {config.model_fields[name].description}"
    if problem.kind == "extra_forbidden":
        return f"unknown setting {name!r}: the settings are {', '.join(config.model_fields)}"
    if not name:
        return message
    origin = sources.get(name, "default")
    label = {
        "flag": f"--{name.replace('_', '-')}",
        "environment": f"{name} (from the environment, {ENVIRONMENT_PREFIX}{name.upper()})",
        "file": f"{name} (from the configuration file)",
    }.get(origin, name)
    got = "" if "got" in message else f", got {problem.given!r}"
    return " ".join(f"{label}: {message}{got}".split())
