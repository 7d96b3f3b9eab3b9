"""The clauses of an implementation one after another, or chapter by chapter in processes side by side."""

import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from multiprocessing import active_children, get_context

from okr import startup

from .adapters import SHIPPED, load
from .profiles import Profile
from .registry import Clause
from .runner import Result, run_clause, smoke
from .subject import Subject
from .verdicts import BadImplementation


@dataclass(frozen=True)
class Named:
    """An implementation by its name on the command line; ``timeout`` in seconds a call."""

    name: str
    timeout: float

    def subject(self) -> Subject:
        """It, loaded. Raises UsageError or BadImplementation."""
        return Subject(load(self.name, timeout=self.timeout), timeout=self.timeout)


def usual_jobs(name: str) -> int:
    """Two processes for what ships, where there are two cores; one for a stranger's, of which two may not fit."""
    return min(2, os.cpu_count() or 1) if name in SHIPPED else 1


def results(named: Named, clauses: Sequence[Clause], profile: Profile, jobs: int) -> Iterator[Result]:
    """Every clause's result as it comes, in the order of ``clauses`` whatever ``jobs`` is."""
    chapters = [tuple(group) for _, group in groupby(clauses, lambda clause: clause.chapter)]
    if jobs > 1 and len(chapters) > 1:
        yield from _side_by_side(named, chapters, profile, min(jobs, len(chapters)))
        return
    subject = named.subject()
    try:
        smoke(subject)
        for clause in clauses:
            yield run_clause(subject, clause, profile)
    finally:
        close = getattr(subject.implementation, "close", None)
        if callable(close):
            close()


def _side_by_side(
    named: Named, chapters: Sequence[tuple[Clause, ...]], profile: Profile, jobs: int
) -> Iterator[Result]:
    others = active_children()
    with ProcessPoolExecutor(jobs, get_context("spawn"), _begin) as pool:
        futures = [pool.submit(_chapter, named, chapter, profile) for chapter in chapters]
        try:
            for future in futures:
                yield from future.result()
        except BrokenProcessPool:
            raise BadImplementation("it ended the process that ran it") from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            if not all(future.done() for future in futures):
                for process in set(active_children()) - set(others):
                    process.terminate()


def _begin() -> None:
    """In a new process: one thread, as its neighbour has the other core; Ctrl-C ends it at once and silently."""
    startup.spare()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _chapter(named: Named, clauses: tuple[Clause, ...], profile: Profile) -> list[Result]:
    subject = _subject(named)
    return [run_clause(subject, clause, profile) for clause in clauses]


@cache
def _subject(named: Named) -> Subject:
    """One for all chapters that a process judges."""
    subject = named.subject()
    smoke(subject)
    return subject
