"""Converts the ``routed_experts`` arrays of serving engines (vLLM, SGLang) to the layout of a trace."""

import logging
from collections.abc import Collection, Sequence
from numbers import Integral
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Int16
from torch import nn

from okr.discovery import RouterSite
from okr.errors import InvalidTrace
from okr.traces.unrouted import NOT_RECORDED, take_out

FEWEST = 4  # the fewest equal rows that show a column to be constant

log = logging.getLogger("okr")


def arrange(
    array: Any,
    sites: Sequence[RouterSite],
    token_ids: Int[np.ndarray, " tokens"],
    first: int | None,
    *,
    layers: Sequence[int] | None = None,
    depth: int | None = None,
    routed: Collection[int] = (),
) -> tuple[Int16[np.ndarray, "routed sites top_k"], dict[str, int]]:
    """The experts that ran for all of ``token_ids`` but the last, int16, and how much of ``array`` was ignored, by
    reason.

    Arguments:
        array: the engine's array, whole numbers [rows, columns, k].
        sites: the sites to record.
        token_ids: the tokens of the sequence, [tokens].
        first: row r belongs to token ``first`` + r. None if there is a row for every token, or for all but the last.
        layers: the transformer layer of each column. None if only one assignment is possible.
        depth: the number of layers of the model, or None if it is not known.
        routed: the layers with a router, keyed or not, beside those of ``sites``.

    Rows that no router made count as not recorded (:mod:`okr.traces.unrouted`); a warning says how many. Raises
    InvalidTrace unless the array has one of the layouts that Trace.from_routed_experts documents.
    """
    found = whole_array(array, "routed experts")
    if found.ndim != 3 or found.dtype.kind not in "iu":
        raise InvalidTrace(f"routed experts must be whole numbers [rows, layers, k], got {found.dtype} {found.shape}")
    tokens, count = len(token_ids), len(found)
    if first is None:
        if count < tokens - 1:
            raise InvalidTrace(
                f"{count} rows for {tokens} tokens: give first=, the token that the first row belongs to (after a "
                f"cached prefix, its length)"
            )
        first = 0
    if isinstance(first, bool) or not isinstance(first, Integral) or first < 0 or first + count > tokens:
        raise InvalidTrace(f"{count} rows from token {first!r} on do not fit a sequence of {tokens} tokens")
    widest = max(site.top_k for site in sites)
    if found.shape[2] != widest:
        raise InvalidTrace(
            f"{found.shape[2]} experts for a token, but the routers keep {widest}: leave out fused shared experts"
        )
    found = found[: tokens - 1 - first]
    if layers is None:
        columns = _guess(found, [site.layer for site in sites], depth, routed)
    else:
        columns = _look_up(layers, [site.layer for site in sites], found.shape[1])
    others = found.shape[1] - len(columns)
    rows = _rows(found[:, columns], sites)
    reasons = take_out(rows, sites, token_ids[first : first + len(rows)])
    experts = np.full((tokens - 1, *rows.shape[1:]), NOT_RECORDED, np.int16)
    experts[first : first + len(rows)] = rows
    return experts, _warn(reasons, len(rows)) | ({"columns of other layers": others} if others else {})


def whole_array(given: Any, what: str) -> np.ndarray:
    """``given`` as an array. Raises InvalidTrace if its rows differ in length, or if NumPy cannot read it (a tensor on
    another device, or of bfloat16)."""
    try:
        return np.asarray(given)
    except (TypeError, ValueError, RuntimeError):
        raise InvalidTrace(
            f"{what} must be one array of whole numbers in the host's memory: as many entries in every row, no tensor "
            f"of another device, nor of bfloat16"
        ) from None


def depth_of(model: nn.Module) -> int | None:
    """The number of decoder layers in the model's configuration, or None if it does not give one."""
    config: Any = getattr(model, "config", None)
    if hasattr(config, "get_text_config"):
        config = config.get_text_config()
    for name in ("num_decoder_layers", "num_hidden_layers"):
        depth = getattr(config, name, None)
        if isinstance(depth, int):
            return depth
    return None


def _look_up(layers: Sequence[int], keyed: Sequence[int], width: int) -> list[int]:
    """The column of each layer in ``keyed``, as ``layers`` names them."""
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
            raise InvalidTrace(f"layers lacks layer {layer}, which has a router site")
        if keyed.count(layer) > 1:
            raise InvalidTrace(f"layer {layer} has two routers: leave layers= out and give one column for each router")
    return [place[layer] for layer in keyed]


def _guess(
    found: Int[np.ndarray, "rows columns k"], keyed: Sequence[int], depth: int | None, routed: Collection[int]
) -> list[int]:
    """The column of each layer in ``keyed``. Raises InvalidTrace if more than one assignment is possible."""
    width = found.shape[1]
    ask = "say which layer each column belongs to with layers="
    dummies = (found == np.arange(found.shape[2])).all((1, 2))
    if width == len(keyed):
        empty = (found[~dummies] == found[~dummies][:, :, :1]).all((0, 2))
        if empty.any() and not empty.all() and depth != width and found.shape[2] > 1:
            raise InvalidTrace(
                f"{width} columns for as many routers, but column {empty.argmax()} holds no choice of experts, like "
                f"that of a layer without a router: {ask}"
            )
        return list(range(width))
    if width != depth or width <= max(keyed) or len(set(keyed)) < len(keyed):
        of_model = "" if depth is None else f" ({depth})"
        raise InvalidTrace(
            f"{width} columns are neither one for each router ({len(keyed)}) nor one for each layer{of_model}: {ask}"
        )
    for layer in set(range(width)) - {*keyed, *routed}:
        if not _idle(found[~dummies, layer]):
            raise InvalidTrace(
                f"{width} columns may be one for each layer, or one for each router and others (multi-token "
                f"prediction): the column of layer {layer}, which has no router, is not constant; {ask}"
            )
    return list(keyed)


def _idle(column: Int[np.ndarray, "rows k"]) -> bool:
    """Whether no router wrote to a column: none of its rows can be a choice of experts, or all its rows, at least
    FEWEST, are equal."""
    no_choice = column[:, 0] < 0
    if column.shape[1] > 1:
        no_choice |= (column == column[:, :1]).all(-1)
    return bool(no_choice.all() or (len(column) >= FEWEST and (column == column[0]).all()))


def _rows(found: Int[np.ndarray, "rows sites k"], sites: Sequence[RouterSite]) -> Int[np.ndarray, "rows sites k"]:
    """A copy of ``found``, int64. Raises InvalidTrace if its dtype cannot hold the experts of ``sites``."""
    most = max(site.num_experts for site in sites)
    if np.iinfo(found.dtype).max < most - 1:
        raise InvalidTrace(
            f"{found.dtype} cannot hold {most} experts, so some have wrapped around; read the array as uint8 or wider"
        )
    return found.astype(np.int64)


def _warn(reasons: dict[str, Bool[np.ndarray, " rows"]], rows: int) -> dict[str, int]:
    """How many rows each reason touched, without reasons that touched none. Logs a warning if any row was touched."""
    counts = {reason: int(which.sum()) for reason, which in reasons.items() if which.any()}
    if counts:
        touched = int(np.any(list(reasons.values()), axis=0).sum())
        why = ", ".join(f"{reason} ({count})" for reason, count in counts.items())
        log.warning("routed experts: %d of %d rows ignored, wholly or in part: %s", touched, rows, why)
    return counts
