"""The ``routed_experts`` arrays of serving engines (vLLM, SGLang), put into a trace's layout."""

import logging
from collections.abc import Collection, Sequence
from itertools import pairwise
from numbers import Integral
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Int16
from torch import nn

from okr.discovery import RouterSite
from okr.errors import InvalidTrace

NOT_RECORDED = -1  # in place of an expert index
STALE_RUN = 4  # so many equal rows in a row are a buffer that nobody wrote to

log = logging.getLogger("okr")


def arrange(
    array: Any,
    sites: Sequence[RouterSite],
    token_ids: Int[np.ndarray, " tokens"],
    first: int,
    *,
    layers: Sequence[int] | None = None,
    depth: int | None = None,
    routed: Collection[int] = (),
) -> Int16[np.ndarray, "routed sites top_k"]:
    """What ran for all of ``token_ids`` but the last, int16; row r of ``array`` belongs to token ``first`` + r.

    layers: of each column, None to guess what is unambiguous; depth: how many layers the model has, where known;
    routed: its layers with a router, keyed or not, besides those of ``sites``. Rows that no router made count as not
    recorded, with a warning that says how many. The rules for that look at the routing and the tokens, never at a key:
    which rows are left says nothing of how they fit a key that did not route them, so p-values stay valid.

    Raises InvalidTrace unless the array is one of the layouts that Trace.from_routed_experts documents.
    """
    found = np.asarray(array)
    if found.ndim != 3 or found.dtype.kind not in "iu":
        raise InvalidTrace(f"routed experts must be whole numbers [rows, layers, k], got {found.dtype} {found.shape}")
    tokens, count = len(token_ids), len(found)
    if isinstance(first, bool) or not isinstance(first, int) or first < 0 or first + count > tokens:
        raise InvalidTrace(f"{count} rows from token {first!r} on do not fit a sequence of {tokens} tokens")
    widest = max(site.top_k for site in sites)
    if found.shape[2] != widest:
        raise InvalidTrace(
            f"{found.shape[2]} experts a token, but the routers keep {widest}; leave out fused shared experts"
        )
    found = found[: tokens - 1 - first]
    if layers is None:
        columns = _guess(found, [site.layer for site in sites], depth, routed)
    else:
        columns = _look_up(layers, [site.layer for site in sites], found.shape[1])
    rows = _rows(found[:, columns], sites)
    _ignore(rows, sites, token_ids[first : first + len(rows)])
    experts = np.full((tokens - 1, *rows.shape[1:]), NOT_RECORDED, np.int16)
    experts[first : first + len(rows)] = rows
    return experts


def depth_of(model: nn.Module) -> int | None:
    """How many layers the configuration says that the decoder has; None where it does not say."""
    config: Any = getattr(model, "config", None)
    if hasattr(config, "get_text_config"):
        config = config.get_text_config()
    for name in ("num_decoder_layers", "num_hidden_layers"):
        depth = getattr(config, name, None)
        if isinstance(depth, int):
            return depth
    return None


def _look_up(layers: Sequence[int], keyed: Sequence[int], width: int) -> list[int]:
    """The column of each keyed layer."""
    given: list[Any] = list(layers) if isinstance(layers, (Sequence, np.ndarray)) else [None]
    if any(isinstance(layer, bool) or not isinstance(layer, Integral) for layer in given):
        raise InvalidTrace("layers must be whole numbers, the transformer layer of each column")
    if len(given) != width:
        raise InvalidTrace(f"layers names {len(given)} layers for {width} columns")
    place = {int(layer): column for column, layer in enumerate(given)}
    if len(place) < width:
        raise InvalidTrace("layers names a layer twice")
    for layer in keyed:
        if layer not in place:
            raise InvalidTrace(f"layers lacks layer {layer}, which has a router to be verified")
        if keyed.count(layer) > 1:
            raise InvalidTrace(f"layer {layer} has two routers: leave layers= out and give one column a router")
    return [place[layer] for layer in keyed]


def _guess(
    found: Int[np.ndarray, "rows columns k"], keyed: Sequence[int], depth: int | None, routed: Collection[int]
) -> list[int]:
    """The column of each keyed layer where only one layout is possible."""
    width = found.shape[1]
    if width == len(keyed):
        return list(range(width))
    ask = "say which layer each column belongs to with layers="
    if width != depth or width <= max(keyed) or len(set(keyed)) < len(keyed):
        of_model = "" if depth is None else f" ({depth})"
        raise InvalidTrace(
            f"{width} columns are neither one a router ({len(keyed)}) nor one a layer of the model{of_model}: {ask}"
        )
    dummies = (found == np.arange(found.shape[2])).all((1, 2))
    for layer in set(range(width)) - {*keyed, *routed}:
        if not _idle(found[~dummies, layer]):
            raise InvalidTrace(
                f"{width} columns are one a layer of the model, or one a router and others (multi-token prediction): "
                f"the column of layer {layer}, which has no router, is not constant; {ask}"
            )
    return list(keyed)


def _idle(column: Int[np.ndarray, "rows k"]) -> bool:
    """Whether no router wrote to a column: no slots of it can be a choice, or they never change."""
    no_choice = column[:, 0] < 0
    if column.shape[1] > 1:
        no_choice |= (column == column[:, :1]).all(-1)
    return bool(no_choice.all() or (len(column) >= STALE_RUN and (column == column[0]).all()))


def _rows(found: Int[np.ndarray, "rows sites k"], sites: Sequence[RouterSite]) -> Int16[np.ndarray, "rows sites top_k"]:
    """A copy, filled up with NOT_RECORDED where a site keeps fewer experts than another."""
    if found.size and not -1 <= found.min() <= found.max() < 2**15:
        raise InvalidTrace(f"expert indices must lie between -1 and {2**15 - 1}")
    rows = found.astype(np.int16)
    for column, site in enumerate(sites):
        rows[:, column, site.top_k :] = NOT_RECORDED
    return rows


def _ignore(
    rows: Int16[np.ndarray, "rows sites top_k"], sites: Sequence[RouterSite], token_ids: Int[np.ndarray, " rows"]
) -> None:
    """Put NOT_RECORDED in place of what no router made, and warn how much that was. Sees no key."""
    unfilled = np.zeros(len(rows), bool)
    for column, site in enumerate(sites):
        used = rows[:, column, : site.top_k]
        if site.top_k > 1:
            equal = (used == used[:, :1]).all(-1)
            unfilled |= equal & (used[:, 0] != NOT_RECORDED)
            used[equal] = NOT_RECORDED
    dummy, stale = np.zeros_like(unfilled), np.zeros_like(unfilled)
    if rows.shape[1] > 1 or rows.shape[2] > 1:  # one choice of one expert repeats itself too often
        pattern = np.full(rows.shape[1:], NOT_RECORDED, np.int16)
        for column, site in enumerate(sites):
            pattern[column, : site.top_k] = np.arange(site.top_k)
        dummy = (rows == pattern).all((1, 2))
        stale = _stale(rows, token_ids) & ~dummy & (rows != NOT_RECORDED).any((1, 2))
        rows[dummy | stale] = NOT_RECORDED
    reasons = {"slots left unfilled": unfilled & ~stale, "a dummy's experts 0, 1, ...": dummy, "a stale buffer": stale}
    ignored = int((unfilled | dummy | stale).sum())
    if ignored:
        why = ", ".join(f"{reason} ({int(which.sum())})" for reason, which in reasons.items() if which.any())
        log.warning("routed experts: %d of %d rows ignored, wholly or in part: %s", ignored, len(rows), why)


def _stale(
    rows: Int16[np.ndarray, "rows sites top_k"], token_ids: Int[np.ndarray, " rows"]
) -> Bool[np.ndarray, " rows"]:
    """The rows of runs that say the same of STALE_RUN or more tokens which are not all the same token."""
    stale = np.zeros(len(rows), bool)
    starts = [0, *(np.flatnonzero((rows[1:] != rows[:-1]).any((1, 2))) + 1).tolist(), len(rows)]
    for start, end in pairwise(starts):
        stale[start:end] = end - start >= STALE_RUN and bool((token_ids[start:end] != token_ids[start]).any())
    return stale
