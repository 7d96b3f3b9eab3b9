"""Mixtures of experts built from plain modules, in the ways that remote code and older libraries build them."""

import torch
from torch import Tensor, nn
from torch.nn import functional

HIDDEN, EXPERTS, TOP_K = 16, 6, 2


class TopGate(nn.Module):
    """A gate that ranks: (indices, weights, auxiliary loss), as DeepSeek's remote code returns them."""

    def __init__(self, experts: int = EXPERTS, top_k: int = TOP_K) -> None:
        super().__init__()
        self.top_k = top_k
        self.weight = nn.Parameter(torch.randn(experts, HIDDEN))

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        _, _, size = hidden_states.shape
        hidden_states = hidden_states.view(-1, size)
        scores = functional.linear(hidden_states, self.weight, None).softmax(dim=-1)
        weights, indices = torch.topk(scores, k=self.top_k, dim=-1, sorted=False)
        loss = None
        if self.training:
            loss = (scores.mean(0) * functional.one_hot(indices, scores.shape[-1]).float().mean((0, 1))).sum()
        return indices, weights, loss


class Expert(nn.Module):
    """A gated feed-forward network: its ``gate_proj`` is no router."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(HIDDEN, 8, bias=False)
        self.up_proj = nn.Linear(HIDDEN, 8, bias=False)
        self.down_proj = nn.Linear(8, HIDDEN, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


def mix(experts: nn.ModuleList, hidden: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    """Each expert computes the rows that chose it."""
    flat = hidden.reshape(-1, HIDDEN)
    output = torch.zeros_like(flat)
    for number, expert in enumerate(experts):
        rows, places = torch.where(indices == number)
        if len(rows):
            output.index_add_(0, rows, expert(flat[rows]) * weights[rows, places, None])
    return output.view_as(hidden)


class RankingGateBlock(nn.Module):
    """A block whose gate ranks; ``name`` is what the gate is called."""

    def __init__(self, name: str = "gate") -> None:
        super().__init__()
        self.name = name
        setattr(self, name, TopGate())
        self.experts = nn.ModuleList(Expert() for _ in range(EXPERTS))

    def forward(self, hidden: Tensor) -> Tensor:
        indices, weights, _ = getattr(self, self.name)(hidden)
        return mix(self.experts, hidden, indices, weights)


class InlineBlock(nn.Module):
    """A block with a linear gate that ranks in its own forward, as older Mixtral code does."""

    def __init__(self, name: str = "gate") -> None:
        super().__init__()
        self.name = name
        setattr(self, name, nn.Linear(HIDDEN, EXPERTS, bias=False))
        self.experts = nn.ModuleList(Expert() for _ in range(EXPERTS))

    def forward(self, hidden: Tensor) -> Tensor:
        logits = getattr(self, self.name)(hidden.view(-1, HIDDEN))
        weights, indices = functional.softmax(logits, dim=1, dtype=torch.float).topk(TOP_K, dim=-1)
        return mix(self.experts, hidden, indices, weights / weights.sum(-1, keepdim=True))


class RankingExperts(nn.Module):
    """Experts that are handed the scores and rank them, as Aria's were."""

    def __init__(self) -> None:
        super().__init__()
        self.each = nn.ModuleList(Expert() for _ in range(EXPERTS))

    def forward(self, hidden: Tensor, logits: Tensor) -> Tensor:
        best, indices = logits.topk(TOP_K, dim=-1)
        return mix(self.each, hidden, indices, best.softmax(-1))


class HandingBlock(nn.Module):
    """A block whose linear router hands its scores to experts that rank."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(HIDDEN, EXPERTS, bias=False)
        self.experts = RankingExperts()

    def forward(self, hidden: Tensor) -> Tensor:
        flat = hidden.view(-1, HIDDEN)
        return self.experts(flat, self.router(flat)).view_as(hidden)


class Holder(nn.Module):
    """A layer that holds ``block`` under ``name`` and adds its output to its input."""

    def __init__(self, name: str, block: nn.Module) -> None:
        super().__init__()
        self.name = name
        self.norm = nn.LayerNorm(HIDDEN)
        setattr(self, name, block)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + getattr(self, self.name)(self.norm(hidden))


class Sub(nn.Module):
    """A layer made of a list of sublayers, as in T5: the second holds ``mlp``."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.layer = nn.ModuleList([Holder("attention", nn.Linear(HIDDEN, HIDDEN)), Holder("mlp", block)])

    def forward(self, hidden: Tensor) -> Tensor:
        for part in self.layer:
            hidden = part(hidden)
        return hidden


class Direct(RankingGateBlock):
    """A layer that holds its router and its experts itself."""

    def __init__(self) -> None:
        super().__init__("router")

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + super().forward(hidden)


class Network(nn.Module):
    """Embedded tokens through ``layers``; there is no configuration to ask."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.embed = nn.Embedding(32, HIDDEN)
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(HIDDEN, 32)

    def forward(self, input_ids: Tensor) -> Tensor:
        hidden = self.embed(input_ids)
        for layer in self.layers:
            hidden = layer(hidden)
        return self.head(hidden)


WAYS = {
    "layer.layer[i].mlp.router": (lambda: Sub(RankingGateBlock("router")), "layers.{i}.layer.1.mlp.router"),
    "feed_forward": (
        lambda: Holder("feed_forward", RankingGateBlock("router")),
        "layers.{i}.feed_forward.router",
    ),
    "mlp.router": (lambda: Holder("mlp", RankingGateBlock("router")), "layers.{i}.mlp.router"),
    "router": (Direct, "layers.{i}.router"),
    "block_sparse_moe": (lambda: Holder("block_sparse_moe", InlineBlock()), "layers.{i}.block_sparse_moe"),
    "mlp.gate": (lambda: Holder("mlp", RankingGateBlock("gate")), "layers.{i}.mlp.gate"),
    "moe.gate": (lambda: Holder("moe", InlineBlock("gate")), "layers.{i}.moe"),
    "experts that rank": (lambda: Holder("mlp", HandingBlock()), "layers.{i}.mlp"),
    "experts with a sibling gate": (lambda: Holder("ffn", RankingGateBlock("gate")), "layers.{i}.ffn.gate"),
}
"""The ways in which the guide looks for a router: how to build such a layer, and the path of the router in it."""
