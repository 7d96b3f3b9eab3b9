"""The processes of one run under ``accelerate launch``: who they are, and how they agree before the work begins.

Each makes whole batches and journals them in the run's folder, which all of them see; nothing but the start needs them
to talk to each other. They talk over gloo on the host, so that no card is touched for it.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import get_cpu_distributed_information
from transformers.utils import logging as transformers_logging

from okr.errors import OKRError, ProcessFailed

START_LIMIT = timedelta(hours=1)  # for what differs between processes at the start: loading the model
BAD_INPUT = 2  # the exit code of the command for what the user can put right


@dataclass(frozen=True)
class Processes:
    """This process among ``count`` of one run, and among ``local_count`` on its machine; ranks count from 0."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1

    @property
    def main(self) -> bool:
        """Whether this one leads: it alone writes the results and speaks."""
        return self.rank == 0

    def __str__(self) -> str:
        return f"process {self.rank} of {self.count}"

    @contextmanager
    def together(self) -> Iterator[None]:
        """A step that ends for all processes at once: where it fails in one, it fails in all.

        The main process raises what went wrong, its own error first; the others end silently with exit code 2.
        Raises ProcessFailed where another process failed, ended, or did not finish the step within START_LIMIT.
        """
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
        if self.count > 1:
            told: list[str | None] = [None] * self.count
            self._talk(dist.all_gather_object, told, failure and (str(failure) or type(failure).__name__))
            if any(told) and not self.main and (failure is None or isinstance(failure, OKRError)):
                raise SystemExit(BAD_INPUT)
            if failure is None and any(told):
                rank = next(rank for rank, message in enumerate(told) if message)
                raise ProcessFailed(f"process {rank} of {self.count}: {told[rank]}")
        if failure is not None:
            raise failure

    def from_main(self, value: Any) -> Any:
        """What the main process gave as ``value``, in every process. Never a secret: it crosses the network."""
        if self.count == 1:
            return value
        shared = [value]
        self._talk(dist.broadcast_object_list, shared)
        return shared[0]

    def gather(self, value: Any) -> list[Any]:
        """What every process gave as ``value``, in the order of their ranks. Never a secret: it crosses the network."""
        if self.count == 1:
            return [value]
        everyone: list[Any] = [None] * self.count
        self._talk(dist.all_gather_object, everyone, value)
        return everyone

    def _talk(self, collective: Any, *arguments: Any) -> None:
        try:
            collective(*arguments)
        except RuntimeError:  # gloo: a connection closed, or nobody answered in time
            raise ProcessFailed(
                f"{self} lost another process of this run: it ended, cannot be reached or was not ready after "
                f"{START_LIMIT.total_seconds() / 60:.0f} minutes; look for its own message, then start again "
                "(with --resume if the output folder holds a run)"
            ) from None


ALONE = Processes()


@contextmanager
def joined() -> Iterator[Processes]:
    """Be one of the processes that ``accelerate launch`` (or torchrun, or mpirun) started, for a ``with`` block.

    All but the main one fall silent: no progress bars, no warnings. Raises ProcessFailed where they do not meet.
    """
    place = get_cpu_distributed_information()
    if place.world_size == 1:
        yield ALONE
        return
    try:
        state = PartialState(cpu=True, timeout=START_LIMIT)
    except (RuntimeError, ValueError) as error:
        raise ProcessFailed(f"the processes did not meet: {' '.join(str(error).split())[:300]}") from None
    if place.rank > 0:
        logging.getLogger("okr").setLevel(logging.ERROR)
        transformers_logging.disable_progress_bar()
    try:
        yield Processes(place.rank, place.world_size, place.local_rank, place.local_world_size)
    finally:
        state.destroy_process_group()  # without it gloo may abort the interpreter's end
