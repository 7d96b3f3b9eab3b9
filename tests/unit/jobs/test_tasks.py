"""How tasks are dealt to processes."""

from hypothesis import given
from hypothesis import strategies as st

from okr.jobs.tasks import Task, deal


def task(name: str, share: int | None, weight: float) -> Task[None]:
    return Task(name, lambda step: None, share=share, weight=weight)


dealt = st.lists(st.tuples(st.none() | st.integers(0, 5), st.integers(0, 9)), max_size=30).map(
    lambda drawn: [task(str(number), share, weight) for number, (share, weight) in enumerate(drawn)]
)


@given(dealt, st.integers(1, 8))
def test_every_task_has_one_owner_and_keeps_its_order(tasks: list[Task[None]], count: int) -> None:
    parts = [deal(tasks, rank, count) for rank in range(count)]
    assert sorted(int(one.name) for part in parts for one in part) == list(range(len(tasks)))
    for part in parts:
        assert part == sorted(part, key=tasks.index)
    owners: dict[int, set[int]] = {}
    for rank, part in enumerate(parts):
        for one in part:
            if one.share is not None:
                owners.setdefault(one.share, set()).add(rank)
    assert all(len(ranks) == 1 for ranks in owners.values())


@given(dealt, st.integers(1, 8))
def test_nobody_has_much_more_to_do_than_another(tasks: list[Task[None]], count: int) -> None:
    """Without shares, loads differ by no more than the heaviest task."""
    free = [task(one.name, None, one.weight) for one in tasks]
    loads = [sum(one.weight for one in deal(free, rank, count)) for rank in range(count)]
    assert max(loads) - min(loads) <= max((one.weight for one in free), default=0)


def test_equal_shares_are_dealt_in_turn() -> None:
    tasks = [task(f"{index} {group}", index, 2.0) for index in range(5) for group in "ab"]
    assert [one.name for one in deal(tasks, 1, 2)] == ["1 a", "1 b", "3 a", "3 b"]
