"""Numbers as JSON, bit for bit: floats as hexadecimal text, as C's %a and Python's float.hex write them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def hexfloat(value: float) -> str:
    """``0x1.8000000000000p+1``, ``inf``, ``-inf`` or ``nan``."""
    return float(value).hex()


def unfloat(text: str | float) -> float:
    """The inverse of hexfloat; plain numbers are taken as they are."""
    return float.fromhex(text) if isinstance(text, str) else float(text)


def floats(array: NDArray[Any]) -> list[list[str]]:
    """A matrix of floats."""
    return [list(map(float.hex, row)) for row in array.astype(np.float64).tolist()]


def unfloats(rows: list[list[str | float]], columns: int = 0) -> NDArray[np.float64]:
    """The inverse of floats; ``columns`` gives the width of a matrix without rows."""
    return np.array([[unfloat(value) for value in row] for row in rows], np.float64).reshape(
        len(rows), len(rows[0]) if rows else columns
    )


def signs(matrix: NDArray[Any]) -> list[str]:
    """A +1/-1 matrix as one text of + and - a row; anything else shows as ?."""
    return ["".join({1: "+", -1: "-"}.get(int(v), "?") for v in row) for row in matrix]


def unsigns(rows: list[str]) -> NDArray[np.int8]:
    """The inverse of signs."""
    return np.array([[1 if sign == "+" else -1 for sign in row] for row in rows], np.int8)
