"""Chapter TRACE: headers name the weights of which a text was made, however these change."""

from typing import Any

import numpy as np

from ..subject import Subject
from ..verdicts import require
from . import check

_ROUTER = "model.layers.1.mlp.gate"


def _identity_now(engine: Any) -> Any:
    """That of the model in the header of a trace that is made now."""
    from .. import system
    from ..system import okr

    with okr.record(engine) as session:
        return session.generate(system.tokens(1), max_new_tokens=1, **system.GREEDY).traces[0].header.model


@check("OKR-TRACE-003")
def headers_follow_single_entries_of_routers(subject: Subject) -> None:
    """Entries from everywhere in a router, of which no sample of weights has them all."""
    import torch

    from .. import system
    from ..system import okr

    model = system.copied(system.softmax_model())
    engine, weight = okr.prepare(model), model.get_submodule(_ROUTER).weight
    seen = [_identity_now(engine)]
    for place in range(3, weight.numel(), 47):
        with torch.no_grad():
            weight.view(-1)[place] += 1
        seen.append(_identity_now(engine))
        require(seen[-1] not in seen[:-1], f"another entry {place} of a router, and the identity of before")


@check("OKR-TRACE-003")
def headers_follow_weights_that_take_the_place_of_others(subject: Subject) -> None:
    """A router that was made in inference mode, and then others in the same memory, which autograd watches."""
    import torch
    from torch import nn

    from .. import system
    from ..system import okr

    model = system.copied(system.softmax_model())
    router = model.get_submodule(_ROUTER)
    held = router.weight.detach().numpy().copy()
    engine, numbers = okr.prepare(model), np.random.default_rng(0)
    places = numbers.choice(held.size, 8, replace=False)
    for place in places.tolist():
        for written in (0, 1):
            with torch.inference_mode():
                router.weight = nn.Parameter(torch.from_numpy(held), requires_grad=False)
            before = _identity_now(engine)
            if not written:
                held.reshape(-1)[place] += 1
            router.weight = nn.Parameter(torch.from_numpy(held), requires_grad=False)
            if written:
                router.weight.view(-1)[place].add_(1)
            require(_identity_now(engine) != before, f"another entry {place} of a router, and the identity of before")
