"""What a test of this folder needs, and what it says where that is not here."""

import gc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import okr
from okr.loaders import Loaded
from tests.gpu import bodies

CARD = "cuda:0"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder needs a card, whatever else it needs."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)


def shortage(gib: float) -> str:
    """Why a test that needs ``gib`` free on a card cannot run; empty where it can. What an earlier test left is given
    back first."""
    if not torch.cuda.is_available():
        return f"needs a CUDA card with {gib:g} GiB free; torch sees none"
    gc.collect()
    torch.cuda.empty_cache()
    free, total = (size / bodies.GIB for size in torch.cuda.mem_get_info(0))
    name = torch.cuda.get_device_name(0)
    return "" if free >= gib else f"needs {gib:g} GiB free on the card; {name} has {free:.1f} of {total:.1f} GiB free"


@pytest.fixture
def needs() -> Callable[[float], str]:
    """``needs(gib)``: the card, or a skip that says what is missing."""

    def ask(gib: float) -> str:
        missing = shortage(gib)
        if missing:
            pytest.skip(missing)
        return CARD

    return ask


@pytest.fixture(scope="module")
def full_size() -> Loaded:
    """The 16B model on the card, its weights random where the real ones are not here; shared by a module's tests."""
    missing = shortage(40)
    if missing:
        pytest.skip(missing)
    return okr.load(bodies.subject(), dtype="bfloat16", device_map=CARD)
