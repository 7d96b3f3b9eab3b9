"""Finds rows of a serving engine's array that no router made: slots that were never filled, dummies, stale buffers.

The rules depend on the routing and the tokens and never on a key. Under the null hypothesis the key is independent of
both, so p-values stay valid whatever the rules remove. A row removed by mistake only costs its evidence. A rule that a
router could meet by chance is applied only if that has a probability below 2^-20 in the whole array. The bound assumes
that a router gives another token, or another layer, each of the same experts in the same place with probability 1/2.
Trained routers do so far less often.
"""

from collections.abc import Sequence
from math import log2, perm

import numpy as np
from jaxtyping import Bool, Int

from okr.discovery import RouterSite
from okr.errors import InvalidTrace

NOT_RECORDED = -1  # in place of an expert index: nothing is known
SURE = 20  # bits: routers meet a rule by chance in less than one of 2^20 arrays


def take_out(
    rows: Int[np.ndarray, "rows sites top_k"], sites: Sequence[RouterSite], token_ids: Int[np.ndarray, " rows"]
) -> dict[str, Bool[np.ndarray, " rows"]]:
    """Put NOT_RECORDED into ``rows`` wherever no router made them, and return which rows that changed, by reason.

    Slots that already hold -1 are not counted. Raises InvalidTrace for experts that the model does not have.
    """
    unfilled, partial = np.zeros((2, len(rows)), bool)
    for column, site in enumerate(sites):
        used = rows[:, column, : site.top_k]
        inside = (used >= 0) & (used < site.num_experts)
        _check_pads(used, inside, site)
        empty = ~inside.any(-1)
        if site.top_k > 1:
            empty |= (used == used[:, :1]).all(-1)
        part = ~empty & ~inside.all(-1)
        unfilled |= empty & (used != NOT_RECORDED).any(-1)
        partial |= part
        used[empty | part] = NOT_RECORDED
        rows[:, column, site.top_k :] = NOT_RECORDED
    reasons = {"slots left unfilled": unfilled, "slots filled in part": partial}
    for reason, find in {"a dummy": _dummies, "one row for different tokens": _repeated}.items():
        reasons[reason] = find(rows, sites, token_ids)
        rows[reasons[reason]] = NOT_RECORDED
    return reasons


def _check_pads(used: Int[np.ndarray, "rows k"], inside: Bool[np.ndarray, "rows k"], site: RouterSite) -> None:
    """Raise InvalidTrace unless values beyond the experts are pads: one value that fills whole slots. Values below -1
    must all be equal too."""
    below = used < NOT_RECORDED
    if len(np.unique(used[below])) > 1:
        raise InvalidTrace(
            f"expert {int(used[below].min())} in the column of {site.path}: the array's signed type is too narrow for "
            f"its numbers; read it as the unsigned type"
        )
    beyond = used >= site.num_experts
    if (beyond.any(-1) & ~beyond.all(-1)).any() or len(np.unique(used[beyond])) > 1:
        raise InvalidTrace(
            f"expert {int(used[beyond].max())} in the column of {site.path}, which has {site.num_experts}: map the "
            f"physical experts of a parallel engine back to the model's, and leave out fused shared experts"
        )


def _live(rows: Int[np.ndarray, "rows sites top_k"]) -> tuple[Bool[np.ndarray, " rows"], Bool[np.ndarray, " sites"]]:
    """The rows that are recorded in every column in which anything is recorded, and these columns."""
    recorded = rows[:, :, 0] != NOT_RECORDED
    columns = recorded.any(0)
    return recorded[:, columns].all(1) & columns.any(), columns


def _dummies(
    rows: Int[np.ndarray, "rows sites top_k"], sites: Sequence[RouterSite], token_ids: Int[np.ndarray, " rows"]
) -> Bool[np.ndarray, " rows"]:
    """The dummy rows: the same experts in every column, or 0 to k - 1 in every column. None are found if routers could
    choose so by chance."""
    whole, columns = _live(rows)
    live = [site for site, here in zip(sites, columns, strict=True) if here]
    found = np.zeros(len(rows), bool)
    if not whole.any():
        return found
    enough = SURE + log2(len(rows))
    least = min(site.top_k for site in live)
    if least * (len(live) - 1) >= enough:
        found |= (rows[:, columns, :least] == rows[:, columns][:, :1, :least]).all((1, 2))
    if sum(log2(perm(site.num_experts, site.top_k)) for site in live) >= enough:
        counted = np.where(rows[:, columns] == NOT_RECORDED, NOT_RECORDED, np.arange(rows.shape[2]))
        found |= (rows[:, columns] == counted).all((1, 2))
    found &= whole
    return found


def _repeated(
    rows: Int[np.ndarray, "rows sites top_k"], sites: Sequence[RouterSite], token_ids: Int[np.ndarray, " rows"]
) -> Bool[np.ndarray, " rows"]:
    """The rows of stale buffers: equal in every column for more different tokens than routers would give by chance."""
    whole, columns = _live(rows)
    found = np.zeros(len(rows), bool)
    if not whole.any():
        return found
    flat = rows[whole][:, columns].reshape(int(whole.sum()), -1)
    group = np.unique(flat, axis=0, return_inverse=True)[1].reshape(-1)
    pairs = np.unique(np.stack([group, token_ids[whole]]), axis=1)
    tokens = np.bincount(pairs[0])
    bits = sum(site.top_k for site, here in zip(sites, columns, strict=True) if here)
    stale = bits * (tokens - 1) >= SURE + tokens * log2(len(rows))
    found[whole] = stale[group]
    return found
