"""A key in the weights: checkpoints whose gates carry it, which every engine runs without code of this package."""

from okr.baking.baking import ORIGINALS_FILE, bake, unbake
from okr.baking.checkpoint import Checkpoint
from okr.baking.header import HEADER_FILE, Gate, Gates, Header, read_header
from okr.baking.inspection import GateInspection, Inspection, inspect
from okr.baking.lookup import find_gates
from okr.baking.measuring import measure, texts_of
from okr.baking.models import unbaked

__all__ = [
    "HEADER_FILE",
    "ORIGINALS_FILE",
    "Checkpoint",
    "Gate",
    "GateInspection",
    "Gates",
    "Header",
    "Inspection",
    "bake",
    "find_gates",
    "inspect",
    "measure",
    "read_header",
    "texts_of",
    "unbake",
    "unbaked",
]
