"""Finds a model's routers. Evidence names candidates, and each is proven by what its own forward does."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from okr.discovery.candidates import Candidate, Tree, is_experts, parent_of
from okr.discovery.exceptions import BYPASSES, EXCEPTIONS
from okr.discovery.probe import Finding, probe
from okr.discovery.sites import RouterSite
from okr.errors import InvalidSetting, RouterNotFound


@dataclass(frozen=True)
class Search:
    """The sites that a search found, and its log. The log has one line for every module examined and says why it is a
    router or is none."""

    sites: list[RouterSite]
    log: tuple[str, ...]


def discover(model: nn.Module) -> list[RouterSite]:
    """Find every router of ``model``, encoder before decoder, in the order of the layers. Routers that cannot be keyed
    are listed too.

    The model's forward is not run and its weights are not read, so offloaded, quantised and ``meta`` models work too.
    Raises RouterNotFound if there is no router; its ``log`` says what was examined. Raises InvalidSetting if ``model``
    is no torch.nn.Module.
    """
    found = search(model)
    if not found.sites:
        raise RouterNotFound(
            f"no router found in {type(model).__name__} (未找到任何gate层): is it a Mixture-of-Experts model? "
            f"looked at {len(found.log)} modules, see the discovery log",
            found.log,
        )
    return found.sites


def keyable_sites(model: nn.Module, found: Sequence[RouterSite] | None = None) -> list[RouterSite]:
    """The sites in ``found`` that can be keyed. ``found`` defaults to what :func:`discover` finds.

    Raises RouterNotFound if no site can be keyed; the message gives each site's reason.
    """
    found = discover(model) if found is None else found
    keyable = [site for site in found if site.keyable]
    if not keyable:
        reasons = "; ".join(f"{site.path}: {site.reason}" for site in found)
        raise RouterNotFound(f"no router of {type(model).__name__} can be keyed: {reasons}")
    return keyable


def search(model: nn.Module) -> Search:
    """Search ``model`` as :func:`discover` does, and return the sites together with the log.

    A model without routers gives an empty list of sites. Raises InvalidSetting if ``model`` is no torch.nn.Module.
    """
    if not isinstance(model, nn.Module):
        inside = " (its .model is one)" if isinstance(getattr(model, "model", None), nn.Module) else ""
        raise InvalidSetting(f"the model must be a torch.nn.Module, got {type(model).__name__}{inside}")
    return _Searcher(model).run()


class _Searcher:
    """One search of one model: its sites and log so far, and the proofs already made."""

    def __init__(self, model: nn.Module) -> None:
        self.tree = Tree(model)
        self.sites: dict[str, RouterSite] = {}
        self.log: list[str] = []
        self.proofs: dict[Any, tuple[Finding | None, str]] = {}

    def run(self) -> Search:
        for candidate in self.tree.candidates():
            self._examine(candidate)
        for path in self.tree.blocks_of_experts():
            if not any(parent_of(site) == path or f"{site}.".startswith(f"{path}.") for site in self.sites):
                self._block_without_router(path)
        for path, module in self.tree.suspects():
            if path not in self.sites:
                self._note(path, module, "not a router: neither recorded by the model nor beside experts")
        if not self.log:
            for path, module in self.tree.modules.items():
                self._note(path, module, "no experts in or beside it")
        order = {path: index for index, path in enumerate(self.tree.modules)}
        sites = sorted(self.sites.values(), key=lambda site: (site.stack != "encoder", order[site.path]))
        named = [replace(site, path=self.tree.places[site.path].path) for site in _named_apart(sites)]
        return Search(named, tuple(self.log))

    def _note(self, path: str, module: nn.Module, what: str) -> None:
        self.log.append(f"{path or 'model'} ({type(module).__name__}): {what}")

    def _examine(self, candidate: Candidate) -> None:
        """Prove ``candidate`` and list the module that ranks: the candidate, a part of it, or the block around it. A
        module beside experts that cannot be proven is listed as not keyable, unless it is a linear layer."""
        path, module = candidate.path, candidate.module
        size = hidden_size(module)
        finding, problem = self._proof(module, size)
        if finding is not None and finding.owner:  # a part of it ranks: that part is the router
            part = f"{path}.{finding.owner}"
            if part not in self.sites:
                beside = parent_of(part) in self.tree.parents_of_experts
                self._examine(Candidate(part, self.tree.modules[part], f"it ranks in {path}", beside))
            return
        if finding is not None:
            self._add(path, size, finding, candidate.evidence)
            return
        parent = parent_of(path)
        if candidate.experts_beside and parent:
            block, _ = self._proof(self.tree.modules[parent], size)
            if block is not None and self._ranks_itself(parent, block):
                self._note(path, module, f"{problem}; the block around it does")
                self._add(parent, size, block, candidate.evidence)
                return
        if candidate.experts_beside and not isinstance(module, nn.Linear):
            count, kept = (int(getattr(module, name, 0) or 0) for name in ("num_experts", "top_k"))
            if any("ids" in name for name in signature(type(module).forward).parameters):
                problem = f"{problem}: it routes by token ids (a fixed table), not by scores"
            self._add(path, size, Finding("", (), count, kept, "", False), candidate.evidence, problem)
        else:
            self._note(path, module, f"{candidate.evidence}, but {problem}: not a router")

    def _ranks_itself(self, path: str, block: Finding) -> bool:
        """Whether the block at ``path`` ranks in its own forward or in that of its experts. Experts that rank are no
        router of their own, because they receive the scores from the block."""
        owner = f"{path}.{block.owner}"
        return not block.owner or is_experts(owner, self.tree.modules[owner])

    def _proof(self, module: nn.Module, size: int) -> tuple[Finding | None, str]:
        """The result of :func:`probe`, which runs once for all modules of the same likeness."""
        alike = _likeness(module), size
        if alike not in self.proofs:
            self.proofs[alike] = probe(module, size)
        return self.proofs[alike]

    def _add(self, path: str, size: int, finding: Finding, evidence: str, problem: str = "") -> None:
        if path in self.sites:
            return
        module = self.tree.modules[path]
        problem = self._obstacle(path, module) or problem
        self.sites[path] = site_of(path, module, size, finding, problem)
        kept = f"keeps {finding.top_k} of {finding.num_experts}" if finding.calls else "ranks nothing"
        self._note(path, module, f"router ({evidence}): {kept}" + (f"; not keyable: {problem}" if problem else ""))

    def _obstacle(self, path: str, module: nn.Module) -> str:
        """Why the router ``module`` cannot be keyed although it may be proven, or ""."""
        exception = EXCEPTIONS.get(getattr(type(module), "_okr_native", type(module)).__name__)
        if exception is not None and exception.kind == "refused":
            return exception.reason
        block = self.tree.modules.get(parent_of(path))
        if block is not None and type(block).__name__ in BYPASSES:
            return BYPASSES[type(block).__name__]
        for part, name in ((module, "its forward"), (block, "the forward of the block around it")):
            if part is not None and "forward" in part.__dict__ and "_old_forward" not in part.__dict__:
                return f"{name} was replaced on the instance (by a kernel?), so it may not rank as its class does"
        return ""

    def _block_without_router(self, path: str) -> None:
        """List the block at ``path``, which holds experts that nothing in it ranks, as not keyable."""
        block = self.tree.modules[path]
        count = int(getattr(block, "num_experts", 0) or 0)
        if count < 2:
            self._note(path, block, "holds experts, but has no num_experts of at least 2: not a router")
            return
        nothing = Finding("", (), count, 0, "", False)
        reason = "nothing in it ranks its experts: its caller says which of them run"
        self._add(path, hidden_size(block), nothing, "it holds experts and no router", reason)


def site_of(path: str, module: nn.Module, size: int, finding: Finding, problem: str = "") -> RouterSite:
    """The site of the router ``module`` at ``path``, as ``finding`` describes it. ``size`` is the size of its input.
    ``problem`` says why it cannot be keyed; "" means that it can."""
    return RouterSite(
        path=path,
        stack="encoder" if "encoder" in path.split(".") else "decoder",
        layer=next((int(part) for part in path.split(".") if part.isdigit()), 0),
        router_class=getattr(type(module), "_okr_native", type(module)).__name__,
        num_experts=finding.num_experts,
        top_k=finding.top_k,
        hidden_size=size,
        unit="score" if finding.ranks in ("scores", "") else "logit",
        ranks=finding.ranks,
        calls=finding.calls,
        flat=finding.flat,
        keyable=not problem,
        reason=problem,
    )


def hidden_size(module: nn.Module) -> int:
    """The size of the hidden states that ``module`` takes: the input size of its first matrix, or 0 if it has none."""
    for part in module.modules():
        if isinstance(getattr(part, "in_features", None), int):
            return int(part.in_features)  # type: ignore[arg-type]
        for parameter in part.parameters(recurse=False):
            if parameter.dim() == 2:
                return int(parameter.shape[-1])
    return 0


def _likeness(module: nn.Module) -> tuple[Any, ...]:
    """All that the result of a proof depends on: classes, plain settings, shapes and dtypes. Weights and the place in
    the model are left out."""
    plain = (bool, int, float, str, type(None))
    return tuple(
        (
            name,
            type(part),
            tuple((k, v) for k, v in part.__dict__.items() if isinstance(v, plain)),
            tuple((k, v.shape, v.dtype) for k, v in _tensors(part)),
        )
        for name, part in module.named_modules()
    )


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    """The parameters and buffers of ``module`` itself, with their names."""
    own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    return [(name, value) for name, value in own if value is not None]


def _named_apart(sites: list[RouterSite]) -> list[RouterSite]:
    """The sites with a suffix on the stack of a second router in one layer. The suffix is the first part of its path
    that differs from the path of the layer's first router."""
    first: dict[tuple[str, int], RouterSite] = {}
    named = []
    for site in sites:
        other = first.setdefault((site.stack, site.layer), site)
        if other is not site:
            ours, theirs = ([part for part in s.path.split(".") if not part.isdigit()] for s in (site, other))
            apart = [part for index, part in enumerate(ours) if part not in theirs[index : index + 1]]
            site = replace(site, stack=f"{site.stack}.{apart[0] if apart else site.path}")
        named.append(site)
    return named


def discover_config(config: Any) -> list[RouterSite]:
    """Find the routers of the model that a transformers configuration describes, without its weights.

    ``config`` is a ``PretrainedConfig`` of a causal or sequence-to-sequence language model, or of any model that
    ``AutoModel`` knows. Raises RouterNotFound if transformers has no model for it, or if the model has no router.
    """
    return discover(without_weights(config))


def without_weights(config: Any) -> nn.Module:
    """The model that a transformers configuration describes, on the ``meta`` device. Raises RouterNotFound if
    transformers has no model for it."""
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    for auto in (AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModel):
        if type(config) in auto._model_mapping:
            with torch.device("meta"):
                model: nn.Module = auto.from_config(config)
            return model
    raise RouterNotFound(f"transformers has no model for the configuration {type(config).__name__}")
