"""The ``routed_experts`` arrays of serving engines (vLLM, SGLang), put into a trace's layout."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int16

from okr.discovery import RouterSite
from okr.errors import InvalidTrace

NOT_RECORDED = -1  # in place of an expert index


def arrange(
    array: Any, sites: Sequence[RouterSite], tokens: int, first: int
) -> Int16[np.ndarray, "routed sites top_k"]:
    """What ran for the first ``tokens`` - 1 tokens, int16; row r of ``array`` belongs to token ``first`` + r.

    Raises InvalidTrace unless the array is one of the layouts that Trace.from_routed_experts documents.
    """
    rows = _rows(array, sites)
    if isinstance(first, bool) or not isinstance(first, int) or first < 0 or first + len(rows) > tokens:
        raise InvalidTrace(f"{len(rows)} rows from token {first!r} on do not fit a sequence of {tokens} tokens")
    experts = np.full((tokens - 1, *rows.shape[1:]), NOT_RECORDED, np.int16)
    rows = rows[: tokens - 1 - first]
    experts[first : first + len(rows)] = rows
    return experts


def _rows(array: Any, sites: Sequence[RouterSite]) -> Int16[np.ndarray, "rows sites top_k"]:
    """One column a site, filled up with NOT_RECORDED where a site keeps fewer experts than another."""
    found = np.asarray(array)
    if found.ndim != 3 or found.dtype.kind not in "iu":
        raise InvalidTrace(f"routed experts must be whole numbers [rows, layers, k], got {found.dtype} {found.shape}")
    layers = [site.layer for site in sites]
    if found.shape[1] != len(sites):
        if found.shape[1] <= max(layers) or len(set(layers)) < len(layers):
            raise InvalidTrace(
                f"{found.shape[1]} layers are neither one a router ({len(sites)}) nor one a layer of the model"
            )
        found = found[:, layers]
    widest = max(site.top_k for site in sites)
    if found.shape[2] != widest:
        raise InvalidTrace(
            f"{found.shape[2]} experts a token, but the routers keep {widest}; leave out fused shared experts"
        )
    if found.size and not -1 <= found.min() <= found.max() < 2**15:
        raise InvalidTrace(f"expert indices must lie between -1 and {2**15 - 1}")
    rows = found.astype(np.int16)
    for column, site in enumerate(sites):
        used = rows[:, column, : site.top_k]
        if site.top_k > 1:
            used[(used == used[:, :1]).all(-1)] = NOT_RECORDED
        rows[:, column, site.top_k :] = NOT_RECORDED
    return rows
