"""The range of every setting of a watermark."""

import math

from okr.errors import InvalidSetting

ZONES = ("max", "boundary")


def check_setting(top_k: int, num_experts: int, epsilon: float, zone: str, strength: float) -> None:
    """Raise InvalidSetting unless 1 <= top_k <= num_experts, epsilon >= 0, strength > 0 and the zone is known."""
    if not 1 <= top_k <= num_experts:
        raise InvalidSetting(f"top-k must lie between 1 and the number of experts ({num_experts}), got {top_k}")
    if not _is_number(epsilon) or math.isnan(epsilon) or epsilon < 0:
        raise InvalidSetting(f"epsilon must be a number >= 0 (inf is allowed), got {epsilon}")
    if not _is_number(strength) or math.isnan(strength) or strength <= 0:
        raise InvalidSetting(f"strength must be a number > 0 (inf: the key alone decides), got {strength}")
    if zone not in ZONES:
        raise InvalidSetting(f"zone must be one of {', '.join(ZONES)}, got {zone!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
