"""Intervals: judged by the definition of a Clopper-Pearson interval, not by the beta quantiles it is computed from."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from okr.intervals import mean, share


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_ends_of_the_interval_are_where_the_tails_hold_a_fortieth(counts: tuple[int, int]) -> None:
    hits, samples = counts
    value, low, high = share(hits, samples)
    assert value == hits / samples
    assert low <= value <= high
    if hits:
        assert stats.binom.sf(hits - 1, samples, low) == pytest.approx(0.025, abs=1e-9)
    else:
        assert low == 0
    if hits < samples:
        assert stats.binom.cdf(hits, samples, high) == pytest.approx(0.025, abs=1e-9)
    else:
        assert high == 1


def test_mean_of_equal_values_has_no_width_and_of_others_does() -> None:
    assert mean([2.0, 2.0, 2.0]) == (2.0, 2.0, 2.0)
    middle, low, high = mean([1.0, 2.0, 3.0])
    half = 4.302652729911275 / 3**0.5  # t(0.975, 2 degrees of freedom) from printed tables, deviation 1
    assert (middle, low, high) == pytest.approx((2.0, 2.0 - half, 2.0 + half))
