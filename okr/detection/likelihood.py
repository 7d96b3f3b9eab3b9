"""How well a model under a key, and under images of that key, predicts a text: side by side in one batch."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from okr.detection.decoys import Decoys
from okr.discovery import RouterSite
from okr.engines.transformers import Setting
from okr.engines.transformers.attaching import attached
from okr.engines.transformers.calling import arguments_for, input_device, logits_of
from okr.engines.transformers.fused import EVERY, Own
from okr.engines.transformers.rotary import Scaling
from okr.engines.transformers.routings import Native, Projector, choice_scores, filled
from okr.errors import InvalidText
from okr.routing import Key
from okr.routing.compiled import Selector, in_memory
from okr.routing.precision import autocast, lowered
from okr.routing.selection import route


@dataclass(frozen=True)
class Text:
    """Tokens to be judged: int64 [n]; those before ``prompt_length`` (at least 1) are given, not scored. ``source`` is
    what an encoder reads, int64 [m], None for decoder-only models."""

    tokens: Int[Tensor, " tokens"]
    prompt_length: int
    source: Int[Tensor, " source"] | None

    @property
    def scored(self) -> int:
        """How many tokens are scored."""
        return len(self.tokens) - self.prompt_length


class KeyRows(Native):
    """Routes every row of a batch by its own image of one key: rows R, their tokens laid out one row after another."""

    def __init__(self, site: RouterSite, key: Key, setting: Setting, images: Decoys, claimed: int = 0) -> None:
        super().__init__()
        self.site, self.images = site, images
        self.rule: dict[str, Any] = {"top_k": site.top_k, **asdict(setting)}
        self.select = Selector(**self.rule)
        self.project = Projector(site, key)
        self.rows = (0, 1)
        self.claimed = claimed  # the image whose opportunities are counted
        self.opportunities = 0

    def choose(
        self, scores: Float[Tensor, "tokens experts"], hidden: Float[Tensor, "tokens hidden_size"], native: Own
    ) -> Int[Tensor, "tokens top_k"]:
        first, last = self.rows
        claimed = self.project(hidden).view(last - first, -1, self.site.num_experts)
        choice, keys = choice_scores(self.site, scores), self.images.by_row(claimed, first).flatten(0, 1)
        if in_memory(choice):
            selected = self.select(choice.numpy(), keys.numpy())
            experts, opportunity = filled(selected, native), torch.from_numpy(selected[1])
        else:
            experts, zone = route(choice, keys, native(EVERY), **self.rule)
            opportunity = zone.opportunity
        if first <= self.claimed < last:
            self.opportunities += int(opportunity.view(last - first, -1)[self.claimed - first].sum())
        return experts


@dataclass(frozen=True)
class Likelihoods:
    """log p of every scored token of several texts in nats: ``keyed`` [keys, tokens], the claimed key first;
    ``unkeyed`` [tokens]; ``opportunities`` under the claimed key."""

    keyed: Float[Tensor, "keys tokens"]
    unkeyed: Float[Tensor, " tokens"]
    opportunities: int


@torch.no_grad()
def likelihoods(
    model: nn.Module,
    sites: Sequence[RouterSite],
    texts: Sequence[Text],
    key: Key,
    setting: Setting,
    images: Sequence[Decoys],
    *,
    temperature: float,
    rows: int,
    unkeyed: bool = True,
    advance: Callable[[int], None] = lambda count: None,
) -> Likelihoods:
    """Score ``texts`` under a key and its images (``images[i]`` belongs to ``sites[i]``), ``rows`` keys at a time.

    Keys are run in a random order: rounding may depend on the place in a batch, and a claimed key that always came
    first would differ from its decoys by more than what the test is about.

    Memory grows with ``rows`` and the longest text, not with the number of keys. ``advance`` hears of every
    pass: how many keys it scored. Without ``unkeyed`` the unkeyed model is not run and its part is empty. Where
    torch.distributed is initialised every process scores its share of the keys, and all get the whole result.

    Raises InvalidText where a model's output gives a judged token no finite log p: no key can be told from others then.
    """
    keys = len(images[0].columns)
    training = model.training
    model.eval()
    order = _order(images[0])
    routings = [
        KeyRows(site, key, setting, Decoys(part.columns[order], part.signs[order]), int(order.argmin()))
        for site, part in zip(sites, images, strict=True)
    ]
    rank, processes = (dist.get_rank(), dist.get_world_size()) if _distributed() else (0, 1)
    blocks = [(first, min(first + rows, keys)) for first in range(0, keys, rows)][rank::processes]
    parts: list[Tensor] = []
    try:
        native = torch.cat([_log_p(model, text, 1, temperature)[0] for text in texts if unkeyed] or [torch.zeros(0)])
        check_finite(native)
        with attached(model, sites, routings):
            for text in texts:
                found = []
                for block in blocks:
                    for routing in routings:
                        routing.rows = block
                    found.append(_log_p(model, text, block[1] - block[0], temperature))
                    advance(block[1] - block[0])
                parts.append(torch.cat(found) if found else torch.zeros(0, text.scored, dtype=torch.float64))
    finally:
        model.train(training)
    keyed, opportunities = _gathered(
        torch.cat(parts, 1), sum(routing.opportunities for routing in routings), rows, keys
    )
    check_finite(keyed)
    return Likelihoods(keyed[order.argsort()], native, opportunities)


def _order(images: Decoys) -> Int[Tensor, " keys"]:
    """A random order of the images, the same for the same ones."""
    seed = hashlib.sha256(images.columns.numpy().tobytes() + images.signs.numpy().tobytes()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(seed[:8], "big") >> 1)
    return torch.randperm(len(images.columns), generator=generator)


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def _gathered(own: Tensor, opportunities: int, rows: int, keys: int) -> tuple[Float[Tensor, "keys tokens"], int]:
    """All keys' rows in order, from every process's blocks of ``rows`` keys, dealt out in turn; all opportunities."""
    if not _distributed():
        return own, opportunities
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, (own, opportunities))
    whole = own.new_empty(keys, own.shape[1])
    for rank, (part, _) in enumerate(everyone):
        places = [key for key in range(keys) if key // rows % len(everyone) == rank]
        whole[places] = part
    return whole, sum(count for _, count in everyone)


def _log_p(model: nn.Module, text: Text, rows: int, temperature: float) -> Float[Tensor, "rows tokens"]:
    """log p of the scored tokens with the text repeated in ``rows`` rows, float64 on the CPU."""
    device = input_device(model)
    tokens = text.tokens.to(device)
    source = None if text.source is None else text.source.to(device).expand(rows, -1)
    arguments = arguments_for(model, tokens[:-1].expand(rows, -1), source, use_cache=False)
    lower = lowered(tokens)  # as the caller has it, its cache of lowered weights left alone
    with Scaling(model).afresh(), autocast(device.type, lower):  # whatever the model saw before
        logits = logits_of(model(**arguments))[:, text.prompt_length - 1 :]
    targets = tokens[text.prompt_length :].to(logits.device).expand(rows, -1)
    logits = logits.float() if temperature == 1 else logits.float() / temperature
    loss = cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return -loss.view(rows, -1).double().cpu()


def check_finite(log_p: Float[Tensor, "... tokens"]) -> None:
    """InvalidText unless every log p is a finite number. NaN would lose every comparison, and so pass for evidence."""
    lost = int((~torch.atleast_2d(log_p).isfinite()).any(0).sum())
    if lost:
        raise InvalidText(
            f"the model gives {lost} of {log_p.shape[-1]} judged tokens no probability (NaN or 0): "
            "its weights may be damaged, or its dtype overflows (try bfloat16 or float32)"
        )
