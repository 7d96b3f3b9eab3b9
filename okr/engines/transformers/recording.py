"""Makes traces of your own loop: begin a recording, call the model as often as you like, and cut the recording into
traces."""

from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from okr.engines.transformers.columns import columns, stack, standing
from okr.engines.transformers.generation import Before, passes_by_row
from okr.engines.transformers.journal import Journal
from okr.errors import UnsupportedGeneration
from okr.traces import Trace, TraceHeader


class Recording:
    """The calls of a model in one ``with recorder.recording()`` block, by the thread or task that opened it.

    Every call of the model must see the whole batch. With a cache each call sees the tokens that follow those of the
    last call. Without a cache each call sees all tokens again.
    """

    def __init__(self, model: nn.Module, journal: Journal, header: TraceHeader) -> None:
        self._model, self._journal, self._header = model, journal, header
        self._before = Before.of(model, {}, 1)

    def traces(self, sequences: Tensor, *, prompt_length: int = 0, attention_mask: Tensor | None = None) -> list[Trace]:
        """One trace for each row of ``sequences``.

        Arguments:
            sequences: int64 [batch, tokens], the tokens that the model saw, in order. One more token at the end, which
                the model was not shown, is allowed.
            prompt_length: how many tokens of each row were given, padding included.
            attention_mask: [batch, tokens], 0 where a row holds padding.

        Raises UnsupportedGeneration for other shapes, for encoder-decoders and for calls of which nobody can tell what
        they saw, and UnsupportedRouter if the calls do not cover the sequences.
        """
        rows = _matrix("sequences", sequences)
        mask = torch.ones_like(rows) if attention_mask is None else _matrix("attention_mask", attention_mask)
        if mask.shape != rows.shape:
            raise UnsupportedGeneration(
                f"attention_mask must have the shape of sequences, {tuple(rows.shape)}, got {tuple(mask.shape)}"
            )
        number = isinstance(prompt_length, Integral) and not isinstance(prompt_length, bool)
        if not number or not 0 <= prompt_length <= rows.shape[1]:
            raise UnsupportedGeneration(f"prompt_length must lie between 0 and {rows.shape[1]}, got {prompt_length}")
        if any(site.in_encoder for site in self._header.sites):
            raise UnsupportedGeneration("a recording is for decoders alone: use generate for a model with an encoder")
        header = self._header.under(self._journal.autocast)
        batch, length = rows.shape
        calls = self._journal.calls
        shown = _shown([len(call) // batch for call in calls[0]], length)
        sites = [columns(site, batch, shown)[:, : length - 1] for site in calls]
        keep = mask.bool()
        routed = (keep & (keep.cumsum(1) < keep.sum(1, keepdim=True)))[:, :-1]  # all but the last token of a row
        passes: list[np.ndarray | None] = [None] * batch
        if self._before.scaling:
            whole = torch.nn.functional.pad(routed, (0, shown - length + 1))
            passes = passes_by_row(self._model, self._journal, whole, keep[:, :shown], self._before)
        return [
            Trace(
                header=header,
                token_ids=rows[row, keep[row]].numpy().astype(np.int32),
                experts=stack([site[row, routed[row]] for site in sites], int(routed[row].sum())),
                prompt_length=int(keep[row, :prompt_length].sum()),
                passes=passes[row],
            )
            for row in range(batch)
        ]


def _shown(counts: list[int], length: int) -> int:
    """How many of ``length`` tokens the calls, of ``counts`` tokens each, showed the model: all, or all but the last.

    Raises UnsupportedGeneration for calls that may have done either: one token, and then two that are the next two or
    the first two.
    """
    whole, part = (standing(counts, shown) is not None for shown in (length, length - 1))
    if whole and part:
        raise UnsupportedGeneration(
            f"calls of {counts[0]} and then {counts[1]} tokens may have shown the model all {length} tokens or all but "
            f"the last: show it more than one token in the first call"
        )
    return length if whole else length - 1


def _matrix(name: str, value: Any) -> Tensor:
    """``value`` on the CPU. Raises UnsupportedGeneration unless it is an integer matrix that is not empty."""
    if not isinstance(value, Tensor) or value.dim() != 2 or not value.numel() or value.is_floating_point():
        raise UnsupportedGeneration(f"{name} must be an integer tensor [batch, tokens] that is not empty")
    return value.cpu()
