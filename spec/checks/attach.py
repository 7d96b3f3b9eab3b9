"""Chapter ATTACH: what a watermark does to a model, and what is left of it."""

from contextlib import ExitStack
from typing import Any

from hypothesis import strategies as st

from .. import strategies
from ..subject import Subject
from ..verdicts import Violation, require
from . import check


class _Interruption(Exception):
    """Raised inside a block to see it cleaned up."""


def _runs(model: Any) -> list[Any]:
    from .. import system
    from ..system import okr

    return [
        lambda: okr.watermark(model, system.key(), epsilon=system.epsilon_of(model), zone="boundary"),
        lambda: okr.record(model),
    ]


@check("OKR-ATTACH-001")
def leaving_restores_the_model(subject: Subject) -> None:
    import torch

    from .. import system

    for model in system.new_models():
        plain, before = system.logits(model), system.fingerprint(model)  # a first call may set attributes
        for run in _runs(model):
            for fail in (False, True):
                try:
                    with run():
                        system.logits(model)
                        if fail:
                            raise _Interruption
                except _Interruption:
                    pass
                changed = system.differences(before, system.fingerprint(model))
                require(not changed, f"{type(model).__name__} after leaving", expected="nothing changed", got=changed)
                require(torch.equal(plain, system.logits(model)), f"{type(model).__name__}: other logits after leaving")


@check("OKR-ATTACH-002")
def the_state_dict_stays(subject: Subject) -> None:
    import torch

    from .. import system

    for model in system.every_model():
        before = {name: value.clone() for name, value in model.state_dict().items()}
        for run in _runs(model):
            with run():
                system.logits(model)
                during = model.state_dict()
                require(list(before) == list(during), "names of the state dict change while attached")
                changed = [name for name, value in before.items() if not torch.equal(value, during[name])]
                require(not changed, "parameters change while attached", got=changed)


@check("OKR-ATTACH-003")
def a_second_attachment_is_refused(subject: Subject) -> None:
    import torch

    from .. import system
    from ..system import okr

    for model in system.every_model():
        for outer in _runs(model):
            with outer():
                inside = system.logits(model)
                for inner in _runs(model):
                    try:
                        with inner():
                            raise Violation("a second attachment was accepted")
                    except okr.AlreadyAttached:
                        pass
                require(torch.equal(inside, system.logits(model)), "a refused attachment changed the first one")


@check("OKR-ATTACH-004")
def recording_changes_nothing(subject: Subject) -> None:
    import torch

    from .. import system
    from ..system import okr

    for model in system.every_model():
        name, plain, settings = type(model).__name__, system.logits(model), {"max_new_tokens": 4, **system.GREEDY}
        with system.outputs_of(model) as before:
            model.generate(input_ids=system.tokens(), **settings)
        with okr.record(model) as session:
            require(torch.equal(plain, system.logits(model)), f"{name}: recording changes the logits")
            with system.outputs_of(model) as after:
                session.generate(input_ids=system.tokens(), **settings)
        for path, calls in before.items():
            for (_, one), (_, other) in zip(calls, after[path], strict=True):
                same = all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
                require(same, f"{path}: recording a generation changes what the router gives", expected=one, got=other)


@check("OKR-ATTACH-005")
def a_model_without_routers_is_refused(subject: Subject) -> None:
    from .. import system
    from ..system import okr

    for run in _runs_of_dense(system.dense_model()):
        try:
            with run():
                raise Violation("a model without routers was accepted")
        except okr.RouterNotFound as error:
            require(bool(str(error)) and "\n" not in str(error), "the error is not one clear line", got=str(error))


def _runs_of_dense(model: Any) -> list[Any]:
    from .. import system
    from ..system import okr

    return [lambda: okr.watermark(model, system.key(), epsilon=1.0), lambda: okr.record(model)]


@check("OKR-ATTACH-006")
def copies_are_plain(subject: Subject) -> None:
    import torch

    from .. import system

    for model in system.every_model():
        plain = system.logits(model)
        with _runs(model)[0]():
            copy = system.copied(model)
        require(torch.equal(plain, system.logits(copy)), f"a copy of the attached {type(model).__name__} is keyed")
        changed = [n for (n, t), (_, u) in zip(_classes(model), _classes(copy), strict=True) if t is not u]
        require(not changed, "modules of the copy have other classes", got=changed)


def _classes(model: Any) -> list[tuple[str, type]]:
    return [(name, type(module)) for name, module in model.named_modules()]


@check("OKR-ATTACH-007", lambda: st.tuples(st.sampled_from((0, 1, 2)), strategies.walks()), share=0.4)
def any_sequence_keeps_the_contract(subject: Subject, drawn: tuple[int, list[str]]) -> None:
    """A walk through the states free and attached; after each step the model behaves as its state demands."""
    from .. import system

    model = system.new_models()[drawn[0]]
    plain, before = system.logits(model), system.fingerprint(model)
    walk = _Walk(model, plain, system.traces(drawn[0]))
    try:
        for step in drawn[1]:
            getattr(walk, step)()
            walk.look(step)
    finally:
        walk.leave()
    changed = system.differences(before, system.fingerprint(model))
    require(not changed, f"after {drawn[1]}", expected="nothing changed", got=changed)


class _Walk:
    """The state machine: at most one run is in force; ``keyed`` are the logits its key gives."""

    def __init__(self, model: Any, plain: Any, evidence: Any) -> None:
        self.model, self.plain, self.evidence, self.stack = model, plain, evidence, ExitStack()
        self.state, self.session = "free", None

    def _enter(self, index: int, state: str) -> None:
        from ..system import okr

        try:
            session = self.stack.enter_context(_runs(self.model)[index]())
        except okr.AlreadyAttached:
            require(self.state != "free", "a free model says it is attached")
            return
        require(self.state == "free", "a second attachment was accepted")
        self.state, self.session = state, session

    def watermark(self) -> None:
        self._enter(0, "watermark")

    def record(self) -> None:
        self._enter(1, "record")

    def leave(self) -> None:
        self.stack.close()
        self.state, self.session = "free", None

    def fail(self) -> None:
        error = _Interruption()
        self.stack.__exit__(type(error), error, None)
        self.stack, self.state, self.session = ExitStack(), "free", None

    def forward(self) -> None:
        from .. import system

        system.logits(self.model)

    def generate(self) -> None:
        from .. import system

        source: Any = self.model if self.session is None else self.session
        source.generate(input_ids=system.tokens(1, 4), max_new_tokens=2, do_sample=False, pad_token_id=0)

    def copy(self) -> None:
        import torch

        from .. import system

        require(torch.equal(self.plain, system.logits(system.copied(self.model))), "a copy is keyed")

    def verify(self) -> None:
        """Replay needs the model for itself: refused while attached."""
        from .. import system
        from ..system import okr

        try:
            okr.verify(self.model, self.evidence, system.key(), decoys=9, alpha=0.1)
        except okr.AlreadyAttached:
            require(self.state != "free", "a free model says it is attached")

    def look(self, step: str) -> None:
        import torch

        from .. import system

        same = torch.equal(self.plain, system.logits(self.model))
        require(same == (self.state != "watermark"), f"after {step}: state {self.state}, native logits {same}")


@check("OKR-ATTACH-008")
def a_router_that_changed_is_an_error(subject: Subject) -> None:
    from .. import system
    from ..system import okr

    model = system.copied(system.softmax_model())
    (site, module), *_ = system.routers(model)
    native = type(module)
    original = native.forward
    with okr.watermark(model, system.key(), epsilon=1.0):
        native.forward = lambda self, hidden: (None, hidden[..., :2], hidden[..., :2].long())
        try:
            system.logits(model)
        except okr.UnsupportedRouter:
            return
        except Exception as error:
            raise Violation(f"{site.path}: {type(error).__name__} instead of UnsupportedRouter") from error
        finally:
            native.forward = original
    raise Violation(f"{site.path}: a router that ranks no experts any more went unnoticed")
