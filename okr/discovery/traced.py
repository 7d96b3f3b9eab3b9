"""Proves routers by a forward of the whole model. The proof shows which modules rank experts, and whether the experts
receive what was chosen."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from okr.discovery.adapters import places
from okr.discovery.candidates import is_experts, parent_of
from okr.discovery.discover import discover, site_of
from okr.discovery.probe import Finding, Seen, Watch, finding_of
from okr.discovery.sites import RouterSite

NOT_REACHED = "in a traced forward its choice did not reach the experts"


@torch.no_grad()
def prove(model: nn.Module, **inputs: Any) -> list[RouterSite]:
    """Find the routers of ``model`` as :func:`~okr.discovery.discover` does, and check them in one forward of the
    model.

    A site becomes not keyable, with the reason, if its router ranked otherwise in that forward or if the experts did
    not receive its choice. A module that ranked experts without having been found is added. Routers that did not run
    stay as they were found.

    ``inputs`` are the arguments of the forward; without any it gets six token ids. Raises RouterNotFound if there is no
    router.
    """
    sites = discover(model)
    watch = _ModelWatch(model)
    training = model.training
    model.eval()
    try:
        with watch.attributing(model), watch:
            model(**(inputs or _tokens(model)))
    finally:
        model.train(training)
    traced = watch.findings()
    known = {site.path for site in sites}
    names = {place.path: place.plain for place in watch.places.values()}
    held = [_held(site, *traced[names[site.path]]) if names[site.path] in traced else site for site in sites]
    added = [
        replace(site_of(path, place.module, watch.leading[path][1], finding), path=place.path)
        for path, (finding, reached) in traced.items()
        if reached and (place := watch.places[path]).path not in known
    ]
    return held + added


def _held(site: RouterSite, finding: Finding, reached: bool) -> RouterSite:
    """``site``, made not keyable if the traced forward contradicts it. ``reached``: the experts received its choice."""
    if not site.keyable:
        return site
    if not reached:
        return replace(site, keyable=False, reason=NOT_REACHED)
    shown = (finding.num_experts, finding.top_k, finding.calls, finding.ranks)
    if shown != (site.num_experts, site.top_k, site.calls, site.ranks):
        calls = ", ".join(name for name, _ in finding.calls)
        reason = (
            f"in a traced forward it kept {finding.top_k} of {finding.num_experts} by {calls}, not as its class does"
        )
        return replace(site, keyable=False, reason=reason)
    return site


def _tokens(model: nn.Module) -> dict[str, Tensor]:
    """Six token ids as the input of a forward, for the decoder too if there is an encoder."""
    config: Any = getattr(model, "config", None)
    device = next(model.parameters()).device
    tokens = torch.arange(6, device=device)[None] + 3
    return {"input_ids": tokens} | ({"decoder_input_ids": tokens} if config and config.is_encoder_decoder else {})


class _ModelWatch(Watch):
    """A watch of a whole model. It also keeps the arguments of the first call of experts, and the shape of the first
    input of every module."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.starts: dict[str, list[int]] = {}  # module -> rankings seen before each of its runs
        self.leading: dict[str, tuple[torch.Size, int]] = {}  # module -> its first input's shape, last axis apart
        self.received: dict[str, list[Any]] = {}  # experts -> the arguments of their first call
        self.rows: dict[str, int] = {}  # children of experts -> how many rows they computed
        self.places = {place.plain: place for place in places(model)}
        self.experts = {path for path, place in self.places.items() if path and is_experts(path, place.module)}

    def _entered(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        super()._entered(name, module, args, kwargs)
        self.starts.setdefault(name, []).append(len(self.seen))
        values = [*args, *kwargs.values()]
        first = next((value for value in values if isinstance(value, Tensor)), None)
        if first is not None and first.dim():
            self.leading.setdefault(name, (first.shape[:-1], first.shape[-1]))
            if parent_of(name) in self.experts:
                self.rows[name] = self.rows.get(name, 0) + first.shape[:-1].numel()
        if name in self.experts:
            self.received.setdefault(name, values)

    def findings(self) -> dict[str, tuple[Finding, bool]]:
        """Every module that ranked experts in the same way in each of its runs: how it ranked, and whether the experts
        received its choice."""
        found = {}
        for owner in dict.fromkeys(seen.owner for seen in self.seen if seen.owner):
            starts = self.starts[owner]
            runs = [self.seen[start:end] for start, end in zip(starts, [*starts[1:], len(self.seen)], strict=True)]
            runs = [[seen for seen in run if seen.owner == owner] for run in runs]
            finding = finding_of(runs[0], self.leading.get(owner, (torch.Size(), 0))[0])
            if finding is not None and all(len(run) == len(runs[0]) for run in runs):
                found[owner] = finding, self._reached(owner, [_chosen(run, finding) for run in runs], finding)
        return found

    def _reached(self, owner: str, chosen: list[Tensor], finding: Finding) -> bool:
        """Whether the experts in ``owner``, or in the block around it, received what each run chose."""
        first, counts = chosen[0], torch.cat(chosen).flatten().bincount(minlength=finding.num_experts).tolist()
        once = first.flatten().bincount(minlength=finding.num_experts).tolist()
        for block in (owner, parent_of(owner)):
            inside = [path for path in self.experts if path.startswith(f"{block}.")]
            children = {path: rows for path, rows in self.rows.items() if parent_of(path) in inside}
            numbered = {int(digits): rows for path, rows in children.items() if (digits := _number(path)) is not None}
            if numbered:  # experts are modules of their own: each must have computed the rows that chose it
                return all(numbered.get(expert, 0) == count for expert, count in enumerate(counts))
            values = [value for path in inside for value in self.received.get(path, [])]
            if any(_carries(value, first, finding.num_experts, once) for value in values):
                return True
        return False


def _number(path: str) -> str | None:
    """The number at the end of an expert's path, such as 3 in ``experts.3`` or ``expert_3``; None if there is none."""
    digits = path.rpartition(".")[2].rpartition("_")[2]
    return digits if digits.isdigit() else None


def _chosen(seen: list[Seen], finding: Finding) -> Tensor:
    """The indices [T, k] that the calls of ``finding`` returned in one run."""
    calls = seen[-len(finding.calls) :]
    places = {place: s.indices for s, (_, place) in zip(calls, finding.calls, strict=True)}
    if finding.calls[0][0] == "topk":
        return places[0].reshape(-1, finding.top_k)
    return torch.stack([places[place].reshape(-1) for place in sorted(places)], -1)


def _carries(value: Any, chosen: Tensor, experts: int, counts: list[int]) -> bool:
    """Whether ``value``, an argument of the experts, tells which experts run: as indices, as a mask or weights [T, E],
    as counts, or as gated inputs."""
    if isinstance(value, list):
        return value == counts
    if not isinstance(value, Tensor):
        return False
    return any(_same(form, chosen, experts) for form in _forms(value, chosen, experts))


def _forms(value: Tensor, chosen: Tensor, experts: int) -> Iterator[Tensor]:
    """What ``value`` may be: indices [T, k] or masks [T, E]."""
    tokens = len(chosen)
    if not value.is_floating_point() and value.dtype != torch.bool and value.numel() == chosen.numel():
        yield value.reshape(tokens, -1)
    if value.numel() == tokens * experts:
        yield value.reshape(tokens, experts) != 0
    if (
        value.dim() == 2 and len(value) == experts * tokens
    ):  # every expert gets all tokens, zeros where it is not chosen
        yield (value.reshape(experts, tokens, -1) != 0).any(-1).T


def _same(form: Tensor, chosen: Tensor, experts: int) -> bool:
    """Whether ``form``, indices or a mask, tells the experts ``chosen`` [T, k]."""
    if form.dtype == torch.bool:
        return bool((form == functional.one_hot(chosen, experts).sum(-2).bool()).all())
    # The block may send the skip expert, which is the last and does not run, to expert 0 with weight 0.
    skipped = (chosen == experts - 1) & (form == 0)
    return bool(((form == chosen) | skipped).all()) or torch.equal(form.sort(-1).values, chosen.sort(-1).values)
