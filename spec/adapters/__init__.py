"""How an implementation is named: one function from what stands on the command line to an object with the functions.

``module:object``, ``path/to/file.py:object``, ``cmd:program arguments`` (JSON lines), ``vectors:answers.json``, or one
of the names the suite ships (the keys of SHIPPED).
"""

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from ..verdicts import BadImplementation, UsageError, words
from .answers import AnswersAdapter
from .process import ProcessAdapter

SHIPPED = {
    "numpy": "okr.spec.implementations.numpy_router:router",
    "torch": "okr.spec.implementations.torch_router:eager",
    "autocast": "okr.spec.implementations.torch_router:autocast",
    "compile": "okr.spec.implementations.torch_compiled:compiled",
    "numba": "okr.spec.implementations.torch_router:loops",
    "triton": "okr.spec.implementations.triton_router:router",
    "vllm": "okr.spec.implementations.vllm_router:VllmRouter",
    "reordered": "okr.spec.implementations.variants:reordered",
    "float64": "okr.spec.implementations.variants:float64",
    "okr": "okr.spec.implementations.package:package",
}


def load(name: str, *, timeout: float = 20.0) -> Any:
    """The implementation called ``name``. Raises UsageError for a name of no known form, BadImplementation where
    loading it fails."""
    name = SHIPPED.get(name, name)
    kind, _, rest = name.partition(":")
    if kind == "cmd" and rest:
        return ProcessAdapter(rest, timeout=timeout)
    if kind == "vectors" and rest:
        return AnswersAdapter(Path(rest))
    place, colon, attribute = name.rpartition(":")
    if not colon or not place or not attribute:
        raise UsageError(
            f"{name!r} names no implementation; use module:object, file.py:object, cmd:PROGRAM, vectors:FILE, or "
            + ", ".join(SHIPPED)
        )
    module = _script(Path(place)) if place.endswith(".py") else _module(place)
    found: Any = module
    with _broken(f"{place}: {attribute} cannot be made"):
        for part in attribute.split("."):
            if not hasattr(found, part):
                raise BadImplementation(f"{place} has no object {attribute}")
            found = getattr(found, part)
        return found() if isinstance(found, type) else found


@contextmanager
def _broken(what: str) -> Iterator[None]:
    """Whatever the implementation's own code raises here makes it a broken one, also an attempt to end the process."""
    try:
        yield
    except (BadImplementation, UsageError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise BadImplementation(f"{what}: {words(error)}") from error


def _script(path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"okr_implementation_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with _broken(f"{path} cannot be imported"):
        spec.loader.exec_module(module)
    return module


def _module(name: str) -> ModuleType:
    if "" not in sys.path:
        sys.path.insert(0, "")
    with _broken(f"{name} cannot be imported"):
        return importlib.import_module(name)
