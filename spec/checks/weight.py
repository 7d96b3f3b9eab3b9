"""Chapter WEIGHT, and the attached router as an implementation of the algorithm."""

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from .. import oracle
from ..cases import Setting
from ..subject import Subject
from ..verdicts import require
from . import check


@check("OKR-WEIGHT-001")
def native_selection_gives_native_output(subject: Subject) -> None:
    import torch

    from .. import system
    from ..system import okr

    for model in system.every_model():
        with system.outputs_of(model) as before:
            plain = system.logits(model)
        with okr.watermark(model, system.key(), epsilon=0.0, zone="boundary"), system.outputs_of(model) as after:
            keyed = system.logits(model)
        for path, calls in before.items():
            for (_, one), (_, other) in zip(calls, after[path], strict=True):
                same = all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
                require(same, f"{path}: epsilon = 0 changes what the router gives", expected=one, got=other)
        require(torch.equal(plain, keyed), f"{type(model).__name__}: epsilon = 0 changes the logits")


@check("OKR-WEIGHT-002")
def selected_experts_weigh_by_the_family_formula(subject: Subject) -> None:
    """Recomputed from the router's own published parameters, for two softmax families and a sigmoid one."""
    import torch

    from .. import system
    from ..system import okr

    for model, formula in zip(system.models(), _FORMULAS, strict=True):
        with (
            okr.watermark(model, system.key(), epsilon=system.epsilon_of(model), zone="boundary"),
            system.outputs_of(model) as seen,
        ):
            system.logits(model)
        for site, module in system.routers(model):
            hidden, (_, weights, experts) = seen[site.path][0]
            expected = formula(model, module, hidden.reshape(-1, site.hidden_size), experts)
            require(
                torch.allclose(weights.float(), expected.float(), rtol=1e-5, atol=1e-6),
                f"{site.path}: weights differ from the family's formula",
                expected=expected[0].tolist(),
                got=weights[0].tolist(),
            )


def _softmax_weights(model: Any, module: Any, hidden: Any, experts: Any) -> Any:
    chosen = (hidden @ module.weight.T).softmax(-1).gather(-1, experts)
    return chosen / chosen.sum(-1, keepdim=True)


def _sigmoid_weights(model: Any, module: Any, hidden: Any, experts: Any) -> Any:
    chosen = (hidden.float() @ module.weight.T.float()).sigmoid().gather(-1, experts)
    return chosen / (chosen.sum(-1, keepdim=True) + 1e-20) * model.config.routed_scaling_factor


def _scaled_weights(model: Any, module: Any, hidden: Any, experts: Any) -> Any:
    chosen = (hidden.float() @ module.weight.T.float()).softmax(-1).gather(-1, experts)
    return chosen * model.config.routed_scaling_factor


_FORMULAS = (_softmax_weights, _sigmoid_weights, _scaled_weights)
_SETTINGS = st.builds(
    Setting,
    top_k=st.just(0),
    epsilon=st.sampled_from((0.0, 0.1, 0.5, 1.0, 2.0, float("inf"))),
    zone=st.sampled_from(("max", "boundary")),
    strength=st.sampled_from((float("inf"), 0.1, 1.0)),
)


@check("OKR-WEIGHT-003", lambda: st.tuples(st.sampled_from((0, 1, 2)), _SETTINGS, st.integers(0, 1000)), share=0.2)
def attached_selection_is_legal(subject: Subject, drawn: tuple[int, Setting, int]) -> None:
    """Six tokens at once and one alone, with choice scores as the family computes them.

    Scores closer than 1e-5 to each other's order stay open.
    """
    from .. import system

    index, setting, seed = drawn
    prompts = [system.tokens(1, 6, seed), system.tokens(1, 1, seed)]
    _all_legal(index, setting, lambda model: [system.logits(model, prompt) for prompt in prompts])


@check("OKR-WEIGHT-003")
def attached_selection_is_legal_throughout(subject: Subject) -> None:
    """Long prompts in which every token is an opportunity: what goes wrong once in a thousand choices shows."""
    from .. import system

    for index in (0, 1, 2):
        _all_legal(index, Setting(0, float("inf"), "max"), lambda model: system.logits(model, system.tokens(3, 120, 1)))


@check("OKR-WEIGHT-003", lambda: st.tuples(st.sampled_from((0, 1, 2)), _SETTINGS, st.integers(0, 1000)), share=0.2)
def attached_routers_alone_select_legally(subject: Subject, drawn: tuple[int, Setting, int]) -> None:
    """Routers called by themselves, with states of very different lengths: models normalise theirs to one."""
    import torch

    from .. import system

    index, setting, seed = drawn

    def call(model: Any) -> None:
        generator = torch.Generator().manual_seed(seed)
        for site, module in system.routers(model):
            states = torch.randn(12, site.hidden_size, generator=generator)
            states *= torch.empty(12, 1).uniform_(-3, 1, generator=generator).exp()
            for part in (states[:6], states[6:8], *states[8:].split(1)):
                module(part[None])

    _all_legal(index, setting, call)


def _all_legal(index: int, setting: Setting, work: Callable[[Any], object]) -> None:
    """Every selection that the routers of a keyed model make while ``work`` is done with it."""
    import torch

    from .. import system
    from ..system import okr

    model = system.models()[index]
    options: dict[str, Any] = {"epsilon": setting.epsilon, "zone": setting.zone, "strength": setting.strength}
    with torch.no_grad(), okr.watermark(model, system.key(), **options), system.outputs_of(model) as seen:
        work(model)
    for site, module in system.routers(model):
        rows = torch.cat([hidden.reshape(-1, site.hidden_size) for hidden, _ in seen[site.path]])
        experts = torch.cat([output[2] for _, output in seen[site.path]])
        signs = oracle.projection(
            system.SECRET,
            stack=site.stack,
            layer=site.layer,
            hidden_size=site.hidden_size,
            num_experts=site.num_experts,
        )
        choice = choice_scores(index, model, module, rows)
        key, _ = oracle.key_scores(rows.numpy(), signs)
        here = Setting(site.top_k, setting.epsilon, setting.zone, setting.strength)
        for token in range(len(rows)):
            taken = experts[token].tolist()
            fair = legal_nearby(choice[token].tolist(), key[token].tolist(), here, taken)
            require(fair, f"{site.path}, token {token}: illegal selection", got=sorted(taken))


def choice_scores(index: int, model: Any, module: Any, rows: Any) -> Any:
    """c as chapter 0 defines it: log-probabilities, or biased sigmoid scores with the barred groups at -inf."""
    import torch

    logits = rows.float() @ module.weight.T.float()
    if index != 1:
        return logits.log_softmax(-1)
    scores = logits.sigmoid() + module.e_score_correction_bias
    groups = scores.view(len(rows), model.config.n_group, -1)
    best = groups.topk(2, -1).values.sum(-1).topk(model.config.topk_group, -1).indices
    allowed = torch.zeros(groups.shape[:2], dtype=torch.bool).scatter_(1, best, True)
    return groups.masked_fill(~allowed[..., None], -torch.inf).flatten(1)


def legal_nearby(choice: list[float], key: list[float], setting: Setting, taken: list[int]) -> bool:
    """Whether the selection is legal for these scores, or for such as differ from them by rounding.

    Here c and g are recomputed, not given, so each may be off by ``off``. A selection is accepted if raising the
    scores of what was taken, or moving the edges, by that much makes it legal.
    """
    off = 1e-5
    order = sorted(taken, key=lambda e: (-choice[e], e))
    for shift in (0.0, off, -off):
        epsilon = max(0.0, setting.epsilon + shift)
        near = Setting(setting.top_k, epsilon, setting.zone, setting.strength)
        nudged = [g + (off if e in taken else 0.0) for e, g in enumerate(key)]
        for scores in (key, nudged):
            if not oracle.illegal(choice, scores, near, order):
                return True
    return False
