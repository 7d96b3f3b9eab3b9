"""Chapter REPLAY."""

from dataclasses import replace
from typing import Any

from ..subject import Subject
from ..verdicts import Violation, require
from . import check


def replayed_scores(model: Any, trace: Any) -> dict[str, tuple[Any, Any]]:
    """By site path: the choice scores and states that a replay shows."""
    from okr import prepare

    shown: dict[str, tuple[Any, Any]] = {}

    def observe(site: Any, choice: Any, hidden: Any, experts: Any) -> None:
        shown[site.path] = (choice.clone(), hidden.clone())

    prepare(model).replay(trace, observe)
    return shown


@check("OKR-REPLAY-001")
def replay_runs_the_recorded_experts(subject: Subject) -> None:
    from .. import system

    for index, model in enumerate(system.models()):
        for keyed in (True, False):
            trace = system.traces(index, keyed=keyed)[0]
            with system.outputs_of(model) as seen:
                replayed_scores(model, trace)
            for position, (site, _) in enumerate(system.routers(model)):
                ran = seen[site.path][-1][1][2].tolist()
                expected = trace.site_experts(position).tolist()
                require(ran == expected, f"{site.path}: other experts ran", expected=expected, got=ran)


@check("OKR-REPLAY-001")
def replay_is_under_the_autocast_of_the_trace(subject: Subject) -> None:
    """What the routers see does not depend on the caller's autocast, and does on the trace's."""
    from dataclasses import replace

    import torch

    from .. import system

    for index, model in enumerate(system.models()):
        plain = system.traces(index)[0]
        lowered = replace(plain, header=plain.header.model_copy(update={"autocast": "bfloat16"}))
        alone = [replayed_scores(model, trace) for trace in (plain, lowered)]
        with torch.autocast("cpu", torch.bfloat16):
            inside = [replayed_scores(model, trace) for trace in (plain, lowered)]
        for path in alone[0]:
            states = [[shown[path][1] for shown in way] for way in (alone, inside)]
            require(all(map(torch.equal, *states)), f"{path}: the caller's autocast changed what a replay shows")
        changed = [not torch.equal(alone[0][path][1], alone[1][path][1]) for path in alone[0]]
        require(any(changed), "the trace's autocast was not that of its replay")


@check("OKR-REPLAY-001")
def replay_drops_what_was_dropped(subject: Subject) -> None:
    """A capacity dropped tokens when the trace was made; now the trace says which, not the capacity. Also a trace from
    elsewhere, in which every third token was dropped."""
    from .. import system

    model, traces = system.capacity_model(), system.capacity_traces()
    for trace in [*traces, *map(_dropping, traces)]:
        with system.outputs_of(model) as seen:
            replayed_scores(model, trace)
        for position, (site, _) in enumerate(system.routers(model)):
            ran = system.ran(seen[site.path][-1][1], 1)[0].tolist()
            expected = trace.site_experts(position).tolist()
            require(ran == expected, f"{site.path}: other experts ran", expected=expected, got=ran)


def _dropping(trace: Any) -> Any:
    """The trace as if every third token of it, and of its source, had been dropped everywhere."""
    experts, source = trace.experts.copy(), trace.encoder_experts.copy()
    experts[::3], source[::3] = -2, -2
    return replace(trace, experts=experts, encoder_experts=source)


def _require_recovered(index: int, model: Any) -> None:
    """Router inputs of a greedy, cached generation, and the choice scores they make, against a replay; ``index`` says
    which of the models ranks as this one does."""
    import torch

    from .. import system
    from ..system import okr
    from .weight import choice_scores

    with (
        okr.watermark(model, system.key(), epsilon=system.epsilon_of(model), zone="boundary") as wm,
        system.outputs_of(model) as seen,
    ):
        made = wm.generate(input_ids=system.tokens(1), max_new_tokens=16, **system.GREEDY)
    shown = replayed_scores(model, made.traces[0])
    for site, module in system.routers(model):
        states = torch.cat([given.reshape(-1, site.hidden_size) for given, _ in seen[site.path]])
        scores = choice_scores(index, model, module, states).detach()
        for what, was, now in zip(("choice scores", "states"), (scores, states), shown[site.path], strict=True):
            fine = was.isfinite()
            require(torch.equal(fine, now.isfinite()), f"{site.path}: other experts are barred")
            off = float((now - was)[fine].abs().max() / was[fine].abs().max())
            require(off <= 1e-4, f"{site.path}: {what} differ", expected="<= 1e-4 of the largest", got=off)


@check("OKR-REPLAY-002")
def replay_recovers_the_states(subject: Subject) -> None:
    from .. import system

    for index, model in enumerate(system.models()):
        _require_recovered(index, model)


@check("OKR-REPLAY-002")
def replay_recovers_states_scaled_by_the_length(subject: Subject) -> None:
    """Each token past the original length was seen at another scale."""
    from .. import system

    _require_recovered(0, system.growing_model())


def _refused(model: Any, trace: Any) -> bool:
    from .. import system
    from ..system import okr

    try:
        okr.verify(model, trace, system.key(), decoys=9, alpha=0.1)
    except okr.InvalidTrace:
        return True
    return False


@check("OKR-REPLAY-003")
def another_model_is_refused(subject: Subject) -> None:
    import torch

    from .. import system

    trace = system.traces(0)[0]
    changed = system.copied(system.softmax_model())
    with torch.no_grad():
        next(system.routers(changed)[0][1].parameters()).mul_(-1)
    for model in (system.sigmoid_model(), changed):
        if not _refused(model, trace):
            raise Violation(f"a trace of another model was replayed by {type(model).__name__}")


@check("OKR-REPLAY-003")
def other_weights_are_refused(subject: Subject) -> None:
    """One matrix of the model's attention moved by a tenth, the routers as they were: what an adapter does."""
    import torch

    from .. import system

    trace = system.traces(0)[0]
    changed = system.copied(system.softmax_model())
    routers = {id(value) for _, module in system.routers(changed) for value in module.parameters()}
    matrices = [value for name, value in changed.named_parameters() if value.dim() == 2 and "attn" in name]
    moved = next(value for value in matrices if id(value) not in routers)
    with torch.no_grad():
        moved.add_(0.1 * moved.std() * torch.randn(moved.shape, generator=torch.Generator().manual_seed(0)))
    require(_refused(changed, trace), "a trace was replayed by a model with other weights")


@check("OKR-REPLAY-003")
def the_same_model_in_bfloat16_is_none_other(subject: Subject) -> None:
    import torch

    from .. import system

    rounded = system.copied(system.softmax_model()).to(torch.bfloat16)
    require(not _refused(rounded, system.traces(0)[0]), "a copy in bfloat16 was taken for another model")


@check("OKR-REPLAY-004")
def replay_leaves_no_mark(subject: Subject) -> None:
    from .. import system

    evidence = [*(system.traces(index)[0] for index in range(3)), system.capacity_traces()[0]]
    for model, trace in zip(system.new_models(), evidence, strict=True):
        system.logits(model)  # a first call may set attributes
        for training in (False, True):
            model.train(training)
            try:
                before = system.fingerprint(model)
                replayed_scores(model, trace)
                changed = system.differences(before, system.fingerprint(model))
            finally:
                model.eval()
            require(not changed, "a replay changed the model", expected="nothing changed", got=changed)
