"""The algorithm as pure functions: keys, key scores, zones and selection. Nothing here knows about transformers.

What needs torch is imported when it is first used, so that the settings cost nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from okr.routing.named import NAMED, SETTINGS
from okr.routing.settings import ZONES, Setting, check_setting

if TYPE_CHECKING:
    from okr.routing.keys import Key, key_id, projection
    from okr.routing.scores import key_scores
    from okr.routing.selection import Selection, Zone, find_zone, preference, select

_HOME = dict.fromkeys(("Key", "key_id", "projection"), "okr.routing.keys") | {"key_scores": "okr.routing.scores"}
_HOME |= dict.fromkeys(("Selection", "Zone", "find_zone", "preference", "select"), "okr.routing.selection")

__all__ = [
    "NAMED",
    "SETTINGS",
    "ZONES",
    "Key",
    "Selection",
    "Setting",
    "Zone",
    "check_setting",
    "find_zone",
    "key_id",
    "key_scores",
    "preference",
    "projection",
    "select",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'okr.routing' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value
