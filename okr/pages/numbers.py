"""How pages write numbers."""

NONE = "–"
"""Stands where there is no number."""


def number(value: float, digits: int = 3) -> str:
    """``value`` with so many decimal digits, or with none from 100 on."""
    return f"{value:.{digits}f}" if abs(value) < 100 else f"{value:.0f}"


def between(value: float, low: float, high: float, digits: int) -> str:
    """A figure with the ends of its interval, such as ``0.50 (0.40 to 0.60)``."""
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def rate(value: float | None) -> str:
    """A share, where there is one."""
    return NONE if value is None else f"{value:.3f}"


def p(value: float) -> str:
    """A p-value."""
    return f"{value:.3g}"


def setting(value: float) -> str:
    """One value of a watermark's setting, which may be infinite."""
    return "∞" if value == float("inf") else f"{value:g}"
