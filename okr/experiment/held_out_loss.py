"""What the watermark costs: held-out loss of human text, keyed and unkeyed, on the same passages."""

import time

from pydantic import BaseModel, ConfigDict

from okr.experiment.sampling import GROUPS, Subject, session
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
    texts = [passage.text for passage in passages(subject.config.quality_passages)]
    losses: dict[str, list[float]] = {}
    started, tokens = time.perf_counter(), 0
    for group in GROUPS:
        with memory_guard("measuring the held-out loss", batch_size=1), session(subject, group):
            measured = []
            for text in texts:
                measured.append(passage_loss(subject.loaded, text))
                step(1)
        losses[group] = [loss for loss, _ in measured]
        tokens = sum(count for _, count in measured)
    seconds = time.perf_counter() - started
    return Loss(tokens=tokens, keyed=losses["watermarked"], unkeyed=losses["control"], seconds=seconds)
