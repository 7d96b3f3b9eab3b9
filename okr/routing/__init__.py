"""The algorithm as pure functions: keys, key scores, zones and selection. Nothing here knows about transformers."""

from okr.routing.keys import Key, key_id, projection
from okr.routing.scores import key_scores
from okr.routing.selection import ZONES, Selection, Zone, check_setting, find_zone, preference, select

__all__ = [
    "ZONES",
    "Key",
    "Selection",
    "Zone",
    "check_setting",
    "find_zone",
    "key_id",
    "key_scores",
    "preference",
    "projection",
    "select",
]
