"""How calls lie over positions, against a generation that is played through: each position holds the call that saw it
last."""

from hypothesis import given
from hypothesis import strategies as st

from okr.attach.columns import passes_of, standing


@st.composite
def generations(draw):
    """The tokens of each call, how many positions a given cache held, and the last call to see each position."""
    cached = draw(st.integers(0, 4))
    owners, counts = [None] * cached, []
    for call in range(draw(st.integers(1, 8))):
        anew = call > 0 and draw(st.booleans())
        new = 1 if anew else draw(st.integers(1, 4))  # what begins anew sees everything and one token more
        owners = [call] * (len(owners) + new) if anew else owners + [call] * new
        counts.append(len(owners) if anew else new)
    return counts, cached, owners


@given(generations())
def test_the_last_call_to_see_a_position_stands_for_it(generation):
    counts, cached, owners = generation
    start = standing(counts, len(owners), cached)
    assert start is not None
    laid = [call for call, count in enumerate(counts) if call >= start for _ in range(count)]
    assert [None] * (len(owners) - len(laid)) + laid == owners


@given(generations(), st.integers(-3, 3).filter(bool))
def test_calls_that_do_not_fit_are_told(generation, off):
    """A reading that leaves a position out, or sees one that is not there, is none."""
    counts, cached, owners = generation
    length = len(owners) + off
    start = standing(counts, length, cached)
    assert start is None or sum(counts[start:]) in (length, length - cached)


def test_readings_that_leave_no_gap():
    assert standing([9, 1, 1], 11) == 0
    assert standing([9, 10, 11], 11) == 2
    assert standing([9, 1, 11, 1, 1], 13) == 2  # a cache dropped midway
    assert standing([2, 3], 8, cached=3) == 0  # behind a cache that was given
    assert standing([2, 3, 9], 9, cached=3) == 2  # which was dropped later
    assert standing([9, 1, 12, 1], 13) is None  # 12 after 10: a token that no call chose
    assert standing([9, 1], 12) is None
    assert standing([], 3) is None
    assert standing([1, 1, 2], 2) is None


def test_passes_of_a_row_that_is_padded():
    import torch

    routed = torch.tensor([0, 0, 0, 1, 1, 1, 1, 0]).bool()  # three of padding, four tokens, one beyond the end
    assert passes_of(routed, [2, 3, 1, 1, 1], torch.arange(8) + 1) == [(2, 5), (1, 6), (1, 7)]
