"""Generates text with one trace for each returned sequence, also with batches, padding, caches and early ends."""

import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from okr.engines.transformers.calling import is_encoder_decoder
from okr.engines.transformers.columns import Reach, columns, passes_of, stack
from okr.engines.transformers.journal import Journal, Journals
from okr.engines.transformers.rotary import Scaling
from okr.errors import UnsupportedGeneration
from okr.traces import Trace, TraceHeader, folded

_FORBIDDEN = {
    "assistant_model": "assisted decoding",
    "assistant_early_exit": "assisted decoding by early exit",
    "prompt_lookup_num_tokens": "prompt lookup decoding",
    "inputs_embeds": "inputs_embeds",
    "penalty_alpha": "contrastive search",
    "dola_layers": "DoLa decoding",
    "custom_generate": "custom generation code",
    "adapter_names": "a batch of several adapters",
}
"""Ways of generating that cannot be traced, by the argument or generation setting that asks for them."""


@dataclass(frozen=True, repr=False)
class Generation:
    """What a generation returned. ``sequences``, int64 [B, L], are those of ``model.generate``. ``traces[i]`` belongs
    to ``sequences[i]``."""

    sequences: Tensor
    traces: list[Trace]

    def __repr__(self) -> str:
        return f"Generation(sequences={list(self.sequences.shape)}, {len(self.traces)} traces)"


def generate(model: nn.Module, journals: Journals, header: TraceHeader, arguments: dict[str, Any]) -> Generation:
    """Run ``model.generate(**arguments)`` in a journal of its own, and make one trace for each sequence from it.

    Raises UnsupportedGeneration for a way of generating that cannot be traced, and UnsupportedRouter if the recorded
    calls do not cover the sequences.
    """
    if not hasattr(model, "generate"):
        raise UnsupportedGeneration(
            f"{type(model).__name__} has no generate; run it in a loop of your own within recording(): see "
            f"docs/how-to/your-own-loop.md"
        )
    config: Any = arguments.get("generation_config") or model.generation_config
    _refuse(config, arguments)
    prompt = arguments.get("input_ids", arguments.get("inputs"))
    if not isinstance(prompt, Tensor) or prompt.dim() != 2 or not prompt.numel() or prompt.is_floating_point():
        raise UnsupportedGeneration("generate needs input_ids, an integer tensor [batch, tokens] that is not empty")
    if arguments.get("attention_mask") is None:
        pad = arguments.get("pad_token_id", config.pad_token_id)
        arguments = arguments | {"attention_mask": _mask(prompt, pad)}
    before = Before.of(model, arguments, prompt.shape[1])
    with journals.opened() as journal, before.scaling.shown_whole(model):
        output = model.generate(**arguments)  # type: ignore[operator]
    sequences: Tensor = output if isinstance(output, Tensor) else output.sequences
    mask = arguments["attention_mask"].to("cpu").bool()
    eos = arguments.get("eos_token_id", config.eos_token_id)
    other_stop = arguments.get("stop_strings") or config.stop_strings or arguments.get("stopping_criteria")
    padded = other_stop and eos is not None  # without an end token transformers pads no finished row
    ends = _Ends(eos, arguments.get("pad_token_id", config.pad_token_id) if padded else None)
    header = header.under(journal.autocast)
    return Generation(
        sequences, _traces(model, header, journal, sequences.cpu(), prompt.cpu(), mask, ends, before, arguments)
    )


def _refuse(config: Any, arguments: dict[str, Any]) -> None:
    """Raise UnsupportedGeneration if ``arguments`` or ``config`` ask for a way of generating that cannot be traced."""

    def asked(name: str) -> Any:
        return arguments[name] if arguments.get(name) is not None else getattr(config, name, None)

    for name, what in _FORBIDDEN.items():
        if asked(name) is not None:
            raise UnsupportedGeneration(f"{what} cannot be traced ({name} is set); generate greedily or by sampling")
    if (asked("num_beams") or 1) > 1:
        raise UnsupportedGeneration("beam search cannot be traced; set num_beams=1")
    if asked("guidance_scale") not in (None, 1):
        raise UnsupportedGeneration(
            "classifier-free guidance runs the model twice for a token and cannot be traced: leave guidance_scale out"
        )


def _mask(prompt: Tensor, pad: int | None) -> Tensor:
    """The attention mask that transformers would infer from the padding of ``prompt``."""
    return torch.ones_like(prompt) if pad is None else prompt.ne(pad).long()


@dataclass(frozen=True)
class _Ends:
    """The rule by which a generated row ends: with its first end-of-sequence token. If ``pad`` is given, another
    stopping rule is active, and a row without such a token ends before its padding."""

    eos: int | list[int] | None
    pad: int | None

    def length(self, row: Tensor, prompt_length: int) -> int:
        """How many tokens of ``row`` belong to the sequence, the prompt included."""
        ids = [] if self.eos is None else [self.eos] if isinstance(self.eos, int) else list(self.eos)
        new = row[prompt_length:]
        stops = torch.isin(new, torch.tensor(ids, dtype=new.dtype)).nonzero() if ids else new[:0]
        if len(stops):
            return prompt_length + int(stops[0]) + 1
        if self.pad is not None:
            kept = (new != self.pad).nonzero()
            return prompt_length + (int(kept[-1]) + 1 if len(kept) else 0)
        return len(row)


@dataclass(frozen=True)
class Before:
    """The state before a generation: how many positions a given cache held, the model's ``scaling``, and the length
    that it had ``reached``."""

    cached: int
    scaling: Scaling
    reached: int

    @classmethod
    def of(cls, model: nn.Module, arguments: dict[str, Any], prompt_length: int) -> "Before":
        """The state before a generation with these ``arguments``. Raises UnsupportedGeneration if the given cache holds
        the whole prompt."""
        cache: Any = arguments.get("past_key_values")
        known = hasattr(cache, "get_seq_length") and not is_encoder_decoder(model)
        cached = int(cache.get_seq_length()) if known else 0
        if cached >= prompt_length:
            raise UnsupportedGeneration(
                f"past_key_values holds {cached} tokens, but input_ids only {prompt_length}: input_ids must hold the "
                f"tokens in the cache and at least one more"
            )
        scaling = Scaling(model)
        return cls(cached, scaling, scaling.reached())


def _traces(
    model: nn.Module,
    header: TraceHeader,
    journal: Journal,
    sequences: Tensor,
    prompt: Tensor,
    mask: Tensor,
    ends: _Ends,
    before: Before,
    arguments: dict[str, Any],
) -> list[Trace]:
    """One trace for each row of ``sequences``, from what ``journal`` recorded."""
    recorded = journal.calls
    batch, length = sequences.shape
    repeats = batch // len(prompt)
    mask, prompt = (part.repeat_interleave(repeats, 0) for part in (mask, prompt))
    encoder_decoder = is_encoder_decoder(model)
    given = arguments.get("decoder_input_ids")
    prompt_length = (1 if given is None else given.shape[1]) if encoder_decoder else prompt.shape[1]
    decoder = [calls for calls, site in _pairs(recorded, header) if not site.in_encoder]
    inner = [columns(calls, batch, length - 1, before.cached) for calls in decoder]
    outer = [
        columns(calls, batch // repeats, prompt.shape[1]).repeat_interleave(repeats, 0)
        for calls, site in _pairs(recorded, header)
        if site.in_encoder
    ]
    keep = torch.ones(batch, length, dtype=torch.bool)
    if not encoder_decoder:
        keep[:, :prompt_length] = mask
    for row in range(batch):
        keep[row, ends.length(sequences[row], prompt_length) :] = False
    routed = (keep & (keep.cumsum(1) < keep.sum(1, keepdim=True)))[:, :-1]  # the last token was never an input
    passes: list[np.ndarray | None] = [None] * batch
    if before.scaling and not encoder_decoder:
        passes = passes_by_row(model, journal, routed, mask, before)
    traces = []
    for row in range(batch):
        source: dict[str, Any] = {}
        if outer:
            source = {
                "encoder_token_ids": prompt[row, mask[row]].numpy().astype(np.int32),
                "encoder_experts": stack([site[row, mask[row]] for site in outer], int(mask[row].sum())),
            }
        traces.append(
            Trace(
                header=header,
                token_ids=sequences[row, keep[row]].numpy().astype(np.int32),
                experts=stack([site[row, routed[row]] for site in inner], int(routed[row].sum())),
                prompt_length=int(keep[row, :prompt_length].sum()),
                passes=passes[row],
                **source,
            )
        )
    return traces


def passes_by_row(
    model: nn.Module, journal: Journal, routed: Tensor, mask: Tensor, before: Before
) -> list[np.ndarray | None]:
    """The forward passes in which the model saw each sequence, folded (:mod:`okr.traces.passes`). ``routed``
    [batch, positions] says which positions hold tokens that were inputs."""
    batch, length = routed.shape
    own = torch.cat([mask.long(), torch.ones(batch, length).long()], 1)[:, :length].cumsum(1)
    lengths = torch.arange(1, length + 1)
    if "position_ids" in inspect.signature(model.forward).parameters:  # then padding has no position
        lengths = own.amax(0)
    counts = [len(call) // batch for call in journal.calls[0]]
    reach = Reach.of(counts, own, lengths, journal.lengths, before.cached)
    reached = before.scaling.outlasting(before.reached, reach.first)
    if reach.shifted:
        before.scaling.refuse_changes(reach.ends(), reached)
    earlier = [(0, reached)] if reached else []
    return [folded(earlier + passes_of(row, reach.counts, reach.lengths)) for row in routed]


def _pairs(recorded: list[list[Tensor]], header: TraceHeader) -> Any:
    """The recorded calls of each site, with the site."""
    return zip(recorded, header.sites, strict=True)
