"""What a collector gathers: the experts of one sequence, layer by layer, as they ran."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int
from torch import nn

from okr.baking.models import header_of
from okr.discovery.discover import without_weights
from okr.errors import InvalidTrace
from okr.loaders import architecture
from okr.traces import Trace
from okr.traces.routed_experts import whole_array


class Routing:
    """The experts that ran for one sequence. A collector adds them in the order of the tokens."""

    def __init__(self) -> None:
        self._parts: dict[int, list[tuple[int, Any]]] = {}  # of each layer, each with its first token

    def add(self, layer: int, experts: Any) -> None:
        """Add the experts of the next tokens at a layer: anything that NumPy reads as [tokens, k]. It is read when
        :meth:`array` is called."""
        parts = self._parts.setdefault(layer, [])
        first = parts[-1][0] + len(parts[-1][1]) if parts else 0
        parts.append((first, experts))

    def keep(self, tokens: int) -> None:
        """Forget all but the first ``tokens`` tokens. An engine that goes back in its cache runs the others again."""
        for layer, parts in list(self._parts.items()):
            while parts and parts[-1][0] >= tokens:
                parts.pop()
            if parts:
                first, experts = parts[-1]
                parts[-1] = (first, experts[: tokens - first])
            else:
                del self._parts[layer]

    def clear(self) -> None:
        """Forget what was added, before another sequence."""
        self._parts.clear()

    @property
    def layers(self) -> list[int]:
        """The layers that experts were added for."""
        return sorted(self._parts)

    def array(self) -> Int[np.ndarray, "tokens layers k"]:
        """All that was added. Raises InvalidTrace if the layers do not fit together: several sequences ran at once, or
        one was broken off."""
        if not self._parts:
            raise InvalidTrace("no experts were collected: did the engine run within the block?")
        read = [[whole_array(rows, "experts") for _, rows in self._parts[layer]] for layer in self.layers]
        kinds = {(part.ndim, part.shape[-1:], part.dtype.kind in "iu") for parts in read for part in parts}
        if len(kinds) > 1 or kinds.pop()[::2] != (2, True):
            raise InvalidTrace("experts must be whole numbers [tokens, k], with the same k at every layer")
        joined = [np.concatenate(parts) for parts in read]
        if len({len(rows) for rows in joined}) != 1:
            raise InvalidTrace("the layers ran different numbers of tokens: collect one sequence at a time")
        return np.stack(joined, axis=1).astype(np.int64)

    def trace(self, token_ids: Sequence[int], *, model: str | nn.Module, prompt_length: int, **header: Any) -> Trace:
        """The trace of the sequence that ran.

        Arguments:
            token_ids: whole numbers [n], prompt and generated tokens.
            model: the model in transformers, or its embedded name, folder or hub id, of which only the configuration is
                read. The trace of a baked folder names the folder's key and setting.
            prompt_length: how many tokens were given.
            **header: ``key_id``, ``zone``, ``epsilon`` and ``strength``, as far as they are known.

        Raises InvalidTrace if fewer experts were collected than the tokens need, or those of more than one sequence. An
        engine may have run the last token, and one that it drew ahead.
        """
        experts = self.array()
        if not len(token_ids) - 1 <= len(experts) <= len(token_ids) + 1:
            raise InvalidTrace(
                f"{len(experts)} tokens were collected, but {len(token_ids)} are given: one sequence only"
            )
        if not isinstance(model, nn.Module):
            baked = header_of(model)
            if baked is not None:
                header = {"key_id": baked.key_id, **vars(baked.setting)} | header
            model = without_weights(architecture(model))
        return Trace.from_routed_experts(
            token_ids,
            experts[: len(token_ids)],
            model=model,
            layers=self.layers,
            first=0,
            prompt_length=prompt_length,
            **header,
        )
