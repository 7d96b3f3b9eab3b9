"""The time that one call of an implementation may take, beside a timer of the caller's."""

import signal
from collections.abc import Iterator

import pytest

from okr.spec.subject import Subject
from okr.spec.verdicts import Fault

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the system has no interval timers")


@pytest.fixture
def timer() -> Iterator[None]:
    """A timer of the caller's: a thousand seconds, then every two thousand."""
    before = signal.setitimer(signal.ITIMER_REAL, 1000, 2000)
    yield
    signal.setitimer(signal.ITIMER_REAL, *before)


class Answers:
    def key_scores(self) -> int:
        return 1


class Hangs:
    def key_scores(self) -> None:
        while True:
            pass


class HangsInAFinalizerFirst(Hangs):
    def __del__(self) -> None:
        self.key_scores()


class OutlivesItsTime:
    def key_scores(self) -> None:
        HangsInAFinalizerFirst()  # Python drops what is raised while this object is taken away
        Hangs().key_scores()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_time_that_is_up_inside_a_finalizer_ends_the_call_all_the_same() -> None:
    with pytest.raises(Fault, match=r"did not answer within 0\.05 s"):
        Subject(OutlivesItsTime(), timeout=0.05).accepts("key_scores")


def test_the_callers_timer_goes_on_after_an_answer(timer: None) -> None:
    Subject(Answers()).accepts("key_scores")
    left, interval = signal.getitimer(signal.ITIMER_REAL)
    assert 900 < left < 1000
    assert interval == 2000


def test_the_callers_timer_goes_on_after_none(timer: None) -> None:
    with pytest.raises(Fault, match=r"did not answer within 0\.05 s"):
        Subject(Hangs(), timeout=0.05).accepts("key_scores")
    assert 900 < signal.getitimer(signal.ITIMER_REAL)[0] < 1000
