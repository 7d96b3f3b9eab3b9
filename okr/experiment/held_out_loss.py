"""What the watermark costs: held-out loss of human text, keyed and unkeyed, on the same passages."""

import time

from pydantic import BaseModel, ConfigDict

from okr.experiment.sampling import GROUPS, Group, Subject, session
from okr.jobs.tasks import Step
from okr.loaders import memory_guard, passages
from okr.loaders.prediction import passage_loss


class Loss(BaseModel):
    """The held-out losses of a run, nats per token, one number a passage."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens: int
    keyed: list[float]
    unkeyed: list[float]
    seconds: float


def measure(subject: Subject, step: Step) -> Loss:
    """Both losses; ``step`` is called after each passage. Raises OutOfMemory with advice."""
    started = time.perf_counter()
    found = {group: losses(subject, group, step) for group in GROUPS}
    seconds = time.perf_counter() - started
    keyed, unkeyed = ([loss for loss, _ in found[group]] for group in ("watermarked", "control"))
    tokens = sum(count for _, count in found["control"])
    return Loss(tokens=tokens, keyed=keyed, unkeyed=unkeyed, seconds=seconds)


def losses(subject: Subject, group: Group, step: Step) -> list[tuple[float, int]]:
    """The loss of each passage with the number of tokens predicted, keyed or not; ``step`` is called after each.
    Raises OutOfMemory with advice."""
    found = []
    with memory_guard("measuring the held-out loss", batch_size=1), session(subject, group):
        for passage in passages(subject.config.quality_passages):
            found.append(passage_loss(subject.loaded, passage.text))
            step(1)
    return found
