"""The scripts of studies/ and bench/ as modules."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]


def script(name: str) -> ModuleType:
    """The script ``name``, such as ``studies/text_power``, loaded anew; it finds those beside it."""
    path = ROOT / f"{name}.py"
    place = importlib.util.spec_from_file_location(name.replace("/", "_"), path)
    module = importlib.util.module_from_spec(place)
    sys.modules[place.name] = module
    sys.path.insert(0, str(path.parent))
    try:
        place.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module
