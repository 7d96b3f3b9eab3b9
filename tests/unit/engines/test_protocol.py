"""The engines of this process keep the contract of engines: transformers in both structures, and NumPy."""

from typing import Any

import pytest
import torch
from engine_contract import CONTRACT, Case
from numpy_engine import NumpyEngine
from small_models import random_deepseek, random_switch

import okr


@torch.no_grad()
def changed(model: Any) -> Any:
    """The model with other weights."""
    for parameter in model.parameters():
        parameter.mul_(1.5)
    return model


def _torch(model: Any, other: Any) -> Case:
    options = {"do_sample": True, "max_new_tokens": 40, "min_new_tokens": 40}
    return Case(okr.prepare(model), okr.prepare(other), options, torch.randint(3, 256, (2, 5)))


@pytest.fixture(params=["deepseek", "switch", "numpy"])
def case(request: pytest.FixtureRequest) -> Case:
    if request.param == "deepseek":
        return _torch(random_deepseek(), changed(random_deepseek()))
    if request.param == "switch":
        return _torch(random_switch(), changed(random_switch()))
    return Case(NumpyEngine(), NumpyEngine(1), {"new_tokens": 40}, [[3, 5, 7], [4, 6, 8]])


@pytest.mark.parametrize("clause", CONTRACT, ids=lambda clause: clause.__name__)
def test_an_engine_keeps_the_contract(case: Case, clause: Any) -> None:
    clause(case)
