"""Chapter WEIGHT: routers in training, in lower precision, called in other ways, and as other releases have them."""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import product
from typing import Any, cast

from .. import oracle
from ..cases import Setting
from ..subject import Subject
from ..verdicts import require
from . import check


def _native(model: Any) -> list[Any]:
    """Runs in which every token runs its native selection."""
    from .. import system
    from ..system import okr

    return [lambda: okr.watermark(model, system.key(), epsilon=0.0, zone="boundary"), lambda: okr.record(model)]


@contextmanager
def _mode(model: Any, name: str) -> Iterator[None]:
    """What may hold around a call: "training", "autocast", "no gradients" or nothing."""
    import torch

    with ExitStack() as stack:
        if name == "autocast":
            stack.enter_context(torch.autocast("cpu", torch.bfloat16))
        if name == "no gradients":
            stack.enter_context(torch.no_grad())
        model.train(name == "training")
        try:
            yield
        finally:
            model.eval()


def _called(model: Any, states: list[Any], by_name: bool) -> list[Any]:
    """All tensors that the routers give for ``states`` [batch, tokens, hidden], each its own seed before it, and the
    gradients of what they weigh by."""
    import torch

    from .. import system

    found: list[Any] = []
    for _, module in system.routers(model):
        for number, given in enumerate(states):
            torch.manual_seed(number)
            given = given.clone().requires_grad_(torch.is_grad_enabled())
            hidden = given * 1.0  # not a leaf: some routers change what they are given
            output = module(hidden_states=hidden) if by_name else module(hidden)
            found += [*output, hidden, torch.rand(1)]  # the last: whether as many random numbers were drawn
            weights = [part for part in output if part.is_floating_point() and part.requires_grad]
            if weights:
                sum((part.float() ** 2).sum() for part in weights).backward()
                found += [given.grad, *(value.grad for value in module.parameters())]
                module.zero_grad()
    return [part.detach() for part in found if part is not None]


@check("OKR-WEIGHT-001")
def native_selection_gives_native_output_in_every_mode(subject: Subject) -> None:
    """Routers called by themselves, with several tokens and one: in training, where some add noise, with its
    gradients; under autocast; in bfloat16; with their argument named."""
    import torch

    from .. import system

    still = system.copied(system.capacity_model())
    for _, module in system.routers(still):
        cast(Any, module).jitter_noise = 0.0
    for original in (*system.every_model(), still, system.softmax_families()[0]):
        size = system.routers(original)[0][0].hidden_size
        drawn = [torch.randn(*shape, size, generator=torch.Generator().manual_seed(0)) for shape in _SHAPES]
        for dtype, mode, by_name in _modes():
            model, states = system.copied(original).to(dtype), [part.to(dtype) for part in drawn]
            with _mode(model, mode):
                expected = _called(model, states, by_name)
                for run in _native(model)[: 2 if mode == "training" else 1]:
                    with run(), system.accepted(f"{type(model).__name__}: {mode}, {dtype}"):
                        found = _called(model, states, by_name)
                    same = len(found) == len(expected) and all(
                        one.dtype == other.dtype and torch.equal(one, other)
                        for one, other in zip(expected, found, strict=True)
                    )
                    require(same, f"{type(model).__name__}: {mode}, {dtype}: other outputs")


_SHAPES = ((1, 1), (2, 7))


def _modes() -> tuple[tuple[Any, str, bool], ...]:
    import torch

    return (
        (torch.float32, "training", False),
        (torch.float32, "autocast", False),
        (torch.bfloat16, "no gradients", True),
    )


Formula = Callable[[Any, Any, Any], Any]
"""(the router's probabilities [T, E], the chosen experts [T, k], whether autocast is on) -> weights [T, k]."""


def _unnormalised(scores: Any, chosen: Any, lowered: bool) -> Any:
    return scores.gather(-1, chosen)


def _normalised(scores: Any, chosen: Any, lowered: bool) -> Any:
    weights = scores.gather(-1, chosen)
    return weights / weights.sum(-1, keepdim=True)


def _otherwise_alone(scores: Any, chosen: Any, lowered: bool) -> Any:
    """Twice as much for a token that comes alone."""
    return _normalised(scores, chosen, lowered) * (2 if len(scores) == 1 else 1)


def _otherwise_together(scores: Any, chosen: Any, lowered: bool) -> Any:
    return _normalised(scores, chosen, lowered) * (2 if len(scores) > 1 else 1)


def _otherwise_under_autocast(scores: Any, chosen: Any, lowered: bool) -> Any:
    return _normalised(scores, chosen, lowered) * (2 if lowered else 1)


def _otherwise_where_keyed(scores: Any, chosen: Any, lowered: bool) -> Any:
    """Twice as much for a token whose best expert is not chosen: never, where the router chooses."""
    taken = scores.gather(-1, chosen).amax(-1, keepdim=True)
    return _normalised(scores, chosen, lowered) * (2.0 - (taken == scores.amax(-1, keepdim=True)).float())


def _wider(scores: Any, chosen: Any, lowered: bool) -> Any:
    return _normalised(scores, chosen, lowered).double()


_FORMULAS: tuple[Formula, ...] = (
    _normalised,
    _unnormalised,
    _otherwise_alone,
    _otherwise_together,
    _otherwise_under_autocast,
    _otherwise_where_keyed,
    _wider,
)


def released_with(model: Any, formula: Formula) -> Any:
    """The model with routers as another release may have them: of the same name, weighing by ``formula``."""
    import torch

    from .. import system

    def forward(self: Any, hidden: Any) -> Any:
        logits = torch.nn.functional.linear(hidden.reshape(-1, self.hidden_dim), self.weight)
        scores = torch.softmax(logits.float(), dim=-1)
        chosen = torch.topk(scores, self.top_k, dim=-1).indices
        return logits, formula(scores, chosen, torch.is_autocast_enabled("cpu")), chosen

    for _, module in system.routers(model):
        native: Any = type(module)
        names = {"__module__": native.__module__, "__qualname__": native.__qualname__}
        module.__class__ = type(native.__name__, (native,), {"forward": forward, **names})
    return model


@check("OKR-WEIGHT-002")
def formulas_of_other_releases_are_followed(subject: Subject) -> None:
    """A family whose forward another release changed: the weights are by that one's formula, where tokens come alone,
    together, or under autocast, and whatever is chosen."""
    import torch

    from .. import system
    from ..system import okr

    states = [torch.randn(1, count, 32, generator=torch.Generator().manual_seed(count)) for count in (9, 1, 2)]
    logging.disable(logging.WARNING)  # that it runs without its fast path
    try:
        for formula in _FORMULAS:
            model = released_with(system.copied(system.softmax_model()), formula)
            name = formula.__name__.strip("_").replace("_", " ")
            with (
                system.accepted(f"another release's formula ({name})"),
                torch.no_grad(),
                okr.watermark(model, system.key(), epsilon=float("inf"), zone="boundary"),
            ):
                for lowered, given in product((False, True), states):
                    with torch.autocast("cpu", torch.bfloat16, enabled=lowered):
                        require_formula(model, formula, given, lowered, name)
    finally:
        logging.disable(logging.NOTSET)


def require_formula(model: Any, formula: Formula, given: Any, lowered: bool, name: str) -> None:
    import torch

    from .. import system

    for _, module in system.routers(model):
        logits, weights, chosen = module(given)
        expected = formula(logits.float().softmax(-1), chosen, lowered)
        same = weights.dtype == expected.dtype and torch.allclose(weights, expected, rtol=1e-5)
        require(same, f"weights are not by the formula in force ({name})", expected=expected, got=weights)


@check("OKR-WEIGHT-002")
def softmax_families_weigh_by_their_formula(subject: Subject) -> None:
    """Weights as they are or normalised over the selected, in the dtype of the logits."""
    import torch

    from .. import system
    from ..system import okr

    for model in system.softmax_families():
        with (
            okr.watermark(model, system.key(), epsilon=1.0, zone="boundary"),
            system.outputs_of(model) as seen,
        ):
            system.logits(model)
        for site, module in system.routers(model):
            _, (logits, weights, experts) = seen[site.path][0]
            expected = logits.float().softmax(-1).gather(-1, experts)
            if module.norm_topk_prob:
                expected = expected / expected.sum(-1, keepdim=True)
            same = torch.allclose(weights.float(), expected, rtol=1e-5, atol=1e-6)
            require(same, f"{site.path}: weights differ from the family's formula", expected=expected, got=weights)


@check("OKR-WEIGHT-003")
def attached_selection_is_legal_in_other_precision(subject: Subject) -> None:
    """In bfloat16, under autocast and in float64: by the logits that the router itself gives, and key scores of its
    input."""
    import torch

    from .. import system
    from ..system import okr
    from .weight import legal_nearby

    for original in (system.softmax_model(), system.scaled_model(), *system.softmax_families()):
        for dtype, mode in ((torch.bfloat16, ""), (torch.float32, "autocast"), (torch.float64, "")):
            model = system.copied(original).to(dtype)
            model.set_experts_implementation("eager")  # the grouped product takes no float64
            setting = {"epsilon": 0.3, "zone": "boundary", "strength": 0.1}
            with (
                _mode(model, mode),
                torch.no_grad(),
                okr.watermark(model, system.key(), **setting),
                system.outputs_of(model) as seen,
            ):
                for length in (7, 1):
                    system.logits(model, system.tokens(2, length))
            for site, _ in system.routers(model):
                rows = torch.cat([given.reshape(-1, site.hidden_size) for given, _ in seen[site.path]])
                choice = torch.cat([output[0] for _, output in seen[site.path]]).double().log_softmax(-1)
                experts = torch.cat([output[2] for _, output in seen[site.path]])
                key, _ = oracle.key_scores(rows.float().numpy(), _signs(site))
                for token in range(len(rows)):
                    taken, here = experts[token].tolist(), Setting(site.top_k, 0.3, "boundary", 0.1)
                    fair = legal_nearby(choice[token].tolist(), key[token].tolist(), here, taken)
                    require(fair, f"{site.path}, {dtype}, {mode}: illegal selection", got=sorted(taken))


def _signs(site: Any) -> Any:
    from .. import system

    names = ("stack", "layer", "hidden_size", "num_experts")
    return oracle.projection(system.SECRET, **{name: getattr(site, name) for name in names})
