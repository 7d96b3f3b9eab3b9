"""Lists the router families that the general rule does not fit, each with its reason."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class FamilyException:
    """How a family differs. ``refused``: it is never keyed. ``capacity``: its one-hot output drops tokens, and traces
    record which."""

    kind: Literal["refused", "capacity"]
    reason: str


EXCEPTIONS: dict[str, FamilyException] = {
    "SwitchTransformersTop1Router": FamilyException(
        "capacity",
        "an expert takes a limited number of tokens of a sequence; the router's one-hot output drops the others",
    ),
    "NllbMoeTop2Router": FamilyException(
        "refused",
        "its block hands the router's one-hot mask to the experts as if it were indices, so only experts 0 and 1 ever "
        "run (a fault of transformers' nllb_moe): no choice of the router reaches the experts",
    ),
    "DogeCDMoE": FamilyException(
        "refused",
        "it ranks sums over two lists of keys, and its logits mix the tokens of a batch: there is no score per token "
        "and expert that a key could decide by",
    ),
}
"""How a family differs, by the class name of its router or of the block that ranks."""

BYPASSES: dict[str, str] = {
    "Mxfp4GptOssMLP": "its MXFP4 kernels rank experts themselves and never call the router; load it dequantized",
}
"""Why the forward of a router does not decide, by the class name of the block around it."""
