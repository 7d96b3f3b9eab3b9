"""Chapter WEIGHT: routers that no library has."""

from typing import Any

from .. import oracle
from ..cases import Setting
from ..subject import Subject
from ..verdicts import require
from . import check
from .attach_routers import ranking_logits, with_routers


@check("OKR-WEIGHT-003")
def selection_is_legal_for_scores_of_any_dtype(subject: Subject) -> None:
    """Routers that rank logits as they are, of 16 and more bits. Many of bfloat16 lie 0.3125 apart, a little more than
    epsilon, which only a rounded zone would let in."""
    import torch

    from .. import system
    from ..system import okr
    from .weight import legal_nearby

    here = Setting(2, 0.31, "boundary")
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        model = with_routers(ranking_logits).to(dtype)
        with (
            torch.no_grad(),
            okr.watermark(model, system.key(), epsilon=here.epsilon, zone=here.zone),
            system.outputs_of(model) as seen,
            system.served(f"a router that ranks logits of {dtype}"),
        ):
            for length in (40, 1):
                system.logits(model, system.tokens(4, length))
        for site, _ in system.routers(model):
            rows = torch.cat([given.reshape(-1, site.hidden_size) for given, _ in seen[site.path]])
            choice, experts = (torch.cat([output[part] for _, output in seen[site.path]]) for part in (0, 2))
            key, _ = oracle.key_scores(rows.float().numpy(), _signs(site))
            for token, taken in enumerate(experts.tolist()):
                fair = legal_nearby(choice[token].tolist(), key[token].tolist(), here, taken)
                require(fair, f"{site.path}, logits of {dtype}: illegal selection", got=sorted(taken))


def _signs(site: Any) -> Any:
    from .. import system

    names = ("stack", "layer", "hidden_size", "num_experts")
    return oracle.projection(system.SECRET, **{name: getattr(site, name) for name in names})
