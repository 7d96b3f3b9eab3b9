"""Fixtures shared by every test: small models of both structures, random and embedded; Hypothesis profiles."""

import gc
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:  # as many workers as cores: threads of one would only wait for those of another
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch and NumPy are imported, here and in new processes

import pytest
import torch
from hypothesis import HealthCheck, settings
from small_models import random_deepseek, random_switch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a module with kernels is imported
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)

settings.register_profile(
    "default", deadline=None, derandomize=True, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("default")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """One worker a core this process may use; none where tests of a card may run, which is there once."""
    if torch.cuda.is_available() and "not gpu" not in config.option.markexpr:
        return 0
    asked = "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ or not hasattr(os, "sched_getaffinity")
    return None if asked else len(os.sched_getaffinity(0))


def pytest_collection_finish(session: pytest.Session) -> None:
    """What was imported lives to the end: looking through it again and again would take one second in twenty."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test starts from one seed, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def deepseek():
    return random_deepseek()


@pytest.fixture
def switch():
    return random_switch()


@pytest.fixture(params=["deepseek", "switch"])
def moe(request):
    """Either random structure: what must hold for both."""
    return random_deepseek() if request.param == "deepseek" else random_switch()


@pytest.fixture
def key():
    from okr import Key

    return Key(bytes(range(32)))


@pytest.fixture
def other_key():
    from okr import Key

    return Key(bytes(range(1, 33)))
