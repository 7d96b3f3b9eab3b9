"""What the routers of a model show while it runs natively."""

from collections.abc import Callable

import torch

from okr.baking.measuring import Seen
from okr.engines.transformers import TransformersEngine
from okr.engines.transformers.routings import Chosen


@torch.no_grad()
def seen_while(engine: TransformersEngine, run: Callable[[], object]) -> list[Seen]:
    """What every site of ``engine`` shows while ``run()`` runs its model."""
    seen = [Seen() for _ in engine.sites]
    with engine.routed([Chosen(site, each.choose) for site, each in zip(engine.sites, seen, strict=True)]):
        run()
    return seen
