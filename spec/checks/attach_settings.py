"""Chapter ATTACH: which settings are taken, and what those with a name are."""

import math
from fractions import Fraction
from typing import Any

import numpy as np

from ..subject import Subject
from ..verdicts import require
from . import check


@check("OKR-ATTACH-005")
def settings_are_real_numbers(subject: Subject) -> None:
    """Out of range, texts, truth values and what no float holds are refused; whole numbers, NumPy's and fractions are
    taken."""
    from .. import system
    from ..system import okr

    model = system.softmax_model()
    bad = ("0.5", True, False, 10**400, -(10**400), 0.5j, [0.5], float("nan"), -0.5)
    good = (1, np.float32(0.5), np.int64(2), Fraction(1, 2), float("inf"))

    def keyed(name: str, value: Any) -> Any:
        return okr.watermark(model, system.key(), **{"epsilon": 0.5, "strength": 1.0} | {name: value})

    for name in ("epsilon", "strength"):
        for wrong in bad:
            with system.refused(okr.InvalidSetting, f"{name} {wrong!r:.20}"), keyed(name, wrong):
                pass
        for value in good:
            with system.accepted(f"{name} {value!r}"), keyed(name, value) as session:
                got = getattr(session.header(), name)
            require(got == float(value), f"{name} {value!r}", expected=float(value), got=got)


_QUIET, _LOUD, _HARD = ("boundary", math.inf, 0.1), ("boundary", math.inf, 1.0), ("max", 0.5, math.inf)
_ASKED: tuple[tuple[dict[str, Any], tuple[str, float, float]], ...] = (
    ({}, _QUIET),
    ({"setting": "quiet"}, _QUIET),
    ({"setting": "loud"}, _LOUD),
    ({"setting": "loud", "epsilon": 0.5}, ("boundary", 0.5, 1.0)),
    ({"setting": "quiet", "zone": "max"}, ("max", math.inf, 0.1)),
    ({"setting": "quiet", "strength": 3.0}, ("boundary", math.inf, 3.0)),
    ({"zone": "max"}, ("max", math.inf, 0.1)),
    ({"strength": 3.0}, ("boundary", math.inf, 3.0)),
    ({"epsilon": 0.5}, _HARD),
    ({"epsilon": 0.5, "zone": "boundary"}, ("boundary", 0.5, math.inf)),
    ({"epsilon": 0.5, "strength": 3.0}, ("max", 0.5, 3.0)),
)
"""What is asked for, and the zone, epsilon and strength that it stands for."""


@check("OKR-ATTACH-005")
def settings_have_names(subject: Subject) -> None:
    """Numbers take the place of a name's own. Without a name and an epsilon it is quiet."""
    from .. import system
    from ..system import okr

    model = system.softmax_model()
    for asked, expected in _ASKED:
        with system.accepted(f"{asked}"), okr.watermark(model, system.key(), **asked) as session:
            header = session.header()
        got = (header.zone, header.epsilon, header.strength)
        require(got == expected, f"the setting of {asked}", expected=expected, got=got)
    for name in ("", "Quiet", "silent", 1, ["quiet"]):
        with (
            system.refused(okr.InvalidSetting, f"a setting called {name!r}"),
            okr.watermark(model, system.key(), setting=name),
        ):
            pass
