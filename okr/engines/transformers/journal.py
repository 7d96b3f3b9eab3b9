"""What ran during one call: a journal belongs to the call that is recorded, never to the recorder.

Several threads or asynchronous tasks may run one model at a time. Which journal a router writes to follows from a
context variable, so each call finds its own rows in its own journal, and calls that nobody records are kept nowhere.
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
    """What ran at every site during one call of generate, on the device, as int16 [rows of the call, k] per call;
    ``autocast``: in which dtype autocast multiplied around any of the routers; ``lengths``: how far each call reached
    in each row, [rows or 1], None where nobody told."""

    def __init__(self, source: "Journals") -> None:
        self.source = source
        self.calls: list[list[Tensor]] = [[] for _ in range(source.sites)]
        self.autocast: torch.dtype | None = None
        self.lengths: list[Tensor | None] = []
        self.length: Tensor | None = None

    def add(self, site: int, ran: Tensor) -> None:
        """One call's experts [rows, k] at one site."""
        if site == 0:
            self.lengths.append(self.length)
            self.length = None
        self.calls[site].append(ran.to(torch.int16))
        self.autocast = self.autocast or lowered(ran)


_current: ContextVar[Journal | None] = ContextVar("okr_journal", default=None)
"""The journal of the call that this thread, or this asynchronous task, is in."""

_numbers = count()
_sources: "WeakValueDictionary[int, Journals]" = WeakValueDictionary()
"""The recorders by number: what compiled code names them by."""


class Journals:
    """Where the sites of one recorder report to: the journal of the call that runs them."""

    def __init__(self, sites: int) -> None:
        self.sites = sites
        self.ended = False
        self.number = next(_numbers)
        self.clock = torch.zeros(1)
        _sources[self.number] = self

    def reporter(self, site: int) -> Report:
        """What site ``site`` reports the experts of each call to."""
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
        """The call under way in this thread (or task) reaches as far as ``length`` [rows or 1]."""
        journal = _current.get()
        if journal is not None and journal.source is self:
            journal.length = length

    @contextmanager
    def opened(self) -> Iterator[Journal]:
        """A new journal, which what runs in this thread (or task) is written to for the length of the block.

        Raises UnsupportedGeneration where the recorder's own block ended before this one: what ran was not all routed
        alike.
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
        """The routers are about to be taken out: what is recorded now is not whole."""
        self.ended = True

    def _check(self, what: str) -> None:
        if self.ended:
            raise UnsupportedGeneration(f"the block of this watermark or recorder {what}")


@torch.library.custom_op(
    "okr::note", mutates_args=("clock",), tags=(torch.Tag.cudagraph_unsafe,)
)  # a CUDA graph would not run it again
def _note(clock: Tensor, ran: Tensor, number: int, site: int) -> None:
    """The report of a compiled router, which has no guard on a journal: ``clock`` counts as changed, so that no
    compiler leaves the call out."""
    journal, source = _current.get(), _sources.get(number)
    if journal is not None and journal.source is source:
        journal.add(site, ran)


@_note.register_fake
def _nothing(clock: Tensor, ran: Tensor, number: int, site: int) -> None:
    return None
