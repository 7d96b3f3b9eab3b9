"""Chapter REPLAY: which models are one, under adapters and with weights of which not all are at hand."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

from ..subject import Subject
from ..verdicts import require
from . import check
from .replay import _replayed
from .trace_engines import wrapped

Make = Callable[[], Any]


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


def _plain() -> Any:
    from .. import system

    return system.copied(system.softmax_model())


def _around(model: Any, name: str, make: Callable[[Any], Any]) -> Any:
    """The model with what ``make`` makes of its module ``name`` in the place of that."""
    holder, _, own = name.rpartition(".")
    parent = model.get_submodule(holder)
    setattr(parent, own, make(getattr(parent, own)))
    return model


_QUERY, _VALUE = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.v_proj"


def _adapted(*names: str, where: str = _QUERY, **way: Any) -> Any:
    from ..lora import Lora

    return _around(_plain(), where, lambda base: Lora(base, *names, **way))


def _layer(model: Any, where: str = _QUERY) -> Any:
    return model.get_submodule(where)


def _merged(model: Any, where: str = _QUERY) -> Any:
    """The model with the adapters in the weights, and no adapter layer."""
    while hasattr(layer := _layer(model, where), "merged_adapters"):
        layer.merge()
        _around(model, where, lambda outer: outer.base_layer)
    return model


def _nested() -> Any:
    """Two adapter layers, one around the other, of which the inner one must be merged to be read."""
    from ..lora import Lora

    return _around(_adapted(variant=True, seed=3), _QUERY, lambda inner: Lora(inner, seed=4))


def _with_bias(model: Any, where: str = _QUERY) -> Any:
    import torch
    from torch import nn

    layer = _layer(model, where)
    layer = getattr(layer, "base_layer", layer)
    layer.bias = nn.Parameter(torch.linspace(-1, 1, len(layer.weight)))
    return model


def _biased() -> Any:
    """An adapter that adds a bias to a layer which has one."""
    from ..lora import Lora

    return _around(_with_bias(_plain()), _QUERY, lambda base: Lora(base, biased=True))


def _turned() -> Any:
    """A layer whose weight is stored the other way, under an adapter."""
    import torch
    from torch import nn

    from ..lora import Lora

    def make(base: Any) -> Any:
        base.weight = nn.Parameter(torch.cat([base.weight, base.weight[:5]]).T.contiguous())
        return Lora(base, turned=True)

    return _around(_plain(), _QUERY, make)


_EXPERTS = "model.layers.1.mlp.experts"


def _stacked(name: str, where: str = _EXPERTS, **way: Any) -> Any:
    from ..lora import StackedLora

    return _around(_plain(), where, lambda base: StackedLora(base, name, **way))


_MERGEABLE: dict[str, tuple[Make, str]] = {
    "an adapter": (_adapted, _QUERY),
    "an adapter of another training": (lambda: _adapted(seed=1), _QUERY),
    "an adapter elsewhere": (lambda: _adapted(where=_VALUE), _VALUE),
    "two adapters": (lambda: _adapted("first", "second"), _QUERY),
    "an adapter with a bias": (_biased, _QUERY),
    "an adapter of a variant": (lambda: _adapted(variant=True), _QUERY),
    "an adapter of another kind": (lambda: _adapted(kind="other", seed=7), _QUERY),
    "an adapter of parameters": (lambda: _adapted(kind="parameters", seed=8), _QUERY),
    "an adapter as of an embedding": (lambda: _adapted(kind="embedding", seed=9), _QUERY),
    "an adapter without a scale": (lambda: _unscaled(_adapted()), _QUERY),
    "an adapter of a weight stored the other way": (_turned, _QUERY),
    "an adapter of the experts": (lambda: _stacked("gate_up_proj"), _EXPERTS),
    "an adapter of the experts' other matrices": (lambda: _stacked("down_proj"), _EXPERTS),
    "an adapter of the experts that keeps its factors": (
        lambda: _stacked("gate_up_proj", seed=1, told=False),
        _EXPERTS,
    ),
    "an adapter around another": (_nested, _QUERY),
    "an adapter of a parameter": (lambda: _stacked("weight", _VALUE), _VALUE),
}


def _unscaled(model: Any) -> Any:
    _layer(model).scaling = {}
    return model


@check("OKR-REPLAY-003")
def adapters_are_as_their_weights(subject: Subject) -> None:
    """Under an adapter a model is that whose weights hold it, in bfloat16 too, and neither that without the adapter
    nor that under any other."""
    import torch

    base = _identity(_plain())
    ways: tuple[Callable[..., Any], ...] = (_adapted, partial(_stacked, "gate_up_proj"))
    for way in ways:  # the effect is plain without merging
        alone, plain = _identity(way(stubborn=True)), _identity(way())
        require(not _one(alone, base) and _one(alone, plain), "an adapter whose merging fails")
    seen: dict[str, Any] = {}
    for what, (make, where) in _MERGEABLE.items():
        own = _identity(make())
        require(own.routers == base.routers, f"{what}: other routers", expected=base.routers, got=own.routers)
        require(_one(own, _identity(_merged(make(), where))), f"{what}: another model than its merged copy")
        rounded = _identity(make().to(torch.bfloat16))
        require(_one(own, rounded), f"{what}: another model in bfloat16")
        without = _identity(_around(make(), where, lambda layer: layer.base_layer))
        for other, identity in {"no adapter": without, **seen}.items():
            if identity.weights.places == own.weights.places:  # others have other weights, as biases are
                require(not _one(own, identity), f"{what}: the same model as with {other}")
        seen[what] = own


@check("OKR-REPLAY-003")
def adapters_that_do_not_act_are_none(subject: Subject) -> None:
    """Switched off, merged, of a name that is not there, or one of two; around a router as elsewhere."""
    base, router = _identity(_plain()), "model.layers.0.mlp.gate"
    merged = _identity(_merged(_adapted()))
    for where in (_QUERY, router):
        off = _adapted(where=where)
        _layer(off, where).disable_adapters = True
        absent = _adapted(where=where)
        _layer(absent, where).active_adapters = ["another"]
        unmerged = _adapted(where=where)
        _layer(unmerged, where).merge()
        _layer(unmerged, where).disable_adapters = True
        for what, model in (("switched off", off), ("that is not there", absent)):
            found = _identity(model)
            require(found == base, f"an adapter {what}, around {where}", expected=base, got=found)
        require(_one(base, _identity(unmerged)), f"an adapter merged and switched off, around {where}")
    written = _adapted()
    _layer(written).merge()
    found = _identity(written)
    require(_one(found, merged) and not _one(found, base), "an adapter merged and left there")
    first = _adapted("first", "second")
    _layer(first).active_adapters = ["first"]
    alone = _adapted("first", "second")
    del _layer(alone).downs["second"], _layer(alone).ups["second"]
    _layer(alone).active_adapters = ["first"]
    identities = [_identity(model) for model in (first, alone)]
    require(_one(*identities), "an adapter beside one that does not act is another than alone")
    named = _identity(_adapted("another"))
    require(named == _identity(_adapted()), "an adapter of another name is another")


@check("OKR-REPLAY-003")
def adapters_of_routers_are_seen(subject: Subject) -> None:
    """What an adapter adds to a router counts as it does elsewhere; a digest of the weights says nothing of it."""
    where = "model.layers.0.mlp.gate"
    base, own = _identity(_plain()), _identity(_adapted(where=where))
    require(own.routers is None, "a digest of routers that an adapter changes", expected="none", got=own.routers)
    require(not _one(own, base), "an adapter of a router is the same model as without it")
    merged = _identity(_merged(_adapted(where=where), where))
    require(_one(own, merged), "an adapter of a router is another model than its merged copy")
    require(not _one(_identity(_adapted(where=where, seed=1)), merged), "another adapter of a router is the same model")


@check("OKR-REPLAY-003")
def adapters_that_no_weights_hold_are_told_apart(subject: Subject) -> None:
    """What depends on the tokens, or adds a bias where there is none, has no merged copy: the model is its own."""
    stubborn: dict[str, Any] = {"stubborn": True, "variant": True}
    base, own = _identity(_plain()), _identity(_adapted(**stubborn))
    require(_one(own, _identity(_adapted(**stubborn))), "the same adapter is another model")
    require(_one(own, _identity(_adapted("another", **stubborn))), "an adapter of another name is another model")
    beside = _adapted("default", "second", **stubborn)
    _layer(beside).active_adapters = ["default"]
    require(_one(own, _identity(beside)), "an adapter beside one that does not act is another model")
    off = _adapted(**stubborn)
    _layer(off).disable_adapters = True
    require(_one(base, _identity(off)), "an adapter that is switched off is another model")
    others = {
        "no adapter": base,
        "another adapter": _identity(_adapted(seed=1, **stubborn)),
        "the adapter elsewhere": _identity(_adapted(where="model.layers.1.self_attn.q_proj", **stubborn)),
        "a plain adapter": _identity(_adapted()),
        "a new bias": _identity(_adapted(biased=True)),
    }
    for what, identity in others.items():
        require(not _one(own, identity), f"an adapter that cannot be merged is the same model as {what}")
    for what, changed in (("a variant", True), ("a new bias", False)):
        pair = [_identity(_beside(changed, number)) for number in (0.0, 0.0, 0.5)]
        require(_one(*pair[:2]), f"{what} beside a plain adapter is another model than itself")
        require(not _one(*pair[1:]), f"{what} beside a plain adapter is not looked at")
    tasks = [_identity(_with_tasks(number)) for number in (0.0, 0.0, 0.5)]
    require(_one(*tasks[:2]) and not _one(*tasks[1:]), "adapters that another one chooses from are not looked at")
    bias = others["a new bias"]
    require(not _one(bias, others["a plain adapter"]), "a new bias is the same model as none")
    require(_one(bias, _identity(_adapted(biased=True))), "the same new bias is another model")


def _beside(variant: bool, number: float) -> Any:
    """A plain adapter, and behind it one that cannot be merged, a variant or with a new bias, moved by ``number``."""
    import torch

    from ..lora import Lora

    where = "model.layers.1.self_attn.q_proj"
    model = _around(
        _adapted(), where, lambda base: Lora(base, variant=variant, stubborn=variant, biased=not variant, seed=2)
    )
    up = _layer(model, where).ups["default"]
    with torch.no_grad():
        (up.weight if variant else up.bias).add_(number)
    return model


def _with_tasks(number: float) -> Any:
    """An adapter that chooses by the token among others, one of which is moved by ``number``."""
    import torch

    model = _adapted("default", "second", stubborn=True, variant=True)
    layer = _layer(model)
    layer.active_adapters, layer.task_adapter_names = ["default"], ["second"]
    with torch.no_grad():
        layer.ups["second"].weight.add_(number)
    return model


def _quantised(model: Any, where: str = _QUERY) -> Any:
    """The model with one matrix in whole numbers."""
    import torch
    from torch import nn

    layer = _layer(model, where)
    layer = getattr(layer, "base_layer", layer)
    layer.weight = nn.Parameter(layer.weight.to(torch.int8), requires_grad=False)
    return model


def _offloaded(model: Any, where: str = _QUERY) -> Any:
    _layer(model, where).to("meta")
    return model


@check("OKR-REPLAY-003")
def weights_that_are_not_at_hand_are_not_compared(subject: Subject) -> None:
    """Quantised or offloaded: what is known of both must be equal, and an adapter is not the same as none."""
    import torch

    base, changed = _identity(_plain()), _plain()
    with torch.no_grad():
        _layer(changed, _VALUE).weight.mul_(-1)
    other = _identity(changed)
    for what, make in (("quantised", _quantised), ("offloaded", _offloaded)):
        found = _identity(make(_plain()))
        require(_one(found, base), f"a model with a matrix that is {what} is another")
        require(not _one(found, other), f"with a matrix that is {what}, another matrix is not looked at")
        under = _identity(make(_adapted()))
        require(not _one(under, found), f"an adapter around a matrix that is {what} is the same as none")
        require(_one(under, _identity(make(_adapted()))), f"an adapter around a matrix that is {what} is another")
        router = _identity(make(_plain(), "model.layers.1.mlp.gate"))
        require(router.routers is None, f"a digest of a router that is {what}", expected="none", got=router.routers)
        require(_one(router, base), f"a model with a router that is {what} is another")
    empty = _adapted()
    for part in (_layer(empty).downs, _layer(empty).ups):
        part.to("meta")
    found = _identity(empty)
    require(not _one(found, _identity(_quantised(_plain()))), "an adapter without weights is the same as none")
    nothing = _identity(_plain().to("meta"))
    require((nothing.routers, nothing.weights) == (None, None), "what is known of a model without weights")
    require(_one(nothing, base) and _one(nothing, other), "a model of which nothing is known is another")


def _renamed(model: Any) -> Any:
    """The model with one matrix of each layer under another name, as other programs store it."""
    from torch import nn

    def stored(layer: Any) -> Any:
        holder = nn.Module()
        holder.matrix = nn.Parameter(layer.weight.detach().flip(0))
        return holder

    for number in (0, 1):
        _around(model, f"model.layers.{number}.self_attn.q_proj", stored)
    return model


@check("OKR-REPLAY-003")
def weights_that_are_stored_otherwise_are_not_compared(subject: Subject) -> None:
    """Under other names, of which nobody knows what they hold; and of models with weights of very many kinds each
    that is sampled counts."""
    import torch

    base = _identity(_plain())
    require(_one(_identity(_renamed(_plain())), base), "a model that stores a matrix otherwise is another")
    one, same, other = (_identity(_rich(_plain(), "extra", value)) for value in (1.0, 1.0, 2.0))
    require(one.weights is not None, "no sample of a model with weights of very many kinds")
    require(_one(one, same), "the same model with weights of very many kinds is another")
    require(not _one(one, other), "another model with weights of very many kinds is the same")
    changed = _rich(_plain(), "zz", 1.0)
    with torch.no_grad():
        _layer(changed, "model.layers.1.self_attn.q_proj").weight.mul_(1.05)
    partly = _identity(_quantised(_rich(_plain(), "zz", 1.0)))
    require(not _one(partly, _identity(changed)), "beside a matrix that is not at hand, another is not looked at")


def _rich(model: Any, name: str, value: float) -> Any:
    """The model with weights of 72 kinds more, all in its part ``name``, all of them 1 but for the first."""
    import torch
    from torch import nn

    parts = {f"part{first}{second}": torch.ones(4) for first in "abcdefgh" for second in "abcdefghi"}
    parts["partaa"] = value * parts["partaa"]
    setattr(model, name, nn.ParameterDict({part: nn.Parameter(weight) for part, weight in parts.items()}))
    return model


@check("OKR-REPLAY-003")
def single_entries_of_routers_are_compared(subject: Subject) -> None:
    """Every entry of every router, more than which rounding to bfloat16 changes."""
    import torch

    base, model = _identity(_plain()), _plain()
    require(base.routers is not None, "no digest of routers whose weights are at hand")
    for place in (0, 100, 255):
        weight = _layer(model, "model.layers.1.mlp.gate").weight
        with torch.no_grad():
            weight.view(-1)[place] *= 1.05
        require(not _one(_identity(model), base), f"entry {place} of a router is not looked at")
        with torch.no_grad():
            weight.view(-1)[place] /= 1.05
    for kind in (torch.float32, torch.bfloat16):
        require(_one(_identity(_plain().to(kind)), base), f"the model in {kind} is another")
    with torch.no_grad():
        _layer(model, _VALUE).weight.mul_(1.05)
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
            _replayed(model, told(**parts))
    for parts in ({"routers": "0" * 16}, {"routers": "0" * 16, "weights": None}, {"structure": "0" * 16}):
        with system.refused(okr.InvalidTrace, f"a trace with other {sorted(parts)}"):
            _replayed(model, told(**parts))


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
