"""Rows of an engine's array that no router made: slots never filled, dummies, buffers read again.

The rules look at the routing and the tokens and never see a key. Under the null hypothesis a key is independent of
both, so whatever they leave out, p-values stay valid; what they cost is the evidence of rows left out wrongly. A rule
that a router might break by chance therefore leaves rows out only where that is next to impossible: under 2^-20 for
the whole array, although a router is taken to give another token, or another layer, each of the same experts in the
same place half of the time. Trained routers do so far more seldom.
"""

from collections.abc import Sequence
from math import log2, perm

import numpy as np
from jaxtyping import Bool, Int

from okr.discovery import RouterSite
from okr.errors import InvalidTrace

NOT_RECORDED = -1  # in place of an expert index
SURE = 20  # bits: what routers do less than once in 2^20 arrays is not a router's


def take_out(
    rows: Int[np.ndarray, "rows sites top_k"], sites: Sequence[RouterSite], token_ids: Int[np.ndarray, " rows"]
) -> dict[str, Bool[np.ndarray, " rows"]]:
    """Put NOT_RECORDED in place of what no router made; which rows that touched, by reason.

    Slots of -1 are no such rows: they say themselves that nothing was recorded. Raises InvalidTrace for experts that
    the model does not have.
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
    """InvalidTrace unless what lies beyond the experts is one value that fills all of a slot, a pad, and what lies
    below -1 one value."""
    below = used < NOT_RECORDED
    if len(np.unique(used[below])) > 1:
        raise InvalidTrace(
            f"expert {int(used[below].min())} in the column of {site.path}: a signed type too narrow for its numbers; "
            f"read the array as the unsigned one"
        )
    beyond = used >= site.num_experts
    if (beyond.any(-1) & ~beyond.all(-1)).any() or len(np.unique(used[beyond])) > 1:
        raise InvalidTrace(
            f"expert {int(used[beyond].max())} in the column of {site.path}, which has {site.num_experts}: map the "
            f"physical experts of a parallel engine back to the model's, leave out fused shared experts"
        )


def _live(rows: Int[np.ndarray, "rows sites top_k"]) -> tuple[Bool[np.ndarray, " rows"], Bool[np.ndarray, " sites"]]:
    """The columns in which anything is recorded, and the rows recorded in all of these."""
    recorded = rows[:, :, 0] != NOT_RECORDED
    columns = recorded.any(0)
    return recorded[:, columns].all(1) & columns.any(), columns


def _dummies(
    rows: Int[np.ndarray, "rows sites top_k"], sites: Sequence[RouterSite], token_ids: Int[np.ndarray, " rows"]
) -> Bool[np.ndarray, " rows"]:
    """The rows of 0 to k - 1, or of any same experts, in every column; none where routers may choose so."""
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
    """The rows that say the same, in every column, of more different tokens than routers would: a stale buffer."""
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
