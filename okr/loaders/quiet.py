"""Collects what transformers reports while it loads a model, instead of letting it print."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging as transformers_logging


class Report(logging.Handler):
    """A log handler that keeps what transformers would have printed. Some causes of failure are told in its loading
    report only."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text += record.getMessage() + "\n"


@contextmanager
def quiet(*, progress: bool) -> Iterator[Report]:
    """Collect the reports of transformers within the block instead of printing them. Its progress bars are shown only
    if ``progress``."""
    library, capture = logging.getLogger("transformers"), Report()
    before = (library.level, library.handlers, library.propagate)
    bar = transformers_logging.is_progress_bar_enabled()
    library.setLevel(logging.WARNING)
    library.handlers, library.propagate = [capture], False
    if not progress:
        transformers_logging.disable_progress_bar()
    try:
        yield capture
    finally:
        library.setLevel(before[0])
        library.handlers, library.propagate = before[1:]
        if bar:
            transformers_logging.enable_progress_bar()
