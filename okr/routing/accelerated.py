"""Keyed routing on a card by the kernels of :mod:`okr.routing.triton_kernels`, wherever they are proven.

A proof runs once in a process for each device, dtype, shape and setting, when a watermark is attached. It compiles the
kernels on the way, so that nothing compiles or waits for the device while the model runs. torch's own operations do
the work in four cases: there is no Triton; there is no card that it serves; there are more experts than it serves; a
kernel fails or gives another answer. They also do it under torch.compile, which makes kernels of its own.
"""

import importlib.util
import logging
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int8, Int64
from torch import Tensor
from torch.nn.functional import linear

from okr.routing.precision import autocast
from okr.routing.scores import key_scores
from okr.routing.selection import route

log = logging.getLogger("okr")

OLDEST = (8, 0)
"""The compute capability from which cards multiply bfloat16, the dtype that the kernels are made for."""

_SCORES = (torch.float32, torch.bfloat16, torch.float16)
_COUNTS = (1, 16, 100, 2049)  # tokens of a proof: every tile of the kernels


def kernels_on(device: torch.device) -> Any:
    """The module of kernels, or None if they cannot run on ``device``."""
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return None
    if torch.version.hip is None and torch.cuda.get_device_capability(device) < OLDEST:
        return None
    from okr.routing import triton_kernels

    return triton_kernels


@dataclass(frozen=True)
class Rule:
    """How a key decides at one site, in numbers by which a proof is stored. ``log``: the family ranks probabilities."""

    top_k: int
    epsilon: float
    zone: str
    strength: float
    log: bool

    def setting(self) -> dict[str, Any]:
        """The keyword arguments of :func:`okr.routing.selection.route`."""
        return {"top_k": self.top_k, "epsilon": self.epsilon, "zone": self.zone, "strength": self.strength}


class Accelerated:
    """One keyed site on one card: the key's signs there, and what was proven. T tokens, E experts, k kept, d numbers
    each."""

    def __init__(
        self, kernels: Any, signs: Int8[Tensor, "hidden_size experts"], rule: Rule, dtype: torch.dtype
    ) -> None:
        self.kernels, self.signs, self.rule = kernels, signs, rule
        self.dtype = dtype  # of the states for which the kernels are proven
        self.arguments = rule.setting() | {"log": rule.log}
        self.joint: frozenset[torch.dtype] = frozenset()

    def serves(self, scores: Tensor) -> bool:
        """Whether the kernels can take these scores [T, E]."""
        return (
            scores.device == self.signs.device
            and scores.dtype in _SCORES
            and type(scores) is Tensor
            and not torch.compiler.is_compiling()
        )

    def serves_gate(self, hidden: Tensor, weight: Tensor, dtype: torch.dtype) -> bool:
        """Whether the joint product gives the bits of the family's own product, as far as was proven. That product is
        ``linear`` in ``dtype`` of states [T, d] and a gate's weight [E, d]."""
        return (
            dtype in self.joint
            and hidden.dtype == weight.dtype
            and hidden.device == weight.device == self.signs.device
            and not torch.is_grad_enabled()  # the joint product has no gradient
            and not torch.is_autocast_enabled(hidden.device.type)
            and not torch.compiler.is_compiling()
        )

    def gate(self, hidden: Tensor, weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The gate's logits in ``dtype`` and the key scores, both [T, E]. The states are read once for both."""
        with torch.cuda.device_of(hidden):
            keys, logits = self.kernels.products(hidden, self.signs, weight.contiguous(), dtype)
        return logits, keys

    def key_scores(self, hidden: Tensor) -> Float[Tensor, "tokens experts"]:
        """The key scores [T, E] of states [T, d]. Under autocast the states may have another dtype than the proof's."""
        if self.dtype == torch.float32:
            hidden = hidden.float()  # which holds 16 bits exactly
        elif hidden.dtype != self.dtype:
            return key_scores(hidden, self.signs.float())
        keys: Tensor = self.kernels.products(hidden, self.signs)[0]
        return keys

    def choose(
        self, scores: Tensor, hidden: Tensor, native: Tensor, keys: Tensor | None = None
    ) -> tuple[Int64[Tensor, "tokens top_k"], Float[Tensor, "tokens top_k"]]:
        """The experts that run [T, k] and their scores [T, k]. ``keys`` are the key scores, if they are known."""
        with torch.cuda.device_of(scores):
            if keys is None:
                keys = self.key_scores(hidden)
            answer: tuple[Tensor, Tensor] = self.kernels.choose(scores, keys, native, **self.arguments)
        return answer


def accelerate(
    signs: Int8[Tensor, "hidden_size experts"], rule: Rule, device: torch.device, dtype: torch.dtype
) -> Accelerated | None:
    """The kernels for a site whose states have ``dtype`` on ``device``, or None if they are not proven there.
    ``signs`` is the key's projection."""
    kernels = kernels_on(device)
    if kernels is None or signs.shape[1] > kernels.MOST_EXPERTS:
        return None
    with autocast(device.type, None):  # proofs are kept, so they must not depend on what happens to hold now
        if not _proven(device, dtype, signs.shape, rule):
            return None
        made = Accelerated(kernels, signs.to(device), rule, dtype)
        precision = torch.get_float32_matmul_precision()
        made.joint = frozenset(
            out for out in {torch.float32, dtype} if _joint_proven(device, dtype, out, signs.shape, precision)
        )
    return made


def _sample(shape: torch.Size, tokens: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Random states [tokens, d], signs [d, E] and a gate's weight [E, d]; the same at every call."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, shape[0], generator=generator).to(device, dtype)
    signs = torch.randint(0, 2, tuple(shape), generator=generator, dtype=torch.int8) * 2 - 1
    weight = torch.randn(shape[1], shape[0], generator=generator).mul_(shape[0] ** -0.5).to(device, dtype)
    return hidden, signs.to(device), weight


@cache
@torch.no_grad()
def _proven(device: torch.device, dtype: torch.dtype, shape: torch.Size, rule: Rule) -> bool:
    """Whether the kernels answer on ``device`` as torch's operations do. Key scores must agree to within
    OKR-SCORE-001. The selections of 64 tokens must agree in all but one, which rounding may change (the logarithm, or
    the sum of a finite strength)."""
    try:
        hidden, signs, weight = _sample(shape, _COUNTS[-1], device, dtype)
        made, states = Accelerated(kernels_on(device), signs, rule, dtype), hidden.double()
        exact = key_scores(states, signs.double())
        slack = (2 * shape[0] + 16) * 2.0**-24 * states.abs().sum(-1, keepdim=True) / states.norm(dim=-1, keepdim=True)
        for count in _COUNTS:
            keys = made.kernels.products(hidden[:count], signs)[0]
            if not bool(((keys - exact[:count]).abs() <= slack[:count]).all()):
                raise ArithmeticError("a key score is wrong")
        logits = linear(hidden[:64].float(), weight.float())
        scores, choice = (logits.softmax(-1), logits.log_softmax(-1)) if rule.log else (logits, logits)
        native, keys = scores.topk(rule.top_k).indices, exact[:64].float()
        expected = route(choice, keys, native, **rule.setting())[0]
        chosen, paid = made.choose(scores, hidden[:64], native, keys)
        if int((chosen != expected).any(-1).sum()) > 1 or not torch.equal(paid, scores.gather(-1, chosen)):
            raise ArithmeticError("a selection is not torch's")
    except Exception as error:  # whatever a compiler, a driver or a card may have against it
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        log.info("the Triton kernels are not used for %d experts of %d on %s: %s", shape[1], shape[0], device, reason)
        return False
    return True


@cache
@torch.no_grad()
def _joint_proven(
    device: torch.device, dtype: torch.dtype, out: torch.dtype, shape: torch.Size, precision: str
) -> bool:
    """Whether the joint kernel gives the bits of the family's own product in ``out``, for several numbers of tokens,
    under torch's current float32 ``precision``.

    An attached router must not change a bit where the key decides nothing (OKR-WEIGHT-001), and a matrix library that
    adds in another order does. The kernel is used only if thousands of products in each of several shapes agree.
    """
    try:
        hidden, signs, weight = _sample(shape, _COUNTS[-1], device, dtype)
        made = kernels_on(device)
        return all(
            torch.equal(
                made.products(hidden[:count], signs, weight, out)[1], linear(hidden[:count].to(out), weight.to(out))
            )
            for count in _COUNTS
        )
    except Exception as error:
        log.info("the joint kernel is not used on %s: %s", device, type(error).__name__)
        return False
