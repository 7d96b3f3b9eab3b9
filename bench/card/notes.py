"""The figures of a step on the disk: whole at every moment, and under their final name only when the step is done."""

import json
import time
from pathlib import Path
from typing import Any

from okr import files


class Notes:
    """The figures of the step ``name`` in ``folder``. Every figure is written as soon as it is there."""

    def __init__(self, folder: Path, name: str, about: dict[str, Any]) -> None:
        self.began = time.monotonic()
        self.done, self.part = folder / f"{name}.json", folder / f"{name}.part.json"
        self.document: dict[str, Any] = {"step": name, **about, "whole": False, "seconds": 0.0, "figures": {}}

    def __call__(self, name: str, figure: Any) -> None:
        """Keep ``figure`` under ``name``."""
        self.document["figures"][name] = figure
        self._write(self.part)

    def finish(self) -> None:
        """Say that nothing is missing."""
        self.document["whole"] = True
        self._write(self.done)
        self.part.unlink(missing_ok=True)

    def fail(self, reason: str) -> None:
        """Say why there is not more."""
        self.document["error"] = reason
        self._write(self.part)

    def _write(self, path: Path) -> None:
        self.document["seconds"] = round(time.monotonic() - self.began, 1)
        files.replace(path, (json.dumps(self.document, indent=1, allow_nan=False) + "\n").encode())


def kept(folder: Path, name: str) -> dict[str, Any] | None:
    """What is known of the step ``name``: all of it, what was there when it ended early, or None.

    Raises ValueError if a file holds no figures of a step.
    """
    for path in (folder / f"{name}.json", folder / f"{name}.part.json"):
        if path.exists():
            try:
                found = json.loads(path.read_bytes())
                if found["step"] == name and isinstance(found["figures"], dict):
                    return dict(found)
            except (ValueError, TypeError, KeyError):
                pass
            raise ValueError(f"{path} holds no figures of the step {name}: remove it")
    return None


def blame(folder: Path, name: str, size: str, reason: str) -> None:
    """Keep why the step ``name`` is not whole, beside the figures that it left."""
    found = kept(folder, name) or {"step": name, "size": size, "whole": False, "seconds": 0.0, "figures": {}}
    found["error"] = reason
    files.replace(folder / f"{name}.part.json", (json.dumps(found, indent=1) + "\n").encode())
