"""Paired measurements: several ways to do one thing, in turns, so that what disturbs one disturbs the others.

Seconds are CPU time of this process, which other programs on the machine do not count towards. On a card they are time
until the card is done.
"""

import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import scipy
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity

Try = Callable[[], float]
"""Does something once and returns the seconds that it took."""

LEAST_ROUNDS = 6
"""So many rounds give the median a 95% interval that needs no assumption on the law of the rounds."""


def clock(device: str) -> Callable[[], float]:
    """Seconds that count: of this process's computing, or, on a card, until the card has done what it was told."""
    if device == "cpu":
        return time.process_time

    def until_done() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return until_done


def timed(work: Callable[[], object], device: str = "cpu") -> Try:
    """``work`` as it stands."""
    now = clock(device)

    def once() -> float:
        start = now()
        work()
        return now() - start

    return once


def within(
    way: Callable[[], AbstractContextManager[Any]],
    work: Callable[[], object],
    device: str = "cpu",
    warm: Callable[[], object] | None = None,
) -> Try:
    """``work`` inside a new block of ``way``. What is made at a block's first call is made by ``warm``, or by ``work``
    itself, before the time is taken."""
    once = timed(work, device)

    def inside() -> float:
        with way():
            (warm or work)()
            return once()

    return inside


def paired(
    tries: Mapping[str, Try], rounds: int, *, least: int = LEAST_ROUNDS, budget: float = math.inf
) -> dict[str, list[float]]:
    """The seconds of each try, round by round; the first of a round goes last in the next.

    After ``least`` rounds no round begins that would end later than ``budget`` seconds from now.
    """
    seconds: dict[str, list[float]] = {name: [] for name in tries}
    names, began = list(tries), time.perf_counter()
    for turn in range(rounds):
        spent = time.perf_counter() - began
        if turn >= least and spent * (turn + 1) / turn > budget:
            break
        place = turn % len(names)
        for name in names[place:] + names[:place]:
            seconds[name].append(tries[name]())
    return seconds


def compared(first: Callable[[], object], second: Callable[[], object], rounds: int) -> dict[str, float]:
    """second / first on the CPU: the median and the quartiles, and both medians in seconds."""
    first(), second()
    seconds = paired({"first": timed(first), "second": timed(second)}, rounds)
    medians = {f"{name}_s": round(statistics.median(taken), 3) for name, taken in seconds.items()}
    return quartiles(ratios(seconds, "second", "first")) | medians


def ratios(seconds: Mapping[str, list[float]], way: str, base: str) -> list[float]:
    """``way`` over ``base``, round by round."""
    return [one / other for one, other in zip(seconds[way], seconds[base], strict=True)]


def milliseconds(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    """The median of each try."""
    return {name: round(1000 * statistics.median(taken), 4) for name, taken in seconds.items()}


def quartiles(values: list[float]) -> dict[str, float]:
    """The median as ``ratio`` with the quartiles ``low`` and ``high``."""
    low, _, high = statistics.quantiles(values, n=4)
    return {"ratio": round(statistics.median(values), 3), "low": round(low, 3), "high": round(high, 3)}


def median(values: list[float]) -> dict[str, float | int | None]:
    """The median as ``ratio`` with its exact 95% interval from ``low`` to ``high``; None from too few ``rounds``."""
    found = scipy.stats.quantile_test(values, p=0.5).confidence_interval(0.95)
    ends = {name: None if math.isnan(end) else round(float(end), 4) for name, end in found._asdict().items()}
    return {"ratio": round(statistics.median(values), 4), **ends, "rounds": len(values)}


def kernels(work: Callable[[], object], device: str, calls: int, most: int = 12) -> dict[str, float]:
    """Microseconds that the longest operations of ``work`` take for each of its ``calls``: kernels on a card."""
    kind, activity, time_of = DeviceType.CPU, ProfilerActivity.CPU, "self_cpu_time_total"
    if device != "cpu":
        kind, activity, time_of = DeviceType.CUDA, ProfilerActivity.CUDA, "self_device_time_total"
    with torch.profiler.profile(activities=[activity]) as profile:
        work()
        clock(device)()
    found: Counter[str] = Counter()
    for entry in profile.key_averages():
        if entry.device_type == kind:
            found[entry.key[:100]] += getattr(entry, time_of) / calls
    longest = {name: round(taken, 2) for name, taken in found.most_common(most)}
    return longest | {"all": round(sum(found.values()), 2)}
