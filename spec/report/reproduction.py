"""A failure as Python that repeats it."""

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cases import show


def reproduction(call: Any, implementation: str) -> str:
    """Python that repeats the last call before the failure."""
    options = {name: value for name, value in call.arguments.items() if name != "args"}
    arguments = [_source(value) for value in call.arguments["args"]]
    arguments += [f"{name}={_source(value)}" for name, value in options.items()]
    joined = ",\n    ".join(arguments)
    imports = ["base64"] * any("base64." in argument for argument in arguments)
    head = "\n".join(
        [*(f"import {name}" for name in imports), "import numpy as np", "from okr.spec.adapters import load"]
    )
    return f"{head}\nprint(load({implementation!r}).{call.function}(\n    {joined}))"


def _source(value: Any) -> str:
    if isinstance(value, np.ndarray):
        text = show(value)
        return text if len(text) < 600 else _packed(value)
    if isinstance(value, float) and not np.isfinite(value):
        return f"float('{value}')"
    return repr(value)


def _packed(array: NDArray[Any]) -> str:
    """A large array in one line of source."""
    content = base64.b64encode(array.tobytes()).decode()
    return f"np.frombuffer(base64.b64decode('{content}'), '{array.dtype.str}').reshape({array.shape})"
