"""Chapter ATTACH: models that accelerate dispatched, copies and pickles, and which models are refused."""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from ..subject import Subject
from ..verdicts import require
from . import check


def runs(model: Any) -> list[Any]:
    """A watermark and a recording of ``model``, begun by the caller."""
    from .. import system
    from ..system import okr

    return [lambda: okr.watermark(model, system.key(), epsilon=system.epsilon_of(model)), lambda: okr.record(model)]


@check("OKR-ATTACH-001")
def exceptions_inside_a_forward_leave_no_mark(subject: Subject) -> None:
    """Raised by a router's own code, in training and evaluation mode."""
    from .. import system

    model = system.copied(system.softmax_model())
    _, router = system.routers(model)[-1]

    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    for training in (False, True):
        model.train(training)
        for run in runs(model):
            before = system.fingerprint(model)
            hook = router.register_forward_hook(fail)
            try:
                with run():
                    system.logits(model)
            except ZeroDivisionError:
                pass
            hook.remove()
            changed = system.differences(before, system.fingerprint(model))
            require(not changed, "an exception left a mark", expected="nothing changed", got=changed)


@contextmanager
def _dispatched(model: Any, offloaded: bool = False) -> Iterator[None]:
    """The model's routers under hooks of accelerate's, which call what was their forward when the hook was added;
    ``offloaded``: their weights are at hand during a call alone."""
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module, remove_hook_from_module

    from .. import system

    modules = [module for _, module in system.routers(model)]
    for module in modules:
        weights = {name: value.detach() for name, value in module.state_dict().items()} if offloaded else None
        hook = AlignDevicesHook(
            execution_device="cpu", offload=offloaded, weights_map=weights, place_submodules=offloaded
        )
        add_hook_to_module(module, hook)
    try:
        yield
    finally:
        for module in modules:
            remove_hook_from_module(module)
            module.__dict__.pop("forward", None)  # what it leaves on the instance


@check("OKR-ATTACH-001")
def dispatched_models_are_keyed_and_restored(subject: Subject) -> None:
    """Models that accelerate dispatched run under the key as others do, and are as before afterwards."""
    import torch

    from .. import system

    for model in system.new_models():
        plain, name = system.logits(model), type(model).__name__
        with runs(model)[0]():
            keyed = system.logits(model)
        with _dispatched(model), system.accepted(f"a dispatched {name}"):
            system.logits(model)
            before = system.fingerprint(model)
            for run in runs(model):
                with run() as session:
                    same = torch.equal(system.logits(model), keyed) or session.key_id is None
                    require(same, f"a dispatched {name} runs otherwise")
                changed = system.differences(before, system.fingerprint(model))
                require(not changed, f"a dispatched {name} after leaving", got=changed)
                require(torch.equal(system.logits(model), plain), f"a dispatched {name}: other logits after leaving")
        with _dispatched(model, offloaded=True), system.accepted(f"an offloaded {name}"), runs(model)[0]():
            require(torch.equal(system.logits(model), keyed), f"an offloaded {name} runs otherwise")


@check("OKR-ATTACH-002")
def attached_routers_are_of_their_class(subject: Subject) -> None:
    """What asks a module for its class, where that class is from or what is written of it, finds what it was."""
    from .. import system

    for model in system.every_model():
        for run in runs(model):
            kinds = [type(module) for _, module in system.routers(model)]
            with run() as session:
                for site, native in zip(session.sites, kinds, strict=True):
                    module = model.get_submodule(site.path)
                    same = isinstance(module, native) and type(module).__module__ == native.__module__
                    same &= type(module).__doc__ == native.__doc__
                    require(same, f"{site.path} is no {native.__name__} any more while attached", got=type(module))


@check("OKR-ATTACH-005")
def a_model_of_replaced_forwards_is_refused(subject: Subject) -> None:
    """Its routers' forwards were replaced on the instances, as kernels do: nothing says how these rank. So too where
    the model was prepared before."""
    from .. import system
    from ..system import okr

    model = system.copied(system.softmax_model())
    prepared = okr.prepare(model)
    for _, module in system.routers(model):
        module.forward = lambda hidden, _own=module: type(_own).forward(_own, hidden)
    for run in (*runs(model), lambda: okr.record(prepared)):
        with system.refused(okr.RouterNotFound, "a model whose routers cannot be keyed"), run():
            pass


@check("OKR-ATTACH-005")
def a_router_that_does_not_repeat_itself_is_refused(subject: Subject) -> None:
    """One that counts its calls: what it gives does not follow from what it chose. The model is left as it was."""
    from .. import system
    from ..system import okr

    model = system.copied(system.softmax_model())
    _, module = system.routers(model)[-1]

    def forward(self: Any, hidden: Any) -> Any:
        logits, weights, experts = native.forward(self, hidden)
        self.__dict__["calls"] = self.__dict__.get("calls", 0) + 1
        return logits, weights / self.__dict__["calls"], experts

    native: Any = type(module)
    module.__class__ = type(native.__name__, (native,), {"forward": forward, "__module__": native.__module__})
    module.train()
    for run in runs(model):
        module.__dict__["calls"] = 1
        before = system.fingerprint(model)
        with system.refused(okr.UnsupportedRouter, "a router that does not repeat itself"), run():
            pass
        module.__dict__["calls"] = 1
        changed = system.differences(before, system.fingerprint(model))
        require(not changed and module.training, "a refused router changed the model", got=changed)


@check("OKR-ATTACH-005")
def models_with_routers_are_accepted(subject: Subject) -> None:
    """Every family, in training, in bfloat16 and in float64, with what the settings are by default."""
    import torch

    from .. import system

    for original in system.every_model():
        for dtype in (torch.float32, torch.bfloat16, torch.float64):
            model = system.copied(original).to(dtype).train(dtype == torch.float32)
            model.set_experts_implementation("eager")  # the grouped product takes no float64
            for run in runs(model)[: 1 if model.training else 2]:
                with system.accepted(f"{type(model).__name__} in {dtype}"), run() as session:
                    system.logits(model)
                    if not model.training:
                        session.generate(system.tokens(1), max_new_tokens=2, **system.GREEDY)


@check("OKR-ATTACH-005")
def models_without_their_weights_have_the_same_routers(subject: Subject) -> None:
    """On the meta device, where a model stands before its weights are loaded."""
    import torch

    from .. import system
    from ..system import okr

    for model in system.every_model():
        with torch.device("meta"):
            empty = type(model)(model.config)
        with system.accepted(f"an empty {type(model).__name__}"):
            found = okr.discover(empty)
        require(found == okr.discover(model), "other routers without weights", expected=okr.discover(model), got=found)


def _alone(model: Any) -> Any:
    return nullcontext()


def _remade(model: Any) -> Any:
    return pickle.loads(pickle.dumps(model))


@check("OKR-ATTACH-006")
def copies_of_any_kind_are_plain(subject: Subject) -> None:
    """Deep copies and pickles, of models that accelerate dispatched as well; they can be attached to like others."""
    import torch

    from .. import system

    ways: tuple[tuple[Any, Any], ...] = ((_alone, system.copied), (_alone, _remade), (_dispatched, system.copied))
    for number, model in enumerate(system.new_models()[::3]):
        plain = system.logits(model)
        for around, make in ways:
            with around(model), runs(model)[number % 2]() as session:
                copy = make(model)
                with system.accepted(f"a copy of the attached {type(model).__name__}"):
                    for _ in range(2):
                        require(torch.equal(plain, system.logits(copy)), "a copy of an attached model is keyed")
                    with runs(copy)[1]() as other:
                        require(other.sites == session.sites, "a copy has other sites", got=other.sites)
                    require(torch.equal(plain, system.logits(copy)), "a copy does not become plain again")
