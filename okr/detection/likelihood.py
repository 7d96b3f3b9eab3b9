"""Computes how well a model predicts a text under a key and under images of that key, several of them in one batch."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from okr.detection.decoys import Decoys
from okr.discovery import RouterSite
from okr.engines import Engine, Text
from okr.engines.choice import EVERY, Own, Projector, filled
from okr.errors import InvalidText
from okr.routing import Key, Setting
from okr.routing.compiled import Selector, in_memory
from okr.routing.selection import route


class Sharing(Protocol):
    """The processes that share the keys of a test. This one has the number ``rank`` of ``count``."""

    @property
    def rank(self) -> int:
        """This process's number, from 0."""

    @property
    def count(self) -> int:
        """How many processes there are."""

    def gather(self, value: Any) -> list[Any]:
        """The ``value`` of every process, in the order of their numbers."""


@dataclass(frozen=True)
class Alone:
    """A single process."""

    rank: int = 0
    count: int = 1

    def gather(self, value: Any) -> list[Any]:
        """The value of this process."""
        return [value]


ALONE = Alone()


class KeyRows:
    """A chooser that routes each row of a batch by an image of one key. ``rows`` are the first image and the one after
    the last; the batch has one row for each. ``opportunities`` counts those in the rows of image ``claimed``."""

    def __init__(self, site: RouterSite, key: Key, setting: Setting, images: Decoys, claimed: int = 0) -> None:
        self.site, self.images = site, images
        self.rule: dict[str, Any] = {"top_k": site.top_k, **asdict(setting)}
        self.select = Selector(**self.rule)
        self.project = Projector(site, key)
        self.rows = (0, 1)
        self.claimed = claimed
        self.opportunities = 0

    def __call__(
        self, choice: Float[Tensor, "tokens experts"], hidden: Float[Tensor, "tokens hidden_size"], native: Own
    ) -> Int[Tensor, "tokens top_k"]:
        first, last = self.rows
        claimed = self.project(hidden).view(last - first, -1, self.site.num_experts)
        keys = self.images.by_row(claimed, first).flatten(0, 1)
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
    """The log probability of every scored token of several texts, in nats: ``keyed`` [keys, tokens] with the claimed
    key first, and ``unkeyed`` [tokens]. ``opportunities`` are those under the claimed key."""

    keyed: Float[Tensor, "keys tokens"]
    unkeyed: Float[Tensor, " tokens"]
    opportunities: int


@torch.no_grad()
def likelihoods(
    engine: Engine,
    texts: Sequence[Text],
    key: Key,
    setting: Setting,
    images: Sequence[Decoys],
    *,
    temperature: float,
    rows: int,
    unkeyed: bool = True,
    processes: Sharing = ALONE,
    advance: Callable[[int], None] = lambda count: None,
) -> Likelihoods:
    """Score ``texts`` under a key and its images, ``rows`` keys at a time, and under the unkeyed model.

    ``images[i]`` belongs to ``engine.sites[i]``. Memory grows with ``rows`` and the longest text, not with the number
    of keys. Without ``unkeyed`` the unkeyed model does not run, and its part is empty. Each of several ``processes``
    scores its share of the keys, and all get the whole result. ``advance`` is called after every pass with how many
    keys it scored.

    Keys run in a random order. Rounding may depend on the place in a batch, so a claimed key that always came first
    would differ from its decoys by more than the test asks about.

    Raises InvalidText if the model gives a judged token no finite log probability, because then no key can be told from
    others.
    """
    keys = len(images[0].columns)
    order = _order(images[0])
    choosers = [
        KeyRows(site, key, setting, Decoys(part.columns[order], part.signs[order]), int(order.argmin()))
        for site, part in zip(engine.sites, images, strict=True)
    ]
    native = torch.zeros(0)
    if unkeyed:
        with engine.scoring(None) as score:
            native = torch.cat([score(text, 1, temperature)[0] for text in texts])
        check_finite(native)
    blocks = [(first, min(first + rows, keys)) for first in range(0, keys, rows)][processes.rank :: processes.count]
    parts: list[Tensor] = []
    with engine.scoring(choosers) as score:
        for text in texts:
            found = []
            for block in blocks:
                for chooser in choosers:
                    chooser.rows = block
                found.append(score(text, block[1] - block[0], temperature))
                advance(block[1] - block[0])
            parts.append(torch.cat(found) if found else torch.zeros(0, text.scored, dtype=torch.float64))
    opportunities = sum(chooser.opportunities for chooser in choosers)
    everyone = processes.gather((torch.cat(parts, 1), opportunities))
    keyed = _dealt_back([part for part, _ in everyone], rows, keys)
    check_finite(keyed)
    return Likelihoods(keyed[order.argsort()], native, sum(count for _, count in everyone))


def _order(images: Decoys) -> Int[Tensor, " keys"]:
    """A random order of the images. Equal images always get the same order."""
    seed = hashlib.sha256(images.columns.numpy().tobytes() + images.signs.numpy().tobytes()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(seed[:8], "big") >> 1)
    return torch.randperm(len(images.columns), generator=generator)


def _dealt_back(parts: Sequence[Tensor], rows: int, keys: int) -> Float[Tensor, "keys tokens"]:
    """The rows of all keys in order. The processes had blocks of ``rows`` keys in turn, and ``parts`` are their
    results."""
    if len(parts) == 1:
        return parts[0]
    whole = parts[0].new_empty(keys, parts[0].shape[1])
    for rank, part in enumerate(parts):
        whole[[key for key in range(keys) if key // rows % len(parts) == rank]] = part
    return whole


def check_finite(log_p: Float[Tensor, "... tokens"]) -> None:
    """Raise InvalidText unless every log probability is finite. NaN would lose every comparison, so the p-value would
    be too small."""
    lost = int((~torch.atleast_2d(log_p).isfinite()).any(0).sum())
    if lost:
        raise InvalidText(
            f"the model gives {lost} of {log_p.shape[-1]} judged tokens no probability (NaN or 0): "
            "its weights may be damaged, or its dtype overflows (try bfloat16 or float32)"
        )
