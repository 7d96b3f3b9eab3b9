"""Attaches another routing to the routers of a live model, and detaches it again."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from okr.discovery import RouterSite
from okr.discovery.adapters import stand_ins
from okr.engines.transformers.families import family_of
from okr.engines.transformers.guard import Guard
from okr.engines.transformers.proof import Proof, prove_all
from okr.engines.transformers.swapping import AttachedRouter, Attachment, SiteRouting, swap_in, swap_out
from okr.errors import AlreadyAttached


@contextmanager
def attached(
    model: nn.Module,
    sites: Sequence[RouterSite],
    routings: Sequence[SiteRouting],
    proofs: Callable[[], Sequence[Proof]] | None = None,
    *,
    replay: bool = False,
) -> Iterator[None]:
    """Run ``model`` with ``routings[i]`` at ``sites[i]`` within the block. After the block, even after an exception,
    the model is as before.

    ``proofs`` returns a proof for each site; None proves every router here. ``replay`` must be True if the routings
    force the experts of a trace, so that no family drops tokens by its own rule. Raises AlreadyAttached if a routing is
    attached already, and UnsupportedRouter if a router cannot be proven.
    """
    if any(isinstance(module, AttachedRouter) for module in model.modules()):
        raise AlreadyAttached(
            f"this {type(model).__name__} already runs under a watermark, a recorder or a replay; end that block first"
        )
    guard = Guard()
    proven = proofs() if proofs else prove_all(model, sites)
    attachments = [
        attachment_of(model.get_submodule(site.path), site, routing, proof, guard)
        for site, routing, proof in zip(sites, routings, proven, strict=True)
    ]
    places = [(m, attachment) for attachment in attachments for m in stand_ins(model, attachment.site.path)]
    undo: list[Callable[[], None]] = [model.register_forward_hook(guard).remove]
    undo += [part.register_forward_hook(guard.watch).remove for part in _around(model, sites)]
    try:
        for module, attachment in places:
            if replay:
                undo.append(attachment.family.prepare_replay(module))
            swap_in(module, attachment)
        yield
    finally:
        guard.left = True
        for module, _ in places:
            swap_out(module)
        for restore in undo:
            restore()


def attachment_of(module: nn.Module, site: RouterSite, routing: SiteRouting, proof: Proof, guard: Guard) -> Attachment:
    """The attachment of the router ``module``, with ``routing`` prepared for the device and the dtype of its input."""
    routing.prepare(proof.device, proof.dtype)
    return Attachment(site, routing, family_of(module), guard, proof.fused)


def _around(model: nn.Module, sites: Sequence[RouterSite]) -> list[nn.Module]:
    """The modules within ``model`` that hold every site. A forward that uses the sites may begin at any of them."""
    parts = ((f"{path}.", part) for path, part in model.named_modules() if path)
    return [part for path, part in parts if all(site.path.startswith(path) for site in sites)]
