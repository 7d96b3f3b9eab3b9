"""Defines what vLLM is told about the key: a part of its additional configuration, which it prints and passes to every
process. It therefore holds the path of a key file and never a secret."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_serializer, field_validator

from okr.errors import InvalidSetting
from okr.routing.settings import Setting, ZoneName
from okr.validation import first_problem

SECTION = "okr"


class Configuration(BaseModel):
    """The section ``okr`` of ``--additional-config``.

    Attributes:
        key_file: the path of the key file, or None to route natively.
        zone, epsilon, strength: the setting. Infinity is written ``"inf"``, because JSON has no such number.
        record: whether every request's experts are returned.
        opt_out: whether a request may ask to be routed natively.
        journal: the folder that gets a trace file of every finished request, or None. It needs ``record``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    key_file: Annotated[str, Field(min_length=1)] | None = None
    zone: ZoneName = "boundary"
    epsilon: float = float("inf")
    strength: float = 0.1
    record: bool = True
    opt_out: bool = True
    journal: Annotated[str, Field(min_length=1)] | None = None

    @field_validator("epsilon", "strength", mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        return float("inf") if value == "inf" else value

    @field_serializer("epsilon", "strength", when_used="json")
    def _write(self, value: float) -> float | str:
        return "inf" if value == float("inf") else value

    @property
    def setting(self) -> Setting:
        """The setting, checked. Raises InvalidSetting for a value out of range."""
        return Setting.checked(self.epsilon, self.zone, self.strength)

    @classmethod
    def of(cls, additional_config: Any) -> "Configuration | None":
        """The configuration in vLLM's ``additional_config``, or None if it has no such section. Raises InvalidSetting
        for a section that cannot be read."""
        section = additional_config.get(SECTION) if isinstance(additional_config, dict) else None
        if section is None:
            return None
        try:
            found = cls.model_validate(section)
        except ValidationError as error:
            raise InvalidSetting(f"additional_config: okr: {first_problem(error).line()}") from None
        found.setting  # noqa: B018 - checked here, where the error names its origin
        return found

    def section(self) -> dict[str, Any]:
        """The section, as JSON can hold it."""
        return {SECTION: self.model_dump(mode="json", exclude_none=True)}
