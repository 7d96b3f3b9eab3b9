# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""Keyed routing as two Triton kernels: one makes the products with a router's input, the other everything that
follows.

Triton compiles them for the card at hand. With TRITON_INTERPRET=1 set before this module is imported, it runs them in
NumPy on the CPU; that is slow, and it is how they are tested without a card. :mod:`okr.routing.accelerated` decides
when they are used. Nothing here waits for the device.

``_products`` reads the router's input once for the key's product, its norm and, on request, the gate's product.
``_choose`` runs one program for each token. Experts are few (at most MOST_EXPERTS), so every place in an order is
counted over all pairs. That takes one comparison for each pair and no sorting, and the comparison gives ties to the
lower index.
"""

import math
import os

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Float32, Int8, Int64
from torch import Tensor

from okr.routing.scores import TINY

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
MOST_EXPERTS = 256
_FEW = 16  # up to as many tokens the experts are spread over programs: one program could not read fast enough
_MANY = 2048  # from as many tokens larger tiles still fill a card, and read the signs less often
_INFINITY = tl.constexpr(math.inf)
_LARGEST = tl.constexpr(torch.finfo(torch.float32).max)
_TINY = tl.constexpr(TINY)


@triton.jit(do_not_specialize=["tokens"])
def _products(
    hidden, signs, weight, keys, logits, tokens, size: tl.constexpr, experts: tl.constexpr, width: tl.constexpr,
    rows: tl.constexpr, depth: tl.constexpr, wide: tl.constexpr, gated: tl.constexpr,
):  # fmt: skip
    """Compute keys = (hidden . signs) / ||hidden|| and, if ``gated``, logits = hidden . weight^T, for a tile [rows,
    width].

    With ``wide`` it multiplies in float32. Otherwise it multiplies 16-bit numbers as they are: a product with +1 or -1
    is exact, and sums are float32 either way (OKR-SCORE-004).
    """
    token = (tl.program_id(0) * rows + tl.arange(0, rows)).to(tl.int64)
    expert = tl.program_id(1) * width + tl.arange(0, width)
    here, real = token < tokens, expert < experts
    key = tl.zeros((rows, width), tl.float32)
    gate = tl.zeros((rows, width), tl.float32)
    squares = tl.zeros((rows,), tl.float32)
    for start in range(0, size, depth):
        place = start + tl.arange(0, depth)
        inside = place < size
        states = tl.load(
            hidden + token[:, None] * size + place[None, :], mask=here[:, None] & inside[None, :], other=0.0
        )
        if wide:
            states = states.to(tl.float32)
        known = inside[:, None] & real[None, :]
        sign = tl.load(signs + place[:, None] * experts + expert[None, :], mask=known, other=0)
        key = tl.dot(states, sign.to(states.dtype), key, input_precision="ieee")
        if gated:
            row = tl.load(weight + expert[None, :] * size + place[:, None], mask=known, other=0.0)
            gate = tl.dot(states, row.to(states.dtype), gate, input_precision="ieee")
        exact = states.to(tl.float32)
        squares += tl.sum(exact * exact, 1)
    norm = tl.maximum(tl.sqrt_rn(squares), _TINY)  # h = 0 gives g = 0 (OKR-SCORE-002)
    out = token[:, None] * experts + expert[None, :]
    known = here[:, None] & real[None, :]
    tl.store(keys + out, tl.div_rn(key, tl.broadcast_to(norm[:, None], (rows, width))), mask=known)
    if gated:
        tl.store(logits + out, gate.to(logits.dtype.element_ty), mask=known)


@triton.jit
def _choose(
    scores, keys, native, chosen, paid, epsilon, strength, experts: tl.constexpr, top_k: tl.constexpr,
    width: tl.constexpr, padded: tl.constexpr, log: tl.constexpr, boundary: tl.constexpr, soft: tl.constexpr,
):  # fmt: skip
    """Find one token's zone, the selection in descending order of choice score, and the selected scores."""
    row = tl.program_id(0).to(tl.int64)
    expert = tl.arange(0, width)
    real = expert < experts
    score = tl.load(scores + row * experts + expert, mask=real, other=0.0).to(tl.float32)
    key = tl.load(keys + row * experts + expert, mask=real, other=0.0)
    choice = score
    if log:
        choice = tl.log(choice)
    choice = tl.where(real, choice, -_INFINITY)
    sound = (choice < _INFINITY) & (tl.abs(key) < _INFINITY)  # false for NaN (chapter FAIL)
    earlier = expert[None, :] < expert[:, None]
    ahead = (choice[None, :] > choice[:, None]) | ((choice[None, :] == choice[:, None]) & earlier)  # column before row

    reach = tl.full((), epsilon, tl.float32)
    if boundary:  # chapter ZONE
        place = tl.sum(ahead.to(tl.int32), 1)
        leads = choice > tl.max(tl.where(place == top_k, choice, -_INFINITY), 0) + reach
        edge = tl.max(tl.where(place == top_k - 1, choice, -_INFINITY), 0) - reach
    else:
        leads = choice > _INFINITY
        edge = tl.max(choice, 0) - reach
    pool = (choice >= tl.maximum(edge, -_LARGEST)) & (leads == 0)  # an edge of -inf would let barred experts in
    free = top_k - tl.sum(leads.to(tl.int32), 0)
    contested = (tl.sum(pool.to(tl.int32), 0) > free) & (free > 0) & (tl.min(sound.to(tl.int32), 0) == 1)

    preference = key
    if soft:  # chapter STR; an overflowed sum ranks anywhere in the pool
        preference = choice + tl.full((), strength, tl.float32) * key
        preference = tl.minimum(tl.maximum(preference, -_LARGEST), _LARGEST)
    better = preference[None, :] > preference[:, None]
    better = (better | ((preference[None, :] == preference[:, None]) & earlier)) & pool[None, :]
    takes = leads | (pool & (tl.sum(better.to(tl.int32), 1) < free))

    slot = tl.sum((ahead & takes[None, :]).to(tl.int32), 1)
    mask = takes & contested
    tl.store(chosen + row * top_k + slot, expert.to(tl.int64), mask=mask)
    tl.store(paid + row * top_k + slot, score.to(paid.dtype.element_ty), mask=mask)
    kept = tl.arange(0, padded)
    left = (kept < top_k) & (contested == 0)  # no opportunity: the native selection, in its own order
    own = tl.load(native + row * top_k + kept, mask=left, other=0)
    weight = tl.load(scores + row * experts + own, mask=left, other=0.0)
    tl.store(chosen + row * top_k + kept, own, mask=left)
    tl.store(paid + row * top_k + kept, weight, mask=left)


def _tile(tokens: int, experts: int, wide: bool) -> dict[str, int]:
    """How many tokens, experts and components a program takes at once. ``depth`` orders the sums and depends on the
    dtype alone. ptxas compiles these sizes for sm_80 and sm_90 without spilling registers."""
    rows = 16 if tokens <= _MANY else 64
    width = 16 if tokens <= _FEW else min(max(16, triton.next_power_of_2(experts)), 64 if wide else 128)
    return {"rows": rows, "width": width, "depth": 16 if wide else 64, "num_warps": 8 if rows * width > 2048 else 4}


def products(
    hidden: Float[Tensor, "tokens hidden_size"],
    signs: Int8[Tensor, "hidden_size experts"],
    weight: Float[Tensor, "experts hidden_size"] | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Float32[Tensor, "tokens experts"], Float[Tensor, "tokens experts"] | None]:
    """The key scores [tokens, experts] of router inputs under +1/-1 signs, to within OKR-SCORE-001.

    With a gate's ``weight``, which has the dtype of the inputs, also the gate's logits in ``dtype``, summed in
    float32; None without.
    """
    hidden, (tokens, size), experts = hidden.contiguous(), hidden.shape, signs.shape[1]
    keys = torch.empty(tokens, experts, dtype=torch.float32, device=hidden.device)
    logits = None if weight is None else torch.empty(tokens, experts, dtype=dtype, device=hidden.device)
    if tokens:
        wide = INTERPRETED or hidden.element_size() != 2
        tile = _tile(tokens, experts, wide)
        _products[(triton.cdiv(tokens, tile["rows"]), triton.cdiv(experts, tile["width"]))](
            hidden, signs, signs if weight is None else weight, keys, keys if logits is None else logits, tokens,
            size=size, experts=experts, wide=wide, gated=weight is not None, **tile,
        )  # fmt: skip
    return keys, logits


def choose(
    scores: Float[Tensor, "tokens experts"],
    keys: Float32[Tensor, "tokens experts"],
    native: Int64[Tensor, "tokens top_k"],
    *,
    log: bool,
    top_k: int,
    epsilon: float,
    zone: str,
    strength: float,
) -> tuple[Int64[Tensor, "tokens top_k"], Float[Tensor, "tokens top_k"]]:
    """The experts that run [tokens, top_k], as :func:`okr.routing.selection.route` selects them, and their scores.

    ``scores`` are what the family ranks, of 32 bits at most; with ``log`` the choice scores are their logarithms.
    ``native`` is the family's own choice. There are at most MOST_EXPERTS experts.
    """
    tokens, experts = scores.shape
    scores, keys, native = scores.contiguous(), keys.contiguous(), native.contiguous()
    chosen, paid = torch.empty_like(native), torch.empty_like(native, dtype=scores.dtype)
    if tokens:
        width = max(16, triton.next_power_of_2(experts))
        _choose[(tokens,)](
            scores, keys, native, chosen, paid, float(epsilon), min(float(strength), _LARGEST.value),
            experts=experts, top_k=top_k, width=width, padded=triton.next_power_of_2(top_k), log=log,
            boundary=zone == "boundary" and epsilon < math.inf and top_k < experts, soft=strength < math.inf,
            num_warps=max(1, width // 32),
        )  # fmt: skip
    return chosen, paid
