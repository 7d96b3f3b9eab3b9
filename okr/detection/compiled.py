"""Counts the matches of images of a key in loops that numba compiles (:mod:`okr.detection.counting`)."""

import numpy as np

from okr.routing.compiled import machine_code

INFINITE = np.float32(np.inf)
LARGEST = np.finfo(np.float32).max


@machine_code
def count_matches(  # type: ignore[no-untyped-def]
    choice, claimed, experts, pool, locked, places, rule, hits, support
):
    """Fill ``hits`` [T, keys] and add to ``support`` [keys]: the results of :func:`okr.detection.counting.matches`, the
    second summed over tokens.

    ``places`` [keys, E] gives the place of an image's key scores among the claimed key's scores [E] followed by their
    negatives [E]. ``rule`` holds the strength, and whether the key alone decides. An expert is among the m largest of
    the pool if fewer than m are larger. Counting those compares whole rows without a branch.
    """
    strength, alone = rule
    size = choice.shape[1]
    signed, row = np.empty(2 * size, np.float32), np.empty(size, np.float32)
    base, ran = np.empty(size, np.float32), np.empty(experts.shape[1], np.int64)
    for token in range(len(choice)):
        free, slots = experts.shape[1], 0
        for expert in range(size):
            signed[expert], signed[size + expert] = claimed[token, expert], -claimed[token, expert]
            inside = np.float32(0) if alone else choice[token, expert]
            base[expert] = inside if pool[token, expert] else -INFINITE
            free -= locked[token, expert]
        for expert in experts[token]:
            if pool[token, expert]:
                ran[slots] = expert
                slots += 1
        for image in range(len(places)):
            for expert in range(size):
                row[expert] = base[expert] + strength * signed[places[image, expert]]
            if not alone:
                for expert in range(size):
                    row[expert] = min(max(row[expert], -LARGEST), LARGEST)
            found, total = 0, 0.0
            for slot in range(slots):
                value, larger = row[ran[slot]], np.int32(0)
                for expert in range(size):
                    larger += np.int32(row[expert] > value)
                found += larger < free
                total += value
            hits[token, image] = min(found, free)
            support[image] += total
