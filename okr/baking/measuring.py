"""Finds the gates of a loaded model and measures what baking must know of them: that each is linear in the router's
input, the mean norm of that input, and the name of its weight in the checkpoint."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from okr.baking.arithmetic import GATE_DTYPES
from okr.baking.checkpoint import Checkpoint
from okr.baking.header import Gate, Gates
from okr.discovery import RouterSite
from okr.engines import Text
from okr.engines.choice import EVERY, Own
from okr.engines.transformers import TransformersEngine
from okr.errors import UnsupportedRouter
from okr.loaders import Loaded, generation_defaults
from okr.loaders.prediction import passage_tokens

log = logging.getLogger("okr")

LINEAR = 0.02  # largest departure from linearity beyond rounding, as a share of the spread of the scores
_KEPT = 256  # tokens of a site on which linearity is tried
_SWEEPS = 200  # alternating means: they converge slowly where most experts are barred


@dataclass
class Seen:
    """What one site showed: ``norms`` of its inputs, and the first inputs and choice scores themselves."""

    norms: list[Tensor] = field(default_factory=list)
    hidden: list[Tensor] = field(default_factory=list)
    choice: list[Tensor] = field(default_factory=list)

    def choose(self, choice: Tensor, hidden: Tensor, native: Own) -> Tensor:
        """The native selection; what was seen is kept."""
        self.norms.append(torch.linalg.vector_norm(hidden.double(), dim=-1).cpu())
        room = _KEPT - sum(map(len, self.hidden))
        self.hidden.append(hidden[:room].double().cpu())
        self.choice.append(choice[:room].double().cpu())
        return native(EVERY)


def texts_of(loaded: Loaded, passages: Sequence[str]) -> list[Text]:
    """``passages`` as texts of a model."""
    found = []
    for passage in passages:
        before, own = passage_tokens(loaded, passage)
        if loaded.model.config.is_encoder_decoder:
            start: int = generation_defaults(loaded.model)["decoder_start_token_id"]
            found.append(Text(torch.tensor([start, *own]), 1, torch.tensor(before)))
        else:
            found.append(Text(torch.tensor([*before, *own]), 1, None))
    return found


def measure(
    engine: TransformersEngine,
    checkpoint: Checkpoint,
    name: str,
    texts: Sequence[Text],
    *,
    advance: Callable[[int], None] = lambda count: None,
) -> Gates:
    """What ``okr bake`` must know of the gates of the model in ``engine``, which was loaded from ``checkpoint``.

    ``texts`` are run natively. ``advance`` is called with 1 after each. Raises UnsupportedRouter as :func:`gates_of`
    does.
    """
    seen = [Seen() for _ in engine.sites]
    with engine.scoring([each.choose for each in seen]) as score:
        for text in texts:
            score(text, 1, 1.0)
            advance(1)
    return gates_of(engine, checkpoint, name, seen)


def gates_of(engine: TransformersEngine, checkpoint: Checkpoint, name: str, seen: Sequence[Seen]) -> Gates:
    """The gates of the model in ``engine``, called ``name``, given what each of its sites showed. Routers that cannot
    be keyed are left out and logged.

    Raises UnsupportedRouter, with the router's name, if a gate never ran, is not linear in its input, is quantised, is
    shared with another router or is not one tensor of ``checkpoint``.
    """
    for site in engine.found:
        if not site.keyable:
            log.warning("%s is left as it is: %s", site.path, site.reason)
    norms = [_norm(site, each) for site, each in zip(engine.sites, seen, strict=True)]
    weights = [_weight(engine.model, site, each) for site, each in zip(engine.routers, seen, strict=True)]
    named = _in_checkpoint(checkpoint, engine.sites, weights)
    return Gates(
        model=name,
        gates=tuple(
            Gate(
                stack=site.stack,
                layer=site.layer,
                num_experts=site.num_experts,
                hidden_size=site.hidden_size,
                tensor=tensor,
                parameter=parameter,
                norm=norm,
                sha256=hashlib.sha256(checkpoint.raw(tensor)).hexdigest(),
            )
            for site, norm, (parameter, _), tensor in zip(engine.sites, norms, weights, named, strict=True)
        ),
    )


def _norm(site: RouterSite, seen: Seen) -> float:
    """The mean norm of a site's inputs."""
    if not seen.norms:
        raise UnsupportedRouter(f"{site.path} cannot be baked: it never ran, so its input is not known")
    norm = float(torch.cat(seen.norms).mean())
    if not 0 < norm < float("inf"):
        raise UnsupportedRouter(f"{site.path} cannot be baked: the mean norm of its input is {norm}")
    return norm


def _weight(model: nn.Module, site: RouterSite, seen: Seen) -> tuple[str, Tensor]:
    """The name and the value of the parameter that gives a site's logits, [E, d]."""
    hidden, choice = torch.cat(seen.hidden), torch.cat(seen.choice)
    prefix = f"{site.path}." if site.path else ""
    shape, looked = (site.num_experts, site.hidden_size), []
    for name, parameter in model.get_submodule(site.path).named_parameters():
        if tuple(parameter.shape) == shape and parameter.is_floating_point():
            looked.append(name)
            if parameter.is_meta:
                raise UnsupportedRouter(f"{site.path}: its weight {name} is not in memory: give --max-memory more")
            value = parameter.detach().cpu()
            if departure(choice, hidden @ value.double().t(), torch.finfo(value.dtype).eps) < LINEAR:
                return prefix + name, value
    why = f"its scores do not follow from its input times {' or '.join(looked)}"
    why = why if looked else f"none of its weights is [{site.num_experts}, {site.hidden_size}]"
    raise UnsupportedRouter(f"{site.path} ({site.router_class}) cannot be baked: {why}")


def departure(
    choice: Float[Tensor, "tokens experts"], logits: Float[Tensor, "tokens experts"], rounding: float = 0.0
) -> float:
    """How far choice scores are from a function of ``logits`` that families use: the logits, their softmax, their
    sigmoid or the root of their softplus, each with a bias for every expert.

    It is the largest difference over the spread of the scores, beyond a relative ``rounding`` of the logits.
    """
    forms = (logits, logits.softmax(-1), logits.sigmoid(), softplus(logits).sqrt())
    return min(_apart(choice, form, rounding * (1 + logits.abs())) for form in forms)


def _apart(choice: Tensor, form: Tensor, slack: Tensor) -> float:
    """The largest entry of choice - form that is neither a constant of its token nor of its expert, relatively."""
    barred = ~choice.isfinite()
    rest = (choice - form).masked_fill(barred, torch.nan)
    for _ in range(_SWEEPS):
        rest = rest - rest.nanmean(0, keepdim=True)
        rest = rest - rest.nanmean(1, keepdim=True)
    beyond = (rest.abs() - slack).clamp_min(0.0).nan_to_num(0.0).max()
    return float(beyond / form.std(dim=-1).mean().clamp_min(1e-9))


def _in_checkpoint(
    checkpoint: Checkpoint, sites: Sequence[RouterSite], weights: Sequence[tuple[str, Tensor]]
) -> list[str]:
    """The tensor of the checkpoint that holds each weight, known by its values."""
    shapes = {(site.num_experts, site.hidden_size) for site in sites}
    candidates = {
        name: checkpoint.tensor(name)
        for name, stored in checkpoint.tensors.items()
        if stored.shape in shapes and stored.dtype in GATE_DTYPES
    }
    found: list[str] = []
    for site, (parameter, value) in zip(sites, weights, strict=True):
        alike = [
            name
            for name, tensor in candidates.items()
            if tensor.shape == value.shape and torch.equal(tensor.to(value.dtype), value)
        ]
        if not alike:
            raise UnsupportedRouter(
                f"{site.path}: no float tensor of the checkpoint holds its weight {parameter}: quantised gates, and "
                "checkpoints that store gates otherwise, cannot be baked"
            )
        if len(alike) > 1 or alike[0] in found:
            raise UnsupportedRouter(f"{site.path}: {alike[0]} and another gate are the same, so a key cannot part them")
        found += alike
    return found
