"""The record of one router site."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class RouterSite:
    """One place in a model where experts are chosen.

    ``unit`` says what choice scores and epsilon are measured in: ``logit`` (logits, or logarithms of softmax
    probabilities) or ``score`` (sigmoid or other scores, as they are). ``ranks`` is what the family hands to its own
    top-k: ``logits``, ``probabilities`` or ``scores``. ``calls`` are the ranking calls in one forward of the router.
    A site that is not ``keyable`` says so in ``reason``.
    """

    path: str
    stack: str
    layer: int
    router_class: str
    num_experts: int
    top_k: int
    hidden_size: int
    unit: str
    ranks: str
    calls: tuple[str, ...]
    keyable: bool = True
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The record as plain JSON-ready values."""
        return asdict(self) | {"calls": list(self.calls)}
