"""Chapter ATTACH: forwards that go past the routers or rank otherwise, and gradients."""

from typing import Any
from warnings import catch_warnings

from ..subject import Subject
from ..verdicts import Violation, require
from . import check
from .attach_models import runs


def _blocks(model: Any) -> list[Any]:
    """The modules around its routers."""
    from .. import system

    return [model.get_submodule(site.path.rpartition(".")[0]) for site, _ in system.routers(model)]


@check("OKR-ATTACH-008")
def forwards_past_the_routers_are_an_error(subject: Subject) -> None:
    """The blocks around all routers stop calling them, as kernels may."""
    from .. import system
    from ..system import okr

    model = system.copied(system.softmax_model())
    blocks = _blocks(model)
    for run in runs(model):
        with run():
            for block in blocks:
                block.forward = lambda hidden: hidden
            with system.refused(okr.UnsupportedRouter, "a forward that ran none of its routers"):
                system.logits(model)
            for block in blocks:
                del block.forward
            with system.accepted("a forward that runs its routers again"):
                system.logits(model)


@check("OKR-ATTACH-008")
def a_router_that_ranks_otherwise_is_an_error(subject: Subject) -> None:
    """Twice, only some of its tokens, or by the largest alone: what was answered to it is not what it does."""
    import torch

    from .. import system
    from ..system import okr

    def twice(self: Any, hidden: Any) -> Any:
        native_forward(self, hidden)
        return native_forward(self, hidden)

    def half(self: Any, hidden: Any) -> Any:
        found = native_forward(self, hidden.reshape(-1, self.hidden_dim)[::2])
        return tuple(part.repeat(2, 1) for part in found)

    def largest(self: Any, hidden: Any) -> Any:
        scores = torch.nn.functional.linear(hidden.reshape(-1, self.hidden_dim), self.weight)
        best = scores.max(-1, keepdim=True)
        return scores, best.values.expand(-1, 2), best.indices.expand(-1, 2)

    model = system.copied(system.softmax_model())
    native: Any = type(system.routers(model)[0][1])
    native_forward = native.forward
    for run in runs(model):
        for other in (twice, half, largest):
            with run():
                native.forward = other
                try:
                    with system.refused(okr.UnsupportedRouter, f"a router that ranks otherwise ({other.__name__})"):
                        system.logits(model)
                finally:
                    native.forward = native_forward


def _loss(model: Any) -> Any:
    from .. import system

    return model(input_ids=system.tokens(), labels=system.tokens(), use_cache=False).loss


def _gradients(model: Any) -> list[Any]:
    found = [value.grad.clone() for value in model.parameters() if value.grad is not None]
    model.zero_grad()
    return found


@check("OKR-ATTACH-008")
def gradients_are_of_what_ran(subject: Subject) -> None:
    """Of a forward under the key: inside the block, also where checkpoints recompute it; after the block, unless they
    would."""
    import torch

    from .. import system
    from ..system import okr

    expected: list[Any] = []
    for checkpointing in (None, {"use_reentrant": True}, {"use_reentrant": False}):
        model, found, later = _trained(checkpointing)
        expected = expected or found
        same = len(found) == len(expected) and all(map(torch.allclose, found, expected))
        require(same, "gradients of a checkpointed forward are of another")
        if checkpointing is None:
            with system.accepted("a backward that recomputes nothing"):
                later[0].backward()
            require(all(map(torch.equal, _gradients(model), expected)), "gradients after the block are of another")
            with runs(model)[0]():
                loss = _loss(model)  # the first that runs in this block
            with system.accepted("a backward that recomputes nothing"):
                loss.backward()
            require(all(map(torch.equal, _gradients(model), expected)), "gradients after the block are of another")
            continue
        for value in later:
            with system.refused(okr.UnsupportedRouter, f"a backward after the block ({checkpointing})"):
                value.backward()


@check("OKR-ATTACH-008")
def checkpointed_forwards_may_have_any_output(subject: Subject) -> None:
    """A tuple, and tensors of which none or some have gradients."""
    from .. import system

    for frozen in (True, False):
        model = system.copied(system.softmax_model()).train().requires_grad_(not frozen)
        with catch_warnings(action="ignore"):  # of checkpoints without gradients
            model.gradient_checkpointing_enable({"use_reentrant": True})
            with runs(model)[0]() as session, system.accepted("a checkpointed forward"):
                session.generate(system.tokens(1), max_new_tokens=2, use_cache=False, **system.GREEDY)
                for given in ({"return_dict": False}, {"output_router_logits": True}, {"labels": system.tokens(3)}):
                    model(input_ids=system.tokens(3), use_cache=False, **given)


def _trained(checkpointing: dict[str, Any] | None) -> tuple[Any, list[Any], list[Any]]:
    """A model, its gradients of a loss under the key, and, for after the block: that loss anew, and a sum of what the
    model's body gives."""
    from .. import system

    model = system.copied(system.softmax_model()).train()
    with catch_warnings(action="ignore"):  # of renamed arguments, and of checkpoints without gradients
        if checkpointing is not None:
            model.gradient_checkpointing_enable(checkpointing)
            model.enable_input_require_grads()
        with runs(model)[0]() as session, system.accepted("a backward inside the block"):
            _loss(model).backward()
            found = _gradients(model)
            session.generate(system.tokens(1), max_new_tokens=2, use_cache=False, **system.GREEDY)  # without gradients
            states = model.model(input_ids=system.tokens(), use_cache=False).last_hidden_state.sum()
            return model, found, [_loss(model), states]


@check("OKR-ATTACH-008")
def gradients_do_not_depend_on_where_autocast_began(subject: Subject) -> None:
    """Before the attachment or within it: what a proof computes is left out of a forward that learns."""
    import torch

    from .. import system

    found: list[list[Any]] = []
    for around in (False, True):
        model = system.copied(system.softmax_model())
        with (
            torch.autocast("cpu", torch.float16, enabled=around),
            runs(model)[0](),
            torch.autocast("cpu", torch.float16),
        ):
            try:
                _loss(model).backward()
            except RuntimeError as error:
                raise Violation(f"a forward under autocast fails: {error}") from error
        found.append(_gradients(model))
    same = len(found[0]) == len(found[1]) and all(map(torch.equal, *found))
    require(same, "other gradients where autocast began before the attachment")
