"""Formats the numbers on pages."""

NONE = "–"
"""What a page shows in place of a missing number."""


def number(value: float, digits: int = 3) -> str:
    """``value`` with ``digits`` decimals, or with none if it is 100 or more."""
    return f"{value:.{digits}f}" if abs(value) < 100 else f"{value:.0f}"


def between(value: float, low: float, high: float, digits: int) -> str:
    """``value`` with the ends of its interval, such as ``0.50 (0.40 to 0.60)``."""
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def rate(value: float | None) -> str:
    """A share with three decimals, or a dash for None."""
    return NONE if value is None else f"{value:.3f}"


def p(value: float) -> str:
    """A p-value with three significant digits."""
    return f"{value:.3g}"


def setting(value: float) -> str:
    """Epsilon or strength, with the sign ∞ for infinity."""
    return "∞" if value == float("inf") else f"{value:g}"
