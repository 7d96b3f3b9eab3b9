"""Who is told how a job goes."""

from typing import Protocol


class Progress(Protocol):
    """Hears of the stages of a job, and of the steps of its bars."""

    def stage(self, text: str) -> None:
        """The job begins ``text``, of unknown length."""

    def total(self, bar: str, steps: int) -> None:
        """``bar`` has ``steps`` steps."""

    def advance(self, bar: str, steps: int, weight: float = 0.0) -> None:
        """``steps`` of ``bar`` are done. ``weight``: the share in the expected time of what was done now, in any
        unit; of what an earlier start did, 0."""

    def expect(self, weight: float) -> None:
        """The weight of everything that is left to do."""


class Silent:
    """Progress that nobody sees."""

    def stage(self, text: str) -> None:
        """Say nothing."""

    def total(self, bar: str, steps: int) -> None:
        """Say nothing."""

    def advance(self, bar: str, steps: int, weight: float = 0.0) -> None:
        """Say nothing."""

    def expect(self, weight: float) -> None:
        """Say nothing."""


SILENT = Silent()
