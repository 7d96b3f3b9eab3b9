"""Watermarks and recordings that do something to the model."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from okr.discovery.interception import Record
from okr.engines.choice import Own
from okr.engines.transformers import fused
from okr.engines.transformers.journal import Journals, _current
from okr.engines.transformers.routings import Native
from okr.errors import AlreadyAttached, RouterNotFound

from . import Change, broken

prepared: Any = import_module("okr.engines.prepared")
attaching: Any = import_module("okr.engines.transformers.attaching")
engine: Any = import_module("okr.engines.transformers.engine")
swapping: Any = import_module("okr.engines.transformers.swapping")
settings: Any = import_module("okr.routing.settings")
session: Any = import_module("okr.engines.transformers.session")
RIGHT = ("OKR-WEIGHT-002", "OKR-WEIGHT-003", "OKR-TRACE-003", "OKR-TRACE-006", "OKR-VERIFY-005")


def _running(change: Change, wrapped: Callable[[nn.Module, Any], Any]) -> None:
    """Let ``wrapped`` (model, the block's context manager) stand for every attachment but a replay's."""
    routed = engine.TransformersEngine.routed

    def changed(self: Any, routings: Any, *, replay: bool = False) -> Any:
        block = routed(self, routings, replay=replay)
        return block if replay else wrapped(self.model, block)

    change(engine.TransformersEngine, "routed", changed)


def _around(change: Change, before: Callable[[nn.Module], Any], after: Callable[[nn.Module, Any], Any]) -> None:
    """Let something happen to the model around every attachment, also one that ends by an exception."""

    @contextmanager
    def attached(model: nn.Module, block: Any) -> Iterator[None]:
        with block:
            state = before(model)
            try:
                yield
            finally:
                after(model, state)

    _running(change, attached)


@broken(
    "a hook left behind by an exception", fails=("OKR-ATTACH-001", "OKR-ATTACH-007"), passes=("OKR-ATTACH-002", *RIGHT)
)
def forgets_after_errors(change: Change) -> None:
    @contextmanager
    def attached(model: nn.Module, block: Any) -> Iterator[None]:
        with block:
            hook = model.register_forward_hook(lambda *_: None)
            yield
            hook.remove()

    _running(change, attached)


@broken(
    "an attribute left on every router", fails=("OKR-ATTACH-001", "OKR-ATTACH-007"), passes=("OKR-ATTACH-002", *RIGHT)
)
def leaves_attributes(change: Change) -> None:
    def mark(model: nn.Module, _: Any) -> None:
        for module in model.modules():
            if isinstance(module, swapping.AttachedRouter):
                module.__dict__["_okr_was_here"] = True

    _around(change, lambda model: None, mark)


@broken("classes left replaced", fails=("OKR-ATTACH-001", "OKR-ATTACH-007"), passes=("OKR-ATTACH-002", *RIGHT))
def leaves_classes(change: Change) -> None:
    swap_out = swapping.swap_out

    def swapped(module: nn.Module) -> None:
        keyed = isinstance(getattr(module.__dict__.get("_okr_attachment"), "routing", None), engine.Keyed)
        swap_out(module)
        if keyed:
            native: Any = type(module)
            module.__class__ = type(native.__name__, (native,), {"__module__": native.__module__})

    change(attaching, "swap_out", swapped)


@broken("training mode left on", fails=("OKR-ATTACH-001", "OKR-ATTACH-007"), passes=("OKR-ATTACH-002", *RIGHT))
def leaves_training_mode(change: Change) -> None:
    _around(change, lambda model: None, lambda model, _: model.train())


@broken(
    "parameters restored inexactly",
    fails=("OKR-ATTACH-001", "OKR-ATTACH-002", "OKR-ATTACH-007"),
    passes=("OKR-TRACE-006",),
)
def restores_inexactly(change: Change) -> None:
    def scale(model: nn.Module, factor: float) -> None:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("gate.weight"):
                    parameter.mul_(factor)

    _around(change, lambda model: scale(model, 3.0), lambda model, _: scale(model, 1 / 3.0))


@broken("the projection kept as a buffer", fails=("OKR-ATTACH-002",), passes=("OKR-ATTACH-001", *RIGHT))
def keeps_a_buffer(change: Change) -> None:
    def add(model: nn.Module) -> None:
        model.register_buffer("okr_projection", torch.ones(3))

    def drop(model: nn.Module, _: Any) -> None:
        del model.okr_projection

    _around(change, add, drop)


@broken("a second watermark takes over", fails=("OKR-ATTACH-003", "OKR-ATTACH-007"), passes=("OKR-ATTACH-002", *RIGHT))
def second_takes_over(change: Change) -> None:
    @contextmanager
    def attached(model: nn.Module, block: Any) -> Iterator[None]:
        for module in model.modules():
            swapping.swap_out(module)
        with block:
            yield

    _running(change, attached)


@broken(
    "refusing a second one ends the first",
    fails=("OKR-ATTACH-003", "OKR-ATTACH-007"),
    passes=("OKR-ATTACH-002", *RIGHT),
)
def refusal_ends_the_first(change: Change) -> None:
    @contextmanager
    def attached(model: nn.Module, block: Any) -> Iterator[None]:
        try:
            with block:
                yield
        except AlreadyAttached:
            for module in model.modules():
                swapping.swap_out(module)
            raise

    _running(change, attached)


@broken("the recorder sorts what it records in place", fails=("OKR-ATTACH-004",), passes=("OKR-ATTACH-001", *RIGHT))
def sorts_in_place(change: Change) -> None:
    def reporter(self: Journals, site: int) -> Any:
        def report(ran: Callable[[], Tensor]) -> None:
            journal = _current.get()
            if journal is not None and journal.source is self:
                experts = ran()
                experts.copy_(experts.sort(-1).values)
                journal.add(site, experts)

        return report

    change(Journals, "reporter", reporter)


class _Rounds(Native):
    def weigh(self, scores: Tensor, hidden: Tensor, native: Own, keys: Any = None) -> tuple[Tensor, Tensor]:
        chosen, weights = super().weigh(scores, hidden, native, keys)
        return chosen, weights.half().float()


@broken("recording rounds the weights", fails=("OKR-ATTACH-004", "OKR-ATTACH-007"), passes=("OKR-ATTACH-001", *RIGHT))
def recording_rounds(change: Change) -> None:
    change(engine, "Native", _Rounds)


@broken("a model without routers is watermarked", fails=("OKR-ATTACH-005",), passes=("OKR-ATTACH-001", *RIGHT))
def accepts_dense_models(change: Change) -> None:
    discover = engine.discover

    def found(model: nn.Module) -> Any:
        try:
            return discover(model)
        except RouterNotFound:
            return []

    change(engine, "discover", found)
    change(engine, "keyable_sites", lambda model, found: [site for site in found if site.keyable])


@broken("a setting of any kind is taken for a number", fails=("OKR-ATTACH-005",), passes=("OKR-ATTACH-001", *RIGHT))
def any_setting(change: Change) -> None:
    change(settings, "_is_number", lambda value: not isinstance(value, list))


@broken("a refusal of many lines", fails=("OKR-ATTACH-005",), passes=("OKR-ATTACH-001", *RIGHT))
def long_refusals(change: Change) -> None:
    discover = engine.discover

    def found(model: nn.Module) -> Any:
        try:
            return discover(model)
        except RouterNotFound as error:
            raise RouterNotFound(f"{error}\nsee the manual") from None

    change(engine, "discover", found)


@broken("copies are keyed", fails=("OKR-ATTACH-006", "OKR-ATTACH-007"), passes=("OKR-ATTACH-001", *RIGHT))
def copies_are_keyed(change: Change) -> None:
    def reduce(self: Any, protocol: Any) -> Any:
        return _new, (type(self),), dict(self.__dict__)

    change(swapping.AttachedRouter, "__reduce_ex__", reduce)


def _new(kind: Any) -> Any:
    return kind.__new__(kind)


@broken("copies have classes of their own", fails=("OKR-ATTACH-006",), passes=("OKR-ATTACH-001", *RIGHT))
def copies_have_other_classes(change: Change) -> None:
    change(swapping, "_blank", lambda native: _new(type(native.__name__, (native,), {})))


@broken(
    "generating ends the watermark",
    fails=("OKR-ATTACH-007",),
    passes=("OKR-ATTACH-001", *(c for c in RIGHT if c != "OKR-TRACE-003")),
)
def generating_ends_it(change: Change) -> None:
    generate = session.generate

    def generated(model: nn.Module, *arguments: Any) -> Any:
        made = generate(model, *arguments)
        for module in model.modules():
            swapping.swap_out(module)
        return made

    change(session, "generate", generated)


@broken("rankings are not counted", fails=("OKR-ATTACH-008",), passes=("OKR-ATTACH-001", *RIGHT))
def counts_nothing(change: Change) -> None:
    def intercepted(attachment: Any, native: Any, module: Any, states: Tensor, args: Any, kwargs: Any) -> Any:
        record, hidden = Record(), states.reshape(-1, attachment.site.hidden_size)
        choose = attachment.routing.choose
        with swapping.Interception(
            attachment.site, states.shape[:-1], lambda scores, own: choose(scores, hidden, own.__getitem__), record
        ):
            output = native.forward(module, *args, **kwargs)
        return output, output[-1] if record.chosen is None else record.chosen

    change(swapping, "_intercepted", intercepted)


@broken(
    "a replaced forward is not looked at",
    fails=("OKR-ATTACH-008", "OKR-WEIGHT-002"),
    passes=("OKR-ATTACH-001", *RIGHT[1:]),
)
def trusts_its_own_forward(change: Change) -> None:
    change(fused.Fused, "stands_for", lambda self, native, states: True)


@broken(
    "the quiet setting as strong as the loud one",
    fails=("OKR-ATTACH-005",),
    passes=("OKR-ATTACH-001", "OKR-TRACE-003"),
)
def quiet_is_loud(change: Change) -> None:
    asked = prepared.asked_setting

    def loud(name: Any = None, **values: Any) -> Any:
        return asked("loud" if name is None and values.get("epsilon") is None else name, **values)

    change(prepared, "asked_setting", loud)
