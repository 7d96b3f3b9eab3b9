"""OKR's router in JAX, written from spec/text alone. Judge it: ``okr conform examples/ports/jax_router.py:Router``."""

import hashlib
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

BIG = float(jnp.finfo(jnp.float32).max)


class Selection(NamedTuple):
    """indices integers [T, k]; opportunity booleans [T]; pool and locked booleans [T, E]."""

    indices: jax.Array
    opportunity: jax.Array
    pool: jax.Array
    locked: jax.Array


def projection(secret, *, stack, layer, hidden_size, num_experts):
    """Once for each site, so it stays on the host."""
    if not 16 <= len(secret) < 65536:
        raise ValueError("a secret has 16 to 65535 bytes")
    numbers = b"".join(n.to_bytes(4, "big") for n in (layer, hidden_size, num_experts))
    header = b"OKR-v1\0" + len(secret).to_bytes(2, "big") + secret + stack.encode() + b"\0" + numbers
    size = hidden_size * num_experts
    stream = np.frombuffer(hashlib.shake_256(header).digest(-(-size // 8)), np.uint8)
    bits = np.unpackbits(stream, count=size)  # the most significant bit first, no padding between rows (KEY-003)
    return (2 * bits.astype(np.int8) - 1).reshape(hidden_size, num_experts)


@jax.jit
def scores(hidden, signs):
    norm = jnp.linalg.norm(hidden, axis=1, keepdims=True)
    unit = hidden / jnp.where(norm == 0, 1, norm)  # 0/0 raises nothing: it is NaN (SCORE-002)
    # By default a TPU multiplies float32 matrices in bfloat16, and a GPU in TF32 (SCORE-004).
    return jnp.matmul(unit, signs.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)


def rows(values):
    """Rows of zeros up to 8, 16, 32, ...: jit compiles anew for every shape, and batches have any length."""
    return np.pad(values, ((0, (1 << max(len(values) - 1, 7).bit_length()) - len(values)), (0, 0)))


def key_scores(hidden, projection):
    """float32 [T, E]."""
    return np.asarray(scores(rows(hidden), projection))[: len(hidden)]


def descending(values):
    """Indices of the largest first, ties to the lower index (TIE-002). jax.lax.top_k ranks +0 above -0 (TIE-004)."""
    return jnp.argsort(-values, axis=1, stable=True)


@jax.jit  # the settings are traced: one program serves them all, and no Python branch may depend on them
def route(c, g, top_k, epsilon, boundary, strength):
    experts = jnp.arange(c.shape[1])
    order = descending(c)  # NaN comes last, so even an unsound token has k distinct experts (FAIL-001)
    candidate = c > -jnp.inf
    # NaN compares false with everything: asked for, not excluded, what is sound (FAIL-001 to 004).
    sound = (c < jnp.inf).all(axis=1) & (candidate.sum(axis=1) >= top_k) & jnp.isfinite(g).all(axis=1)

    # An index beyond the end is clamped without an error; where k = E the (k+1)-th score is this last -inf (ZONE-008).
    ranked = jnp.pad(jnp.take_along_axis(c, order, axis=1), ((0, 0), (0, 1)), constant_values=-jnp.inf)
    best, last, out = ranked[:, :1], ranked[:, top_k - 1, None], ranked[:, top_k, None]
    locked = boundary & candidate & (c > out + epsilon)  # -inf + inf is NaN: nothing is locked (ZONE-009)
    pool = candidate & ~locked & (c >= jnp.where(boundary, last, best) - epsilon)
    free = top_k - locked.sum(axis=1, keepdims=True)
    opportunity = sound[:, None] & (pool.sum(axis=1, keepdims=True) > free) & (free > 0)
    pool, locked = pool & opportunity, locked & opportunity

    # inf * 0 is NaN, but jnp.where takes it for no token. The clip keeps an overflow above those outside (STR-005).
    preference = jnp.where(strength == jnp.inf, g, jnp.clip(c + strength * g, -BIG, BIG))
    place = jnp.argsort(descending(jnp.where(pool, preference, -jnp.inf)), axis=1)  # 0 for the preferred
    chosen = locked | (pool & (place < free))
    keyed = jnp.argsort(jnp.where(chosen, -c, jnp.inf), axis=1, stable=True)
    # Shapes cannot depend on top_k, which is traced: the host cuts the k experts off.
    indices = jnp.where(opportunity, keyed, order).astype(experts.dtype)
    return Selection(indices, opportunity[:, 0], pool, locked)


def select(choice, key_scores, *, top_k, epsilon, zone, strength):
    """Selection. Settings are checked here: a traced number cannot raise (ZONE-001)."""
    if not (1 <= top_k <= choice.shape[1] and epsilon >= 0 and strength > 0 and zone in ("max", "boundary")):
        raise ValueError("setting out of range")
    finite = strength if strength == math.inf else min(strength, BIG)  # 1e39 would become inf in float32
    answer = route(rows(choice), rows(key_scores), top_k, min(epsilon, math.inf), zone == "boundary", finite)
    tokens = len(choice)
    return Selection(*(np.asarray(part)[:tokens] for part in answer))._replace(
        indices=np.asarray(answer.indices)[:tokens, :top_k]
    )


class Router:
    name = "jax"
    projection, key_scores, select = map(staticmethod, (projection, key_scores, select))
