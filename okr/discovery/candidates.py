"""Finds modules that may be routers, by three kinds of evidence: what the model's classes record as router logits,
class names, and names beside experts.

The evidence only names candidates. The proof (:mod:`okr.discovery.probe`) decides.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from okr.discovery.adapters import places

_NAMES = ("router", "gate")
_CLASSES = re.compile(r"(Router|Gate|Gating|TopK)$")
_SUSPECTS = re.compile(r"router|gate|gating", re.IGNORECASE)


@dataclass(frozen=True)
class Candidate:
    """A module that may be a router. ``evidence`` says why. ``experts_beside`` says whether its parent holds
    experts."""

    path: str
    module: nn.Module
    evidence: str
    experts_beside: bool


class Tree:
    """The modules of a model by their path without wrappers, and the paths of those that hold experts."""

    def __init__(self, model: nn.Module) -> None:
        self.places = {place.plain: place for place in places(model)}
        self.modules = {plain: place.module for plain, place in self.places.items()}
        self.recorded = tuple(_recorded_classes(model))
        self.with_experts: set[str] = set()  # paths with experts anywhere below them
        self.parents_of_experts: set[str] = set()
        for path, module in self.modules.items():
            if path and is_experts(path, module):
                self.parents_of_experts.add(parent_of(path))
                parts = path.split(".")
                self.with_experts.update(".".join(parts[:end]) for end in range(len(parts)))

    def candidates(self) -> Iterator[Candidate]:
        """Every candidate, in the order of the model's modules."""
        for path, module in self.modules.items():
            evidence = self._evidence(path, module)
            if evidence:
                yield Candidate(path, module, evidence, parent_of(path) in self.parents_of_experts)

    def blocks_of_experts(self) -> list[str]:
        """The sorted paths of the modules that hold experts and are not themselves part of an expert."""
        blocks = self.parents_of_experts - {""}
        return sorted(path for path in blocks if not is_experts(path, self.modules[path]))

    def suspects(self) -> Iterator[tuple[str, nn.Module]]:
        """The modules whose name or class name contains "router" or "gate" although no evidence makes them
        candidates."""
        for path, module in self.modules.items():
            sounds = _SUSPECTS.search(path.rpartition(".")[2]) or _SUSPECTS.search(type(module).__name__)
            if path and sounds and not self._evidence(path, module):
                yield path, module

    def _evidence(self, path: str, module: nn.Module) -> str:
        """Why the module at ``path`` may be a router, or "" if there is no evidence."""
        if not path:
            return ""
        if isinstance(module, self.recorded):
            return "its model class records router logits there"
        if parent_of(path) not in self.with_experts:
            return ""
        if _CLASSES.search(type(module).__name__):
            return "its class is named like a router's"
        return "it is named like a router, beside experts" if path.rpartition(".")[2] in _NAMES else ""


def is_experts(path: str, module: nn.Module) -> bool:
    """Whether the last name in ``path``, or the module's class name, contains "expert"."""
    return "expert" in path.rpartition(".")[2].lower() or "Expert" in type(module).__name__


def parent_of(path: str) -> str:
    """The path of the module that holds ``path``, "" for the model itself."""
    return path.rpartition(".")[0]


def _recorded_classes(model: nn.Module) -> Iterator[type]:
    """The classes of modules whose outputs are router logits, as the model's classes declare them
    (``_can_record_outputs``)."""
    for module_class in {type(module) for module in model.modules()}:
        recorder = (getattr(module_class, "_can_record_outputs", None) or {}).get("router_logits")
        for entry in recorder if isinstance(recorder, list | tuple) else [recorder]:
            target = getattr(entry, "target_class", entry)
            if isinstance(target, type):
                yield target
