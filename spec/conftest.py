"""``pytest spec --okr-impl IMPL``: every clause a test, its id the test's name."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from okr.spec import registry
from okr.spec.adapters import load
from okr.spec.profiles import PROFILES
from okr.spec.runner import smoke
from okr.spec.subject import Subject
from okr.spec.verdicts import BadImplementation, UsageError


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--okr-impl", default="okr", help="the implementation to judge, as okr conform takes it")
    parser.addoption("--okr-profile", default="ci", choices=sorted(PROFILES), help="how hard to look")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "clause" in metafunc.fixturenames:
        metafunc.parametrize("clause", registry.load().values(), ids=lambda clause: clause.id)


def pytest_sessionstart(session: pytest.Session) -> None:
    """An implementation that cannot be judged ends the run before a worker has begun."""
    if not session.config.option.collectonly and not hasattr(session.config, "workerinput"):
        with called_once(session.config):
            pass


@pytest.fixture(scope="session")
def subject(pytestconfig: pytest.Config) -> Iterator[Subject]:
    """The implementation, after a first simple call."""
    with called_once(pytestconfig) as found:
        yield found


@contextmanager
def called_once(config: pytest.Config) -> Iterator[Subject]:
    """The implementation after a first simple call; what is wrong with it ends the run."""
    try:
        implementation = load(config.getoption("--okr-impl"))
        found = Subject(implementation)
        smoke(found)
    except (UsageError, BadImplementation) as error:
        pytest.exit(f"the adapter is broken: {error}", returncode=3)
    yield found
    if callable(getattr(implementation, "close", None)):
        implementation.close()
