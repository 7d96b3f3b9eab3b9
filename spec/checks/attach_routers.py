"""Chapter ATTACH: routers that no library has."""

import re
from collections.abc import Callable
from typing import Any

from ..subject import Subject
from ..verdicts import require
from . import check


def with_routers(forward: Callable[..., Any]) -> Any:
    """A model whose routers are of a class of their own, with this forward."""
    from .. import system

    model = system.copied(system.softmax_model())
    for _, module in system.routers(model):
        native: Any = type(module)
        module.__class__ = type("RouterOfItsOwn", (native,), {"forward": forward})
    return model


def _ranked(router: Any, logits: Any) -> Any:
    """Logits, weights and experts of a router that ranks logits as they are."""
    import torch

    values, experts = torch.topk(logits, router.top_k, dim=-1)
    return logits, values.softmax(-1), experts


def ranking_logits(self: Any, hidden: Any) -> Any:
    """The forward of a router that ranks logits as they are, in whatever dtype."""
    return _ranked(self, hidden.reshape(-1, self.hidden_dim) @ self.weight.T)


def _of_whole_numbers(self: Any, hidden: Any) -> Any:
    return _ranked(self, hidden.reshape(-1, self.hidden_dim) @ (self.weight * self.scale).T)


def _of_two(self: Any, hidden: Any, bias: Any) -> Any:
    return _ranked(self, hidden.reshape(-1, self.hidden_dim) @ self.weight.T + bias)


@check("OKR-ATTACH-005")
def routers_of_any_make_are_accepted(subject: Subject) -> None:
    """Routers whose weights are whole numbers, as quantised ones are, and routers that take a bias beside the
    states."""
    from .. import system
    from ..system import okr

    for what, model in (("weights of whole numbers", _quantised()), ("a bias beside the states", _biased())):
        with (
            system.served(f"a model whose routers have {what}"),
            okr.watermark(model, system.key(), epsilon=1.0) as session,
        ):
            traces = session.generate(system.tokens(), max_new_tokens=4, **system.GREEDY).traces
        with system.served(f"a verification by routers that have {what}"):
            verdict = okr.verify(model, traces, system.key(), decoys=99, alpha=0.05)
        require(verdict.hit_rate == 1, f"routers that have {what}", expected=1, got=verdict)


def _quantised() -> Any:
    import torch

    model = with_routers(_of_whole_numbers)
    for layer in model.model.layers:
        module = layer.mlp.gate
        scale = module.weight.detach().abs().max() / 127
        whole = (module.weight.detach() / scale).round().to(torch.int8)
        module.weight = torch.nn.Parameter(whole, requires_grad=False)
        module.register_buffer("scale", scale)
    return model


def _biased() -> Any:
    """Each block keeps a bias, and gives it to its router."""
    import torch

    class Giving(torch.nn.Module):
        def __init__(self, router: Any) -> None:
            super().__init__()
            self.router = router
            self.register_buffer("bias", torch.linspace(-0.1, 0.1, 8))

        def forward(self, hidden: Any) -> Any:
            return self.router(hidden, self.bias)

    model = with_routers(_of_two)
    for layer in model.model.layers:
        layer.mlp.gate = Giving(layer.mlp.gate)
    return model


def _of_another_call(self: Any, hidden: Any) -> Any:
    """Scales its weights by how often it was called: they do not follow from what it chose."""
    logits, weights, experts = ranking_logits(self, hidden)
    self.__dict__["calls"] = self.__dict__.get("calls", 0) + 1
    return logits, weights * self.__dict__["calls"], experts


@check("OKR-ATTACH-005")
def a_refused_router_is_told_why(subject: Subject) -> None:
    """The error names the router, and says that its output is the problem."""
    from .. import system
    from ..system import okr

    model = with_routers(_of_another_call)
    path = system.routers(model)[0][0].path
    said = ""
    try:
        with okr.record(model):
            pass
    except okr.UnsupportedRouter as error:
        said = str(error)
    for word in (re.escape(path), r"\boutput\b"):
        require(re.search(word, said) is not None, "a refused router, in words", expected=word, got=said)
