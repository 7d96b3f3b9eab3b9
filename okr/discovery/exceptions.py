"""The families that need more than the general rule, in one table, each with its reason."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class FamilyException:
    """``refused``: never keyed. ``capacity``: its one-hot output drops tokens, which traces record."""

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
"""Class of the router (or of the block that ranks) -> how it differs."""

BYPASSES: dict[str, str] = {
    "Mxfp4GptOssMLP": "its MXFP4 kernels rank experts themselves and never call the router; load it dequantized",
}
"""Class of the block around a router -> why that router's forward does not decide."""
