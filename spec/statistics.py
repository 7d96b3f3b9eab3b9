"""What a valid test's p-values may look like."""

from collections.abc import Sequence

from .verdicts import require

LEVELS = (0.05, 0.25, 0.5)
CHANCE = 1e-7
"""How often a valid test is accused by one level's count at most."""


def require_valid(p_values: Sequence[float]) -> None:
    """Raise Violation where independent p-values are too often small for a test that gives P(p <= x) <= x.

    At each level x of ``LEVELS`` the number of p-values <= x is at most binomial (n, x); more than its quantile at
    1 - ``CHANCE`` is a violation.
    """
    from scipy.stats import binom  # half a second to import

    for level in LEVELS:
        most = int(binom.isf(CHANCE, len(p_values), level))
        count = sum(p <= level + 1e-9 for p in p_values)
        what = f"p <= {level} for {count} of {len(p_values)} wrong keys"
        require(count <= most, what, expected=f"<= {most}", got=count)
