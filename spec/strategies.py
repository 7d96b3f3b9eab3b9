"""Generators of cases. Small ones shrink; wide ones come from a seed. test_strategies states what they must produce."""

import math
from functools import cache, lru_cache
from typing import Any

import numpy as np
from hypothesis import strategies as st

from .cases import EvidenceCase, FloatArray, ProjectionCase, Routed, ScoreCase, SelectCase, Setting

EPSILONS = (0.0, math.inf, 0.5, 0.25, 1.0, 2.0, 0.1)  # 0.1 is no float32 number
STRENGTHS = (math.inf, 1.0, 0.5, 2.0, 0.25, 3.0, 0.1, 1e-3, 1e3)
ZONES = ("max", "boundary")
LONG = 307  # tokens of a long batch; a prime, so that no chunk of a power of two that is out of place looks the same
Draw = st.DrawFn


def bfloat16(values: Any) -> FloatArray:
    """Rounded to nearest even bfloat16, as float32. Finite input."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32)


def step(value: float, ulps: int) -> float:
    """The float32 number ``ulps`` places above ``value``."""
    result = np.float32(value)
    for _ in range(abs(ulps)):
        result = np.nextafter(result, np.float32(math.copysign(math.inf, ulps)))
    return float(result)


def _normal(value: float) -> float:
    """Without subnormal numbers, which may be flushed to zero; as a float32 number."""
    rounded = float(np.float32(value))
    return 0.0 if abs(rounded) < 2.0**-126 else rounded


@cache  # Hypothesis examines a strategy when it first draws from it
def grid() -> st.SearchStrategy[float]:
    """Multiples of 1/2 in [-3, 3]: many exact ties. Both zeros."""
    return st.one_of(st.integers(-6, 6).map(lambda n: n / 2), st.just(-0.0))


@lru_cache(64)
def scores(anchors: tuple[float, ...] = ()) -> st.SearchStrategy[st.SearchStrategy[float]]:
    """Styles of finite score: ties, neighbours of anchors, bfloat16, any float32."""
    near = st.builds(step, st.sampled_from((*anchors, *anchors, 1.0, 0.0)), st.integers(-2, 2)).map(_normal)
    return st.sampled_from([grid(), near, st.one_of(near, grid()), _rough(), _fine()])


@cache
def _rough() -> st.SearchStrategy[float]:
    return st.floats(-8, 8, width=32).map(lambda v: _normal(float(bfloat16([v])[0])))


@cache
def _fine() -> st.SearchStrategy[float]:
    return st.floats(-50, 50, width=32).map(_normal)


@st.composite
def settings(
    draw: Draw, experts: int, *, zone: str | None = None, strength: float | str | None = None, top_k: int | None = None
) -> Setting:
    """A setting for E experts. ``strength``: a number, "finite", or None for any."""
    choices = [s for s in STRENGTHS if math.isfinite(s)] if strength == "finite" else STRENGTHS
    return Setting(
        top_k=draw(st.integers(1, experts)) if top_k is None else min(top_k, experts),
        epsilon=draw(st.one_of(st.sampled_from(EPSILONS), st.floats(0, 8))),
        zone=draw(st.sampled_from(ZONES)) if zone is None else zone,
        strength=draw(st.sampled_from(choices)) if not isinstance(strength, float) else strength,
    )


@st.composite
def small(
    draw: Draw,
    /,
    *,
    experts: tuple[int, int] = (1, 8),
    tokens: tuple[int, int] = (1, 3),
    barred: bool = True,
    **options: Any,
) -> SelectCase:
    """A sound case that shrinks: scores finite, or -inf where barred."""
    count = draw(st.integers(*experts), label="experts")
    length = draw(st.integers(*tokens), label="tokens")
    setting = draw(settings(count, **options), label="setting")
    shift = setting.epsilon if math.isfinite(setting.epsilon) else 0.0
    style = draw(scores((2.0, 2.0 - shift, 2.0 + shift)), label="choice style")
    if barred and draw(st.booleans(), label="some barred"):
        style = st.one_of(style, style, st.just(-math.inf))
    key_style = draw(scores(), label="key style")
    size = count * length
    choice = draw(st.lists(style, min_size=size, max_size=size), label="choice")
    key = draw(st.lists(key_style, min_size=size, max_size=size), label="key")
    return SelectCase(_rows(choice, length, count), _rows(key, length, count), setting)


@st.composite
def wide(draw: Draw, /, *, tokens: tuple[int, int] = (1, 3), **options: Any) -> SelectCase:
    """A case with up to 256 experts, drawn from a seed; float32 or bfloat16 numbers; some experts barred in groups."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1), label="seed"))
    count = draw(st.sampled_from((64, 128, 256, 32, 16)), label="experts")
    length = draw(st.integers(*tokens), label="tokens")
    setting = draw(settings(count, top_k=draw(st.integers(1, 8)), **options), label="setting")
    choice = rng.normal(0, 2, (length, count)).astype(np.float32)
    key = rng.normal(0, 1, (length, count)).astype(np.float32)
    if draw(st.booleans(), label="bfloat16"):
        choice, key = bfloat16(choice), bfloat16(key)
    if draw(st.booleans(), label="groups barred"):
        groups = rng.random((length, 8)) < 0.5
        choice[np.repeat(groups, count // 8, axis=1)] = -np.inf
    return SelectCase(choice, key, setting)


def cases(**options: Any) -> st.SearchStrategy[SelectCase]:
    """Small cases and wide ones. ``options`` as for ``settings``."""
    return st.one_of(small(**options), wide(**options), wide(**options))


@st.composite
def distinct(
    draw: Draw, /, *, experts: tuple[int, int] = (1, 8), tokens: tuple[int, int] = (1, 3), **options: Any
) -> SelectCase:
    """A small case whose choice and key scores are pairwise different in each row and clear of every edge by 1/8."""
    count = draw(st.integers(*experts), label="experts")
    length = draw(st.integers(*tokens), label="tokens")
    setting = draw(settings(count, **options), label="setting")
    narrow = draw(st.one_of(st.none(), st.integers(0, 7)), label="narrow zone")  # most others hold every expert
    epsilon = math.floor(setting.epsilon * 4) / 4 if math.isfinite(setting.epsilon) else math.inf
    epsilon = 0.125 + (epsilon if narrow is None else narrow / 4)
    choice = [draw(st.permutations(range(-8, 9)))[:count] for _ in range(length)]
    key = [draw(st.permutations(range(-12, 13)))[:count] for _ in range(length)]
    setting = Setting(setting.top_k, epsilon, setting.zone, setting.strength)
    return SelectCase(np.array(choice, np.float32) / np.float32(4), np.array(key, np.float32) / np.float32(4), setting)


@st.composite
def unsound(draw: Draw, /, what: str, **options: Any) -> tuple[SelectCase, int]:
    """A sound case with one token spoilt, and that token.

    ``what``: nan, inf, few (fewer than k candidates), key, or any of them.
    """
    if what == "any":
        what = draw(st.sampled_from(("nan", "inf", "few", "key")), label="what is spoilt")
    case = draw(small(experts=(2, 8), barred=False, **options))
    token = draw(st.integers(0, case.tokens - 1), label="spoilt token")
    expert = draw(st.integers(0, case.experts - 1), label="spoilt expert")
    choice, key = case.choice.copy(), case.key.copy()
    if what == "few":
        keep = draw(st.integers(0, case.setting.top_k - 1), label="candidates left")
        choice[token, draw(st.permutations(range(case.experts)))[keep:]] = -np.inf
    elif what == "key":
        key[token, expert] = draw(st.sampled_from((math.nan, math.inf, -math.inf)))
    else:
        others = draw(st.one_of(st.just([]), st.just([*range(case.experts)])), label="others spoilt")
        choice[token, [expert, *others]] = {"nan": math.nan, "inf": math.inf}[what]
    return SelectCase(choice, key, case.setting), token


# --- keys and key scores


def secrets() -> st.SearchStrategy[bytes]:
    """Secrets of 16 bytes or more, some longer than one length byte can say, some full of zeros."""
    return st.one_of(
        st.binary(min_size=16, max_size=40),
        st.binary(min_size=250, max_size=300),
        st.just(bytes(16)),
        st.just(b"\xff" * 32),
    )


@st.composite
def projections(draw: Draw, *, sizes: st.SearchStrategy[int] | None = None) -> ProjectionCase:
    """A secret and a site."""
    size = sizes if sizes is not None else st.integers(1, 12)
    return ProjectionCase(
        secret=draw(secrets(), label="secret"),
        stack=draw(st.sampled_from(("decoder", "encoder", "decoder.second", "decoder.höher")), label="stack"),
        layer=draw(st.one_of(st.integers(0, 3), st.sampled_from((255, 256, 65_536, 2**24 + 1))), label="layer"),
        hidden_size=draw(size, label="hidden_size"),
        num_experts=draw(size, label="num_experts"),
    )


@st.composite
def score_cases(draw: Draw, *, tokens: tuple[int, int] = (1, 4), scale: bool = True) -> ScoreCase:
    """Hidden states of up to 256 numbers, within 2^-30 to 2^30, and a random projection."""
    size = draw(st.one_of(st.integers(1, 8), st.sampled_from((64, 256))), label="hidden_size")
    length, count = draw(st.integers(*tokens), label="tokens"), draw(st.integers(1, 8), label="experts")
    if size <= 8:
        number = draw(st.sampled_from((grid(), st.floats(-4, 4, width=32).map(lambda v: v if abs(v) >= 0.25 else 0.0))))
        hidden = _rows(draw(st.lists(number, min_size=size * length, max_size=size * length)), length, size)
        signs = draw(st.lists(st.sampled_from((1, -1)), min_size=size * count, max_size=size * count))
        projection = np.array(signs, np.int8).reshape(size, count)
    else:
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1), label="seed"))
        hidden = rng.normal(0, 1, (length, size)).astype(np.float32)
        projection = rng.choice(np.array([-1, 1], np.int8), (size, count))
    exponent = draw(st.integers(-28, 28), label="scale") if scale else 0
    return ScoreCase((hidden * np.float32(2.0**exponent)).astype(np.float32), projection)


def _rows(values: list[float], rows: int, columns: int) -> FloatArray:
    return np.array(values, dtype=np.float32).reshape(rows, columns)


_INSIDE = ("forward", "generate", "copy", "verify", "watermark", "record")


def walks() -> st.SearchStrategy[list[str]]:
    """Steps of a model's life: up to three times attached, with something done, or tried, meanwhile and between."""
    inside = st.lists(st.sampled_from(_INSIDE), min_size=1, max_size=4)
    between = st.lists(st.sampled_from((*_INSIDE[:4], "leave", "fail")), max_size=1)
    enter, leave = st.sampled_from(("watermark", "record")), st.sampled_from(("leave", "fail"))
    episode = st.tuples(enter, inside, leave, between).map(lambda parts: [parts[0], *parts[1], parts[2], *parts[3]])
    return st.lists(episode, min_size=1, max_size=3).map(lambda episodes: [step for part in episodes for step in part])


@st.composite
def evidence(draw: Draw, /, strengths: tuple[float, ...]) -> EvidenceCase:
    """One to four parts of a trace, at up to three sites. Scores, epsilon and 4 * strength are multiples of 1/2: scores
    tie and lie on edges, and no rounding decides."""
    experts = draw(st.integers(2, 7), label="experts")
    setting = Setting(
        top_k=draw(st.integers(1, experts), label="top_k"),
        epsilon=draw(st.sampled_from((0.5, 1.0, 2.0, math.inf, 0.0)), label="epsilon"),
        zone=draw(st.sampled_from(ZONES), label="zone"),
        strength=draw(st.sampled_from(strengths), label="strength"),
    )
    size, style = draw(st.integers(1, 3), label="size of a state"), grid()
    if draw(st.booleans(), label="some barred"):
        style = st.one_of(style, style, style, st.just(-math.inf))
    part = _routed(experts, size, setting.top_k, style)
    secret = draw(st.integers(0, 2**16), label="secret").to_bytes(16, "big")
    return EvidenceCase(secret, setting, tuple(draw(st.lists(part, min_size=1, max_size=4), label="shown")))


@st.composite
def _routed(draw: Draw, /, experts: int, size: int, top_k: int, style: st.SearchStrategy[float]) -> Routed:
    """One part: in most tokens as many experts ran as should, in some none were recorded or a number is not finite."""
    stack, layer = draw(st.sampled_from((("decoder", 0), ("decoder", 1), ("encoder", 0))), label="site")
    length = draw(st.integers(0, 4), label="tokens")
    ran = [draw(st.permutations(range(experts)), label="ran")[:top_k] for _ in range(length)]
    choice = draw(st.lists(style, min_size=length * experts, max_size=length * experts), label="choice")
    whole = st.integers(-3, 3).map(float)
    hidden = _rows(draw(st.lists(whole, min_size=length * size, max_size=length * size), label="hidden"), length, size)
    scores = _rows(choice, length, experts)
    for token in range(length):
        spoilt = draw(st.sampled_from(("", "", "", "", "not recorded", "choice", "state")), label="spoilt")
        if spoilt == "not recorded":
            ran[token] = [-1] * top_k
        elif spoilt:
            (scores if spoilt == "choice" else hidden)[token, 0] = draw(st.sampled_from((math.nan, math.inf)))
    return Routed(stack, layer, scores, hidden, np.array(ran, np.int64).reshape(length, top_k))
