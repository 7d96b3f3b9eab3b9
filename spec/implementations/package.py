"""The package as a whole: its pure functions, its routers at work in models, and its verification of traces."""

from dataclasses import replace
from typing import Any

import numpy as np

from ..cases import BakeCase, Evidence, EvidenceCase, InspectCase, Inspected, Routed, SealCase
from .torch_router import TorchRouter


class Package(TorchRouter):
    """Judged by the system clauses too; their checks drive okr.watermark, okr.record, okr.Trace and okr.verify."""

    name = "okr"
    levels = ("routing", "system")

    def evidence(self, case: EvidenceCase) -> Evidence:
        """The evidence in swaps, from the public parts of okr.detection."""
        from okr import Key
        from okr.detection import SwapTally, distance, sign_sum_p
        from okr.engines.choice import Projector

        tallies: dict[tuple[str, int], tuple[Any, Any]] = {}
        weights = []
        for shown in case.shown:
            found, weight = _gathered(shown, case)
            new = (found.site, SwapTally(found.site.hidden_size, found.site.num_experts))
            tallies.setdefault(shown.place, new)[1].add(found)
            weights.append(weight)
        key = Key(case.secret)
        sums = [tally.sum(Projector(site, key).signs) for site, tally in tallies.values()]
        z = distance(sums, [tally.squared_norm() for _, tally in tallies.values()])
        return Evidence(tuple(weights), sum(tally.swaps for _, tally in tallies.values()), z, sign_sum_p(z))

    def bake(self, case: BakeCase) -> Any:
        """A gate with the key."""
        from okr.baking import arithmetic

        return _changed(case, arithmetic.with_key)

    def unbake(self, case: BakeCase) -> Any:
        """A gate with the key taken out."""
        from okr.baking import arithmetic

        return _changed(case, arithmetic.without_key)

    def seal(self, case: SealCase) -> tuple[bytes, bytes]:
        """The tag and the sealed bytes."""
        from okr import Key
        from okr.baking.baking import seal

        return seal(case.content, Key(case.secret))

    def inspect(self, case: InspectCase) -> Inspected:
        """What gates show of a key."""
        import torch

        from okr import Key
        from okr.baking import inspection

        key, whitened = Key(case.secret), []
        for gate in case.gates:
            weight = torch.from_numpy(gate.weight)
            signs = key.projection(
                stack=gate.stack, layer=gate.layer, hidden_size=weight.shape[1], num_experts=gate.num_experts
            )
            original = None if gate.original is None else torch.from_numpy(gate.original)
            whitened.append(inspection.agreement(weight, signs, original))
        return Inspected(*inspection.evidence(*zip(*whitened, strict=True)))


def _changed(case: BakeCase, change: Any) -> Any:
    import torch

    from okr import Key
    from okr.baking.arithmetic import step

    experts, size = case.weight.shape
    signs = Key(case.secret).projection(stack=case.stack, layer=case.layer, hidden_size=size, num_experts=experts)
    weight = torch.from_numpy(case.weight).to(getattr(torch, case.dtype))
    return change(weight, torch.from_numpy(signs), step(case.strength, case.norm)).float().numpy()


class _Shown:
    """Stands for an engine whose replay shows one site as given."""

    def __init__(self, site: Any, shown: Routed) -> None:
        self.site, self.shown = site, shown

    def replay(self, trace: Any, observe: Any) -> None:
        import torch

        observe(self.site, *(torch.from_numpy(p) for p in (self.shown.choice, self.shown.hidden, self.shown.experts)))


def _gathered(shown: Routed, case: EvidenceCase) -> tuple[Any, Any]:
    """The evidence of one part of a case, and its weights float64 [T, E]."""
    from okr.detection import gather_evidence, swap_weights
    from okr.discovery import RouterSite
    from okr.routing import Setting

    experts, setting = shown.choice.shape[1], case.setting
    site = RouterSite(
        path=f"{shown.stack}.{shown.layer}", stack=shown.stack, layer=shown.layer, router_class="", num_experts=experts,
        top_k=setting.top_k, hidden_size=shown.hidden.shape[1], unit="logit", ranks="logits", calls=(), flat=True,
        keyable=True,
    )  # fmt: skip
    engine: Any = _Shown(replace(site, stack="decoder"), shown)  # the places of an encoder's tokens are not kept
    wanted = Setting(epsilon=setting.epsilon, zone=setting.zone, strength=setting.strength)  # type: ignore[arg-type]
    trace: Any = None
    [found] = gather_evidence(engine, trace, wanted, skip_prompt=False)
    weights = np.zeros(shown.choice.shape)
    weights[found.tokens.numpy()] = swap_weights(found).numpy()
    return replace(found, site=site), weights


package = Package()
