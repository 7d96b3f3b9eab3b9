"""Chapter REPLAY: which models are one, under adapters and with weights of which not all are at hand."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

from ..adapted import (
    MERGEABLE,
    QUERY,
    VALUE,
    adapted,
    layer_of,
    merged_copy,
    offloaded,
    plain_copy,
    put_around,
    quantised,
    renamed,
    rich,
    stacked,
    with_another_behind,
    with_tasks,
)
from ..subject import Subject
from ..verdicts import Violation, require
from . import check
from .replay import replayed_scores
from .trace_engines import wrapped


def _identity(model: Any) -> Any:
    from .. import system
    from ..system import okr

    traces: Any = import_module("okr.traces")
    with system.accepted("the identity of a model"):
        return traces.ModelIdentity.of(model, [site for site in okr.discover(model) if site.keyable])


def _one(first: Any, second: Any) -> bool:
    """Whether two identities are those of one model; whoever asks."""
    from .. import system

    with system.accepted("comparing two models"):
        said = [not first.difference(second), not second.difference(first)]
    require(said[0] == said[1], "which of two models is asked decides whether they are one")
    return bool(said[0])


@check("OKR-REPLAY-003")
def adapters_are_as_their_weights(subject: Subject) -> None:
    """Under an adapter a model is that whose weights hold it, in bfloat16 too, and neither that without the adapter
    nor that under any other."""
    import torch

    base = _identity(plain_copy())
    ways: tuple[Callable[..., Any], ...] = (adapted, partial(stacked, "gate_up_proj"))
    for way in ways:  # the effect is plain without merging
        alone, plain = _identity(way(stubborn=True)), _identity(way())
        require(not _one(alone, base) and _one(alone, plain), "an adapter whose merging fails")
    seen: dict[str, Any] = {}
    for what, (make, where) in MERGEABLE.items():
        own = _identity(make())
        require(own.routers == base.routers, f"{what}: other routers", expected=base.routers, got=own.routers)
        require(_one(own, _identity(merged_copy(make(), where))), f"{what}: another model than its merged copy")
        rounded = _identity(make().to(torch.bfloat16))
        require(_one(own, rounded), f"{what}: another model in bfloat16")
        without = _identity(put_around(make(), where, lambda layer: layer.base_layer))
        for other, identity in {"no adapter": without, **seen}.items():
            if identity.weights.places == own.weights.places:  # others have other weights, as biases are
                require(not _one(own, identity), f"{what}: the same model as with {other}")
        seen[what] = own


@check("OKR-REPLAY-003")
def adapters_that_do_not_act_are_none(subject: Subject) -> None:
    """Switched off, merged, of a name that is not there, or one of two; around a router as elsewhere."""
    base, router = _identity(plain_copy()), "model.layers.0.mlp.gate"
    merged = _identity(merged_copy(adapted()))
    for where in (QUERY, router):
        off = adapted(where=where)
        layer_of(off, where).disable_adapters = True
        absent = adapted(where=where)
        layer_of(absent, where).active_adapters = ["another"]
        unmerged = adapted(where=where)
        layer_of(unmerged, where).merge()
        layer_of(unmerged, where).disable_adapters = True
        for what, model in (("switched off", off), ("that is not there", absent)):
            found = _identity(model)
            require(found == base, f"an adapter {what}, around {where}", expected=base, got=found)
        require(_one(base, _identity(unmerged)), f"an adapter merged and switched off, around {where}")
    written = adapted()
    layer_of(written).merge()
    found = _identity(written)
    require(_one(found, merged) and not _one(found, base), "an adapter merged and left there")
    first = adapted("first", "second")
    layer_of(first).active_adapters = ["first"]
    alone = adapted("first", "second")
    del layer_of(alone).downs["second"], layer_of(alone).ups["second"]
    layer_of(alone).active_adapters = ["first"]
    identities = [_identity(model) for model in (first, alone)]
    require(_one(*identities), "an adapter beside one that does not act is another than alone")
    named = _identity(adapted("another"))
    require(named == _identity(adapted()), "an adapter of another name is another")


@check("OKR-REPLAY-003")
def adapters_of_routers_are_seen(subject: Subject) -> None:
    """What an adapter adds to a router counts as it does elsewhere; a digest of the weights says nothing of it."""
    where = "model.layers.0.mlp.gate"
    base, own = _identity(plain_copy()), _identity(adapted(where=where))
    require(own.routers is None, "a digest of routers that an adapter changes", expected="none", got=own.routers)
    require(not _one(own, base), "an adapter of a router is the same model as without it")
    merged = _identity(merged_copy(adapted(where=where), where))
    require(_one(own, merged), "an adapter of a router is another model than its merged copy")
    require(not _one(_identity(adapted(where=where, seed=1)), merged), "another adapter of a router is the same model")


@check("OKR-REPLAY-003")
def adapters_that_no_weights_hold_are_told_apart(subject: Subject) -> None:
    """What depends on the tokens, or adds a bias where there is none, has no merged copy: the model is its own."""
    stubborn: dict[str, Any] = {"stubborn": True, "variant": True}
    base, own = _identity(plain_copy()), _identity(adapted(**stubborn))
    require(_one(own, _identity(adapted(**stubborn))), "the same adapter is another model")
    for name in ("another", "weight"):
        require(_one(own, _identity(adapted(name, **stubborn))), f"an adapter of the name {name} is another model")
    beside = adapted("default", "second", **stubborn)
    layer_of(beside).active_adapters = ["default"]
    require(_one(own, _identity(beside)), "an adapter beside one that does not act is another model")
    off = adapted(**stubborn)
    layer_of(off).disable_adapters = True
    require(_one(base, _identity(off)), "an adapter that is switched off is another model")
    others = {
        "no adapter": base,
        "another adapter": _identity(adapted(seed=1, **stubborn)),
        "the adapter elsewhere": _identity(adapted(where="model.layers.1.self_attn.q_proj", **stubborn)),
        "a plain adapter": _identity(adapted()),
        "a new bias": _identity(adapted(biased=True)),
    }
    for what, identity in others.items():
        require(not _one(own, identity), f"an adapter that cannot be merged is the same model as {what}")
    for what, changed in (("a variant", True), ("a new bias", False)):
        pair = [_identity(with_another_behind(changed, number)) for number in (0.0, 0.0, 0.5)]
        require(_one(*pair[:2]), f"{what} beside a plain adapter is another model than itself")
        require(not _one(*pair[1:]), f"{what} beside a plain adapter is not looked at")
    tasks = [_identity(with_tasks(number)) for number in (0.0, 0.0, 0.5)]
    require(_one(*tasks[:2]) and not _one(*tasks[1:]), "adapters that another one chooses from are not looked at")
    bias = others["a new bias"]
    require(not _one(bias, others["a plain adapter"]), "a new bias is the same model as none")
    require(_one(bias, _identity(adapted(biased=True))), "the same new bias is another model")


@check("OKR-REPLAY-003")
def weights_that_are_not_at_hand_are_not_compared(subject: Subject) -> None:
    """Quantised or offloaded: what is known of both must be equal, and an adapter is not the same as none."""
    import torch

    base, changed = _identity(plain_copy()), plain_copy()
    with torch.no_grad():
        layer_of(changed, VALUE).weight.mul_(-1)
    other = _identity(changed)
    for what, make in (("quantised", quantised), ("offloaded", offloaded)):
        found = _identity(make(plain_copy()))
        require(_one(found, base), f"a model with a matrix that is {what} is another")
        require(not _one(found, other), f"with a matrix that is {what}, another matrix is not looked at")
        under = _identity(make(adapted()))
        require(not _one(under, found), f"an adapter around a matrix that is {what} is the same as none")
        require(_one(under, _identity(make(adapted()))), f"an adapter around a matrix that is {what} is another")
        mergeable = [_identity(adapted(variant=True)), _identity(make(adapted(variant=True)))]
        require(_one(*mergeable), f"an adapter that can be merged, but not into a matrix that is {what}, is another")
        router = _identity(make(plain_copy(), "model.layers.1.mlp.gate"))
        require(router.routers is None, f"a digest of a router that is {what}", expected="none", got=router.routers)
        require(_one(router, base), f"a model with a router that is {what} is another")
    empty = adapted()
    for part in (layer_of(empty).downs, layer_of(empty).ups):
        part.to("meta")
    found = _identity(empty)
    require(not _one(found, _identity(quantised(plain_copy()))), "an adapter without weights is the same as none")
    nothing = _identity(plain_copy().to("meta"))
    require((nothing.routers, nothing.weights) == (None, None), "what is known of a model without weights")
    require(_one(nothing, base) and _one(nothing, other), "a model of which nothing is known is another")


@check("OKR-REPLAY-003")
def weights_of_one_number_or_of_none(subject: Subject) -> None:
    """A weight of one number is compared. One without numbers, as the parts of a model on other devices are, is not."""
    import torch
    from torch import nn

    def with_factor(number: float) -> Any:
        model = plain_copy()
        model.factor = nn.ParameterDict({"number": nn.Parameter(torch.tensor([number]))})
        return _identity(model)

    require(_one(with_factor(1.0), with_factor(1.0)), "the same model with a weight of one number is another")
    require(not _one(with_factor(1.0), with_factor(2.0)), "another weight of one number is not looked at")
    elsewhere = plain_copy()
    layer_of(elsewhere).weight = nn.Parameter(torch.zeros(0))
    try:
        found = _identity(elsewhere)
    except (ValueError, IndexError) as error:
        raise Violation(f"a model with an empty weight has no identity: {error}") from error
    require(_one(found, _identity(plain_copy())), "a model with an empty weight is another")


@check("OKR-REPLAY-003")
def weights_that_are_stored_otherwise_are_not_compared(subject: Subject) -> None:
    """Under other names, of which nobody knows what they hold; and of models with weights of very many kinds each
    that is sampled counts."""
    import torch

    base = _identity(plain_copy())
    require(_one(_identity(renamed(plain_copy())), base), "a model that stores a matrix otherwise is another")
    one, same, other = (_identity(rich(plain_copy(), "extra", value)) for value in (1.0, 1.0, 2.0))
    require(one.weights is not None, "no sample of a model with weights of very many kinds")
    require(_one(one, same), "the same model with weights of very many kinds is another")
    require(not _one(one, other), "another model with weights of very many kinds is the same")
    changed = rich(plain_copy(), "zz", 1.0)
    with torch.no_grad():
        layer_of(changed, "model.layers.1.self_attn.q_proj").weight.mul_(1.05)
    partly = _identity(quantised(rich(plain_copy(), "zz", 1.0)))
    require(not _one(partly, _identity(changed)), "beside a matrix that is not at hand, another is not looked at")


@check("OKR-REPLAY-003")
def single_entries_of_routers_are_compared(subject: Subject) -> None:
    """Every entry of every router, more than which rounding to bfloat16 changes."""
    import torch

    base, model = _identity(plain_copy()), plain_copy()
    require(base.routers is not None, "no digest of routers whose weights are at hand")
    for place in (0, 100, 255):
        weight = layer_of(model, "model.layers.1.mlp.gate").weight
        with torch.no_grad():
            weight.view(-1)[place] *= 1.05
        require(not _one(_identity(model), base), f"entry {place} of a router is not looked at")
        with torch.no_grad():
            weight.view(-1)[place] /= 1.05
    for kind in (torch.float32, torch.bfloat16):
        require(_one(_identity(plain_copy().to(kind)), base), f"the model in {kind} is another")
    with torch.no_grad():
        layer_of(model, VALUE).weight.mul_(1.05)
    require(not _one(_identity(model), base), "a matrix that is larger by a twentieth is not looked at")


@check("OKR-REPLAY-003")
def traces_are_replayed_by_what_is_known(subject: Subject) -> None:
    """Headers of older versions know no sample of the weights, and those of offloaded models no routers; what they do
    know must be the model's."""
    from dataclasses import replace

    from .. import system
    from ..system import okr

    model, trace = system.softmax_model(), system.traces(0)[0]
    identity = trace.header.model

    def told(**parts: Any) -> Any:
        changed = identity.model_copy(update=parts)
        return replace(trace, header=trace.header.model_copy(update={"model": changed}))

    unknown: tuple[dict[str, Any], ...] = ({"weights": None}, {"routers": None}, {"weights": None, "routers": None})
    for parts in unknown:
        with system.accepted(f"the replay of a trace without {sorted(parts)}"):
            replayed_scores(model, told(**parts))
    for parts in ({"routers": "0" * 16}, {"routers": "0" * 16, "weights": None}, {"structure": "0" * 16}):
        with system.refused(okr.InvalidTrace, f"a trace with other {sorted(parts)}"):
            replayed_scores(model, told(**parts))


@check("OKR-REPLAY-003")
def virtual_tokens_are_part_of_the_model(subject: Subject) -> None:
    """Of an adapter that puts them into the cache: its kind and its weights, to within bfloat16."""
    import torch

    from .. import system

    model, prompts = system.softmax_model(), torch.linspace(-1, 1, 64).view(4, 16).bfloat16().float()
    base, own = _identity(model), _identity(wrapped(model, "PREFIX_TUNING", prompts))
    same = _identity(wrapped(model, "PREFIX_TUNING", prompts * (1 + 2**-12)))
    require(own == same, "the same virtual tokens are another model", expected=own, got=same)
    off = _identity(wrapped(model, "PREFIX_TUNING", prompts, _adapters_disabled=True))
    require(_one(off, base), "virtual tokens that are switched off are another model")
    others = {
        "none": base,
        "others": _identity(wrapped(model, "PREFIX_TUNING", -prompts)),
        "those of another kind": _identity(wrapped(model, "CARTRIDGE", prompts)),
        "such without weights": _identity(wrapped(model, "PREFIX_TUNING")),
    }
    for what, identity in others.items():
        require(not _one(own, identity), f"virtual tokens are the same model as {what}")
