"""The clauses of an implementation one after another, or chapter by chapter in processes side by side."""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from multiprocessing import active_children, get_context
from typing import Any

from okr import startup

from .adapters import load
from .profiles import Profile
from .registry import Clause
from .runner import Result, run_clause, smoke
from .subject import Subject
from .verdicts import BadImplementation, words


@dataclass(frozen=True)
class Named:
    """An implementation by its name on the command line; ``timeout`` in seconds a call."""

    name: str
    timeout: float

    def subject(self) -> Subject:
        """It, loaded. Raises UsageError or BadImplementation."""
        return Subject(load(self.name, timeout=self.timeout), timeout=self.timeout)


def usual_jobs(name: str) -> int:
    """Two processes where there are two cores; one for a program, which is a process itself, and for stored answers."""
    return 1 if name.startswith(("cmd:", "vectors:")) else min(2, os.cpu_count() or 1)


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


def attributes(named: Named, names: Sequence[str]) -> dict[str, str]:
    """What an implementation says of itself in attributes of these names. A process of its own reads them, so that
    nothing of the implementation is left when it is judged. Raises UsageError or BadImplementation."""
    with ProcessPoolExecutor(1, get_context("spawn"), _begin) as pool:
        found: dict[str, str] = _result(pool.submit(_attributes, named, names), "when it was loaded")
        return found


def _attributes(named: Named, names: Sequence[str]) -> dict[str, str]:
    implementation = named.subject().implementation
    try:
        found = {name: getattr(implementation, name, None) for name in names}
        return {name: str(value) for name, value in found.items() if value is not None}
    except Exception as error:
        raise BadImplementation(f"its attributes cannot be read: {words(error)}") from None


def _side_by_side(
    named: Named, chapters: Sequence[tuple[Clause, ...]], profile: Profile, jobs: int
) -> Iterator[Result]:
    """Each process judges the same chapters in every run, so that what an implementation remembers of one call is the
    same in the next."""
    others = active_children()
    with ExitStack() as stack:
        pools = [stack.enter_context(ProcessPoolExecutor(1, get_context("spawn"), _begin)) for _ in range(jobs)]
        finished = False
        try:
            able, levels = _able(pools, named)
            sizes = [sum(clause.level in levels for clause in chapter) for chapter in chapters]
            places = shares(sizes, len(able))
            futures = [
                able[place].submit(_chapter, named, chapter, profile)
                for chapter, place in zip(chapters, places, strict=True)
            ]
            for chapter, future in zip(chapters, futures, strict=True):
                yield from _result(future, f"in the chapter {chapter[0].title}")
            finished = True
        finally:
            for pool in pools:
                # a thread that was not waited for may write into a closed pipe when Python ends
                pool.shutdown(wait=finished, cancel_futures=True)
            if not finished:
                for process in set(active_children()) - set(others):
                    process.terminate()


def _able(pools: Sequence[ProcessPoolExecutor], named: Named) -> tuple[list[ProcessPoolExecutor], frozenset[str]]:
    """The processes in which the implementation can be loaded and answers, and the levels of clauses it is judged by.

    Where a second copy does not fit (a card's memory, a lock), one judges all. Raises what the first process raised
    where none can load it.
    """
    asked = [pool.submit(_ready, named) for pool in pools]
    wait(asked)
    able = [pool for pool, future in zip(pools, asked, strict=True) if future.exception() is None]
    if able and len(able) < len(pools):
        print(f"okr conform: it can be loaded in {len(able)} of {len(pools)} processes side by side", file=sys.stderr)
    answers = [future for future in asked if future.exception() is None] or asked
    return able, _result(answers[0], "when it was loaded")


def _result(future: Future[Any], when: str) -> Any:
    try:
        return future.result()
    except BrokenProcessPool:
        raise BadImplementation(f"it ended the process that ran it, {when}") from None


def shares(sizes: Sequence[int], count: int) -> list[int]:
    """Which of ``count`` processes takes each of the chapters, of these sizes: largest first, to whoever has least."""
    loads, taken = [0] * count, [0] * len(sizes)
    for chapter in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        taken[chapter] = loads.index(min(loads))
        loads[taken[chapter]] += sizes[chapter]
    return taken


def _begin() -> None:
    """In a new process: one thread, as its neighbour has the other core; Ctrl-C ends it at once and silently.

    What the implementation prints goes to standard error, since a report may go to standard output.
    """
    os.dup2(2, 1)
    startup.spare()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _ready(named: Named) -> frozenset[str]:
    return _subject(named).levels


def _chapter(named: Named, clauses: tuple[Clause, ...], profile: Profile) -> list[Result]:
    subject = _subject(named)
    return [run_clause(subject, clause, profile) for clause in clauses]


@cache
def _subject(named: Named) -> Subject:
    """One for all chapters that a process judges."""
    subject = named.subject()
    smoke(subject)
    return subject
