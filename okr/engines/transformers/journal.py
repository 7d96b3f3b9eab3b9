"""Keeps what ran during one call. A journal belongs to the call that is recorded, not to the recorder.

Several threads or asynchronous tasks may run one model at the same time. A context variable names the journal of the
present thread or task, so each recorded call has its rows in its own journal. Calls that nobody records are not kept.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from okr.engines.transformers.routings import Report
from okr.errors import UnsupportedGeneration
from okr.routing.precision import lowered


class Journal:
    """What ran at every site during one recorded call.

    ``calls[site]`` has the experts of each forward, int16 [rows, k], on the device. ``autocast`` is the dtype of the
    autocast around the routers, or None. ``lengths`` is how far each forward reached in each row, [rows or 1], or None
    if no rotary embedding told it.
    """

    def __init__(self, source: "Journals") -> None:
        self.source = source
        self.calls: list[list[Tensor]] = [[] for _ in range(source.sites)]
        self.autocast: torch.dtype | None = None
        self.lengths: list[Tensor | None] = []
        self.length: Tensor | None = None

    def add(self, site: int, ran: Tensor) -> None:
        """Add the experts [rows, k] of one forward at one site."""
        if site == 0:
            self.lengths.append(self.length)
            self.length = None
        self.calls[site].append(ran.to(torch.int16))
        self.autocast = self.autocast or lowered(ran)


_current: ContextVar[Journal | None] = ContextVar("okr_journal", default=None)
"""The journal of this thread or asynchronous task, or None."""

_numbers = count()
_sources: "WeakValueDictionary[int, Journals]" = WeakValueDictionary()
"""The recorders by number. Compiled code can hold a number, but not a recorder."""


class Journals:
    """The journals of one recorder. A site reports to the journal of the call that runs it."""

    def __init__(self, sites: int) -> None:
        self.sites = sites
        self.ended = False
        self.number = next(_numbers)
        self.clock = torch.zeros(1)
        _sources[self.number] = self

    def reporter(self, site: int) -> Report:
        """The function to which site ``site`` reports the experts of each forward."""
        clock, number = self.clock, self.number

        def report(ran: Callable[[], Tensor]) -> None:
            if torch.compiler.is_compiling():
                _note(clock, ran(), number, site)
                return
            journal = _current.get()
            if journal is not None and journal.source is self:
                journal.add(site, ran())

        return report

    def hear(self, length: Tensor) -> None:
        """Note that the present forward reaches up to ``length`` [rows or 1]."""
        journal = _current.get()
        if journal is not None and journal.source is self:
            journal.length = length

    @contextmanager
    def opened(self) -> Iterator[Journal]:
        """Record what this thread or task runs within the block, in a new journal.

        Raises UnsupportedGeneration if the recorder's own block has ended before or ends within this block, because
        then the forwards were not all routed alike.
        """
        self._check("has ended: generate inside it")
        journal = Journal(self)
        token = _current.set(journal)
        try:
            yield journal
        finally:
            _current.reset(token)
        self._check("ended while this was running: wait for every generation before leaving it")

    def end(self) -> None:
        """Note that the routers are about to be detached, so that a journal still open is incomplete."""
        self.ended = True

    def _check(self, what: str) -> None:
        if self.ended:
            raise UnsupportedGeneration(f"the block of this watermark or recorder {what}")


@torch.library.custom_op(
    "okr::note", mutates_args=("clock",), tags=(torch.Tag.cudagraph_unsafe,)
)  # in a CUDA graph it would run only once
def _note(clock: Tensor, ran: Tensor, number: int, site: int) -> None:
    """The report of a compiled router. The compiled code has no guard on a journal. ``clock`` is declared to change, so
    that no compiler removes the call."""
    journal, source = _current.get(), _sources.get(number)
    if journal is not None and journal.source is source:
        journal.add(site, ran)


@_note.register_fake
def _nothing(clock: Tensor, ran: Tensor, number: int, site: int) -> None:
    return None
