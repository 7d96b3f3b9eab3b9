"""The setting of a watermark: zone, epsilon and strength, and the range of each."""

import math
from dataclasses import dataclass
from numbers import Real
from typing import Literal, get_args

from okr.errors import InvalidSetting

ZoneName = Literal["max", "boundary"]
ZONES: tuple[ZoneName, ...] = get_args(ZoneName)


@dataclass(frozen=True)
class Setting:
    """How a key decides: the zone, epsilon (the width of the zone, in the unit of each site), and the strength of the
    key."""

    epsilon: float
    zone: ZoneName
    strength: float = math.inf

    @classmethod
    def checked(cls, epsilon: float, zone: ZoneName, strength: float) -> "Setting":
        """The setting with these values as floats. Raises InvalidSetting for a value out of range."""
        _check_values(epsilon, zone, strength)
        return cls(float(epsilon), zone, float(strength))


def check_setting(top_k: int, num_experts: int, epsilon: float, zone: str, strength: float) -> None:
    """Raise InvalidSetting unless 1 <= top_k <= num_experts, epsilon >= 0, strength > 0 and the zone is known."""
    if not 1 <= top_k <= num_experts:
        raise InvalidSetting(f"top-k must lie between 1 and the number of experts ({num_experts}), got {top_k}")
    _check_values(epsilon, zone, strength)


def _check_values(epsilon: float, zone: str, strength: float) -> None:
    if not _is_number(epsilon) or not epsilon >= 0:
        raise InvalidSetting(f"epsilon must be a number >= 0 (inf is allowed), got {_shown(epsilon)}")
    if not _is_number(strength) or not strength > 0:
        raise InvalidSetting(f"strength must be a number > 0 (inf: the key alone decides), got {_shown(strength)}")
    if zone not in ZONES:
        raise InvalidSetting(f"zone must be one of {', '.join(ZONES)}, got {zone!r}")


def _is_number(value: object) -> bool:
    """Whether ``value`` is a real number that a float can hold. NumPy's numbers are real numbers too."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True


def _shown(value: object) -> str:
    return f"{value!r:.40}"
