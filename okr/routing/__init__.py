"""The algorithm as pure functions: keys, key scores, zones and selection. Nothing here knows about transformers."""

from okr.routing.keys import Key, key_id, projection
from okr.routing.scores import key_scores
from okr.routing.selection import Selection, Zone, find_zone, preference, select
from okr.routing.settings import ZONES, Setting, check_setting

__all__ = [
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
