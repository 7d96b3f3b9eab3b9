"""Chapter SCORE: what a key thinks of an expert."""

import math

import numpy as np
from hypothesis import strategies as st

from .. import oracle, strategies
from ..cases import FloatArray, ScoreCase
from ..subject import Subject
from ..verdicts import Violation, require
from . import check


def _close(got: np.ndarray, expected: np.ndarray, bound: np.ndarray, what: str, *, other: bool = False) -> None:
    """``other``: ``expected`` is another answer of the same implementation, so NaN in both is agreement."""
    wrong = ~(np.abs(got - expected) <= bound + 1e-300)  # not <=: NaN is wrong
    if other:
        wrong &= ~(np.isnan(got) & np.isnan(expected))
    if wrong.any():
        token, expert = np.argwhere(wrong)[0]
        allowed = float(np.broadcast_to(bound, wrong.shape)[token, expert])
        raise Violation(
            f"{what}: token {token}, expert {expert}",
            expected=f"{expected[token, expert]:.9g} +- {allowed:.2g}",
            got=f"{got[token, expert]:.9g}",
        )


def _accurate(subject: Subject, case: ScoreCase) -> None:
    """Tokens with h = 0 are left to OKR-SCORE-002."""
    exact, bound = oracle.key_scores(case.hidden, case.projection)
    here = case.hidden.any(axis=1)
    _close(subject.key_scores(case)[here], exact[here], bound[here], "the key score is off by more than rounding")


def _plain() -> st.SearchStrategy[ScoreCase]:
    return strategies.score_cases(scale=False)


@check("OKR-SCORE-001", _plain)
def score_is_the_normalised_product(subject: Subject, case: ScoreCase) -> None:
    _accurate(subject, case)


@check("OKR-SCORE-002", _plain)
def zero_state_scores_zero(subject: Subject, case: ScoreCase) -> None:
    hidden = case.hidden.copy()
    hidden[0] = 0
    got = subject.key_scores(ScoreCase(hidden, case.projection))[0]
    require(bool((got == 0).all()), "h = 0 must score 0 for every expert", expected=0, got=got.tolist())


@check("OKR-SCORE-003", lambda: strategies.score_cases())
def scale_does_not_matter(subject: Subject, case: ScoreCase) -> None:
    _accurate(subject, case)


@st.composite
def _cancelling(draw: st.DrawFn) -> ScoreCase:
    """Large terms that cancel to the last bit beside small ones: only float32 or wider keeps the small ones."""
    size, count = draw(st.sampled_from((4, 8, 16))), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    small = rng.integers(1, 128, size // 2) / 64.0
    large = 64 + rng.integers(0, 64, size - size // 2) + rng.integers(1, 1024, size - size // 2) / 4096.0
    hidden = np.concatenate([large, small]).astype(np.float32)[None]
    return ScoreCase(hidden, rng.choice(np.array([-1, 1], np.int8), (size, count)))


@check("OKR-SCORE-004", _cancelling)
def accumulation_is_float32_or_wider(subject: Subject, case: ScoreCase) -> None:
    _accurate(subject, case)


@check("OKR-SCORE-005", lambda: strategies.score_cases(tokens=(2, 4)))
def tokens_do_not_see_each_other(subject: Subject, case: ScoreCase) -> None:
    _, bound = oracle.key_scores(case.hidden, case.projection)
    together = subject.key_scores(case)
    for token in range(len(case.hidden)):
        alone = subject.key_scores(ScoreCase(case.hidden[token : token + 1], case.projection))
        _close(
            alone, together[token : token + 1], 2 * bound[token : token + 1], "the score depends on others", other=True
        )


@check("OKR-SCORE-005", _plain, share=0.3)
def long_batches_change_nothing(subject: Subject, case: ScoreCase) -> None:
    """Each token among LONG: a long batch may be cut into chunks."""
    rows = np.arange(strategies.LONG) % len(case.hidden)
    _, bound = oracle.key_scores(case.hidden, case.projection)
    few, many = (subject.key_scores(ScoreCase(states, case.projection)) for states in (case.hidden, case.hidden[rows]))
    _close(many, few[rows], 2 * bound[rows], f"a batch of {strategies.LONG}", other=True)


@check("OKR-SCORE-006", lambda: st.tuples(_plain(), st.sampled_from((math.nan, math.inf, -math.inf))))
def broken_state_gives_no_finite_scores(subject: Subject, drawn: tuple[ScoreCase, float]) -> None:
    case, bad = drawn
    hidden = np.concatenate([case.hidden, case.hidden])
    last = len(hidden) - 1
    hidden[last, -1] = bad
    got = subject.key_scores(ScoreCase(hidden, case.projection))
    require(
        not np.isfinite(got[last]).all(), f"a state holding {bad} has finite key scores only", got=got[last].tolist()
    )
    clean = subject.key_scores(ScoreCase(hidden[:last], case.projection))
    _, bound = oracle.key_scores(hidden[:last], case.projection)
    _close(got[:last], clean, 2 * bound, "a broken token changed another one", other=True)


@check("OKR-SCORE-007", lambda: st.tuples(_plain(), st.permutations(range(8)), st.integers(0, 255)))
def columns_do_not_see_each_other(subject: Subject, drawn: tuple[ScoreCase, list[int], int]) -> None:
    """Permuting columns and changing their signs does the same to the scores: the group that makes decoys."""
    case, places, bits = drawn
    order = [column for column in places if column < case.projection.shape[1]]
    flips = np.array([-1 if bits >> column & 1 else 1 for column in order], np.int8)
    _, bound = oracle.key_scores(case.hidden, case.projection)
    straight = subject.key_scores(case)
    image = subject.key_scores(ScoreCase(case.hidden, np.ascontiguousarray(case.projection[:, order] * flips)))
    _close(image, straight[:, order] * flips, 2 * bound, f"columns {order} with signs {flips.tolist()}", other=True)


@check("OKR-SCORE-008", lambda: st.tuples(st.integers(1, 8), st.integers(1, 8)))
def no_tokens_no_scores(subject: Subject, sizes: tuple[int, int]) -> None:
    hidden: FloatArray = np.zeros((0, sizes[0]), np.float32)
    subject.key_scores(ScoreCase(hidden, np.ones(sizes, np.int8)))
