"""How much each step does: at full size on a card, and at a tiny one that a processor does in seconds."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Sizes:
    """The model's shape where it is not that of the 16B model, and how much of everything. Without a ``backend`` the
    step of torch.compile compiles nothing."""

    name: str
    shape: dict[str, Any] = field(default_factory=dict)
    experiment: dict[str, Any] = field(default_factory=dict)
    batches: tuple[int, ...] = (1, 8, 64)
    prompt_tokens: int = 512
    new_tokens: int = 16
    rounds: int = 41
    least: int = 6
    seconds: float = 8.0
    router: tuple[int, int, int] = (64, 2048, 6)
    router_tokens: int = 8192
    router_calls: int = 40
    sample_tokens: int = 48
    compiled_layers: int = 4
    compiled_batches: tuple[int, ...] = (1, 8)
    backend: str | None = "inductor"

    @property
    def tiny(self) -> bool:
        """Whether this is the tiny size, on the CPU."""
        return bool(self.shape)


FULL = Sizes("16B")
TINY = Sizes(
    "tiny",
    shape={
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "moe_intermediate_size": 32,
        "vocab_size": 5000,
    },
    experiment={"samples": 2, "max_length": 12, "quality_passages": 2, "device": "cpu"},
    batches=(1, 2),
    prompt_tokens=8,
    new_tokens=2,
    rounds=2,
    least=2,
    router=(64, 64, 6),
    router_tokens=32,
    router_calls=1,
    sample_tokens=12,
    compiled_layers=2,
    compiled_batches=(1,),
    backend=None,
)
