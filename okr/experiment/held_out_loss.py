"""What the watermark costs: held-out loss of human text, keyed and unkeyed, on the same passages."""

from collections.abc import Callable
from typing import Any

from okr.experiment.sampling import GROUPS, Subject, session
from okr.loaders import passages
from okr.loaders.prediction import passage_loss


def measure(subject: Subject, advance: Callable[[], None]) -> dict[str, Any]:
    """The journal record of both losses, one number a passage; ``advance`` is called after each passage."""
    texts = [passage.text for passage in passages(subject.config.quality_passages)]
    losses: dict[str, list[float]] = {}
    tokens = 0
    for group in GROUPS:
        with session(subject, group):
            measured = []
            for text in texts:
                measured.append(passage_loss(subject.loaded, text))
                advance()
        losses[group] = [loss for loss, _ in measured]
        tokens = sum(count for _, count in measured)
    return {"kind": "quality", "tokens": tokens, "keyed": losses["watermarked"], "unkeyed": losses["control"]}
