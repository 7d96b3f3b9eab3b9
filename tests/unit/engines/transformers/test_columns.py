"""How calls lie over positions, against a generation that is played through: each position holds the call that saw it
last."""

from hypothesis import given
from hypothesis import strategies as st

from okr.engines.transformers.columns import Reach, passes_of, standing


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


def test_how_far_calls_reached_is_told_or_counted():
    """Two rows, the first with two of padding; a cache of three positions, and one that was dropped."""
    import torch

    own = torch.tensor([[0, 0, 1, 2, 3, 4], [1, 2, 3, 4, 5, 6]])
    counted = Reach.of([4, 1, 1], own, own.amax(0), [None] * 3, 0)
    assert (counted.counts, counted.ends(), counted.first, counted.shifted) == ([4, 1, 1], [4, 5, 6], 4, False)
    told = Reach.of([4, 1, 1], own, own.amax(0), [torch.tensor([2, 4]), torch.tensor([3, 5]), torch.tensor([4, 6])], 0)
    assert (told.ends(), told.first, told.shifted) == ([4, 5, 6], 4, False)
    beyond = Reach.of([4, 1, 1], own, own.amax(0), [torch.tensor([reach]) for reach in (9, 10, 11)], 0)
    assert (beyond.ends(), beyond.first, beyond.shifted) == ([9, 10, 11], 9, True)
    padding = Reach.of([2, 2, 2], own, own.amax(0), [torch.tensor(reach) for reach in ([2, 2], [2, 4], [4, 6])], 0)
    assert (padding.ends(), padding.shifted) == ([2, 4, 6], False)  # at position 1, and seen alone
    partly = Reach.of([4, 1, 1], own, own.amax(0), [torch.tensor([9]), None, torch.tensor([11])], 0)
    assert (partly.ends(), partly.shifted) == ([4, 5, 6], False)
    behind = Reach.of([2, 1], own[1:], own[1], [torch.tensor([5]), torch.tensor([6])], 3)
    assert (behind.counts, behind.ends(), behind.first, behind.shifted) == ([3, 2, 1], [3, 5, 6], 5, False)
    dropped = Reach.of([5, 1], own[1:], own[1], [None, None], 3)
    assert (dropped.counts, dropped.ends(), dropped.first) == ([5, 1], [5, 6], 6)
