"""The settings that have a name: ``quiet`` for proof from traces, ``loud`` for proof from text as well.

Imports nothing heavy.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, get_args

from okr.errors import InvalidSetting
from okr.routing.settings import Setting, ZoneName

SettingName = Literal["quiet", "loud"]
SETTINGS: tuple[SettingName, ...] = get_args(SettingName)

QUIET_STRENGTH = 0.1
"""The strength of ``quiet``: the weakest that was tried at which 95% of traces prove the key within 16 new tokens, in
float32 and in bfloat16 (docs/detection.md), at a cost that cannot be told from zero."""

LOUD_STRENGTH = 1.0
"""The strength of ``loud``: the key is found in text alone as well, for some hundredths of a nat per token."""

NAMED: Mapping[SettingName, Setting] = MappingProxyType(
    {
        "quiet": Setting(math.inf, "boundary", QUIET_STRENGTH),
        "loud": Setting(math.inf, "boundary", LOUD_STRENGTH),
    }
)
"""The values of each name, for any model whose routers rank experts by logits: soft keying, where every expert may
compete. A preset may give the names other values."""


def asked_setting(
    name: SettingName | None = None,
    *,
    epsilon: float | None = None,
    zone: ZoneName | None = None,
    strength: float | None = None,
    named: Mapping[SettingName, Setting] = NAMED,
) -> Setting:
    """The setting ``name`` with the values that are given in place of its own. ``named`` holds the values of each name.

    Without a name it is that of ``epsilon``, in the zone ``max`` and of infinite strength unless they are given.
    Without a name and ``epsilon`` it is ``quiet``. Raises InvalidSetting for a name that is none and for values out of
    range.
    """
    if name is None and epsilon is not None:
        return replaced(Setting(epsilon, "max"), zone=zone, strength=strength)
    chosen = "quiet" if name is None else name
    if chosen not in SETTINGS:
        raise InvalidSetting(f"setting must be {' or '.join(SETTINGS)}, got {chosen!r:.40}")
    return replaced(named[chosen], epsilon=epsilon, zone=zone, strength=strength)


def replaced(
    setting: Setting, *, epsilon: float | None = None, zone: ZoneName | None = None, strength: float | None = None
) -> Setting:
    """``setting`` with the values that are given in place of its own. Raises InvalidSetting for values out of range."""
    return Setting.checked(
        setting.epsilon if epsilon is None else epsilon,
        setting.zone if zone is None else zone,
        setting.strength if strength is None else strength,
    )
