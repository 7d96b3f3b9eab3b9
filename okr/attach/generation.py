"""Generating with traces: one trace a returned sequence, under batching, padding, caching and early ends."""

import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from okr.attach.columns import passes_of, standing
from okr.attach.journal import Journals
from okr.attach.rotary import Scaling
from okr.errors import UnsupportedGeneration, UnsupportedRouter
from okr.traces import NOT_RECORDED, Trace, TraceHeader, folded

_FORBIDDEN = {
    "assistant_model": "assisted decoding",
    "assistant_early_exit": "assisted decoding by early exit",
    "prompt_lookup_num_tokens": "prompt lookup decoding",
    "inputs_embeds": "inputs_embeds",
    "penalty_alpha": "contrastive search",
    "dola_layers": "DoLa decoding",
    "custom_generate": "custom generation code",
}
"""Ways of generating that cannot be traced, as an argument or in the generation configuration."""


@dataclass(frozen=True)
class Generation:
    """``sequences`` as ``model.generate`` returns them, int64 [B, L]; ``traces[i]`` belongs to ``sequences[i]``."""

    sequences: Tensor
    traces: list[Trace]


def generate(model: nn.Module, journals: Journals, header: TraceHeader, arguments: dict[str, Any]) -> Generation:
    """``model.generate(**arguments)`` with a journal of its own, cut into one trace a sequence."""
    config: Any = arguments.get("generation_config") or model.generation_config
    _refuse(config, arguments)
    prompt = arguments.get("input_ids", arguments.get("inputs"))
    if not isinstance(prompt, Tensor) or prompt.dim() != 2 or not prompt.numel() or prompt.is_floating_point():
        raise UnsupportedGeneration("generate needs input_ids, an integer tensor [batch, tokens] that is not empty")
    if arguments.get("attention_mask") is None:
        pad = arguments.get("pad_token_id", config.pad_token_id)
        arguments = arguments | {"attention_mask": _mask(prompt, pad)}
    before = _Before.of(model, arguments, prompt.shape[1])
    with journals.opened() as journal:
        output = model.generate(**arguments)  # type: ignore[operator]
    sequences: Tensor = output if isinstance(output, Tensor) else output.sequences
    mask = arguments["attention_mask"].to("cpu").bool()
    eos = arguments.get("eos_token_id", config.eos_token_id)
    other_stop = arguments.get("stop_strings") or config.stop_strings or arguments.get("stopping_criteria")
    padded = other_stop and eos is not None  # transformers pads no finished row where there is no such token
    ends = _Ends(eos, arguments.get("pad_token_id", config.pad_token_id) if padded else None)
    return Generation(
        sequences, _traces(model, header, journal.calls, sequences.cpu(), prompt.cpu(), mask, ends, before, arguments)
    )


def _refuse(config: Any, arguments: dict[str, Any]) -> None:
    def asked(name: str) -> Any:
        return arguments[name] if arguments.get(name) is not None else getattr(config, name, None)

    for name, what in _FORBIDDEN.items():
        if asked(name) is not None:
            raise UnsupportedGeneration(f"{what} cannot be traced ({name} is set); generate greedily or by sampling")
    if (asked("num_beams") or 1) > 1:
        raise UnsupportedGeneration("beam search cannot be traced; set num_beams=1")
    if asked("guidance_scale") not in (None, 1):
        raise UnsupportedGeneration(
            "classifier-free guidance runs the model twice a token and cannot be traced; leave guidance_scale out"
        )


def _mask(prompt: Tensor, pad: int | None) -> Tensor:
    return torch.ones_like(prompt) if pad is None else prompt.ne(pad).long()


@dataclass(frozen=True)
class _Ends:
    """Where a generated row ends: at its first end-of-sequence token; where other stopping rules are in force
    (``pad`` is given), before the padding behind it."""

    eos: int | list[int] | None
    pad: int | None

    def length(self, row: Tensor, prompt_length: int) -> int:
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
class _Before:
    """What held before a generation: how many positions a given cache has, and how far its scaling had gone."""

    cached: int
    scaling: Scaling
    reached: int

    @classmethod
    def of(cls, model: nn.Module, arguments: dict[str, Any], prompt_length: int) -> "_Before":
        cache: Any = arguments.get("past_key_values")
        known = hasattr(cache, "get_seq_length") and not getattr(model.config, "is_encoder_decoder", False)
        cached = int(cache.get_seq_length()) if known else 0
        if cached >= prompt_length:
            raise UnsupportedGeneration(
                f"past_key_values holds {cached} tokens, input_ids {prompt_length}: give input_ids whole, the tokens "
                f"in the cache and at least one more"
            )
        scaling = Scaling(model)
        return cls(cached, scaling, scaling.reached())


def _traces(
    model: nn.Module,
    header: TraceHeader,
    recorded: list[list[Tensor]],
    sequences: Tensor,
    prompt: Tensor,
    mask: Tensor,
    ends: _Ends,
    before: _Before,
    arguments: dict[str, Any],
) -> list[Trace]:
    batch, length = sequences.shape
    repeats = batch // len(prompt)
    mask, prompt = (part.repeat_interleave(repeats, 0) for part in (mask, prompt))
    encoder_decoder = bool(getattr(model.config, "is_encoder_decoder", False))
    given = arguments.get("decoder_input_ids")
    prompt_length = (1 if given is None else given.shape[1]) if encoder_decoder else prompt.shape[1]
    decoder = [calls for calls, site in _pairs(recorded, header) if not site.in_encoder]
    inner = [_columns(calls, batch, length - 1, before.cached) for calls in decoder]
    outer = [
        _columns(calls, batch // repeats, prompt.shape[1]).repeat_interleave(repeats, 0)
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
        passes = _passes(model, decoder[0], routed, mask, before)
    traces = []
    for row in range(batch):
        source: dict[str, Any] = {}
        if outer:
            source = {
                "encoder_token_ids": prompt[row, mask[row]].numpy().astype(np.int32),
                "encoder_experts": _stack([site[row, mask[row]] for site in outer]),
            }
        traces.append(
            Trace(
                header=header,
                token_ids=sequences[row, keep[row]].numpy().astype(np.int32),
                experts=_stack([site[row, routed[row]] for site in inner]),
                prompt_length=int(keep[row, :prompt_length].sum()),
                passes=passes[row],
                **source,
            )
        )
    return traces


def _passes(
    model: nn.Module, calls: list[Tensor], routed: Tensor, mask: Tensor, before: _Before
) -> list[np.ndarray | None]:
    """By which passes the model saw each sequence, for ``routed`` [batch, positions], tokens that were inputs."""
    batch, length = routed.shape
    counts = [len(call) // batch for call in calls]
    lengths = torch.arange(1, length + 1)
    if "position_ids" in inspect.signature(model.forward).parameters:  # padding has no position then
        lengths = torch.cat([mask.long(), torch.ones(batch, length).long()], 1)[:, :length].cumsum(1).amax(0)
    first = before.cached + counts[0]
    reached = before.scaling.outlasting(before.reached, int(lengths[first - 1]))
    start = standing(counts, length, before.cached)
    if start == 0 and before.cached:
        counts = [before.cached, *counts]  # nobody knows by which passes the given cache was made
    earlier = [(0, reached)] if reached else []
    return [folded(earlier + passes_of(row, counts[start:], lengths)) for row in routed]


def _pairs(recorded: list[list[Tensor]], header: TraceHeader) -> Any:
    return zip(recorded, header.sites, strict=True)


def _columns(calls: list[Tensor], batch: int, length: int, cached: int = 0) -> Tensor:
    """The experts of one site over ``length`` positions, int16 [batch, length, k] on the CPU; NOT_RECORDED for the
    first ``cached``, where no call saw them."""
    parts = [call.view(batch, -1, call.shape[-1]) for call in calls if len(call) % batch == 0]
    if len(parts) == len(calls):
        start = standing([part.shape[1] for part in parts], length, cached)
        if start is not None:
            rows = torch.cat(parts[start:], 1).cpu()
            return torch.nn.functional.pad(rows, (0, 0, length - rows.shape[1], 0), value=NOT_RECORDED)
    raise UnsupportedRouter(
        f"the recorded routing ({[len(call) for call in calls][:4]} ... tokens a call) does not cover the "
        f"{batch} x {length} tokens generated; this way of generating cannot be traced"
    )


def _stack(sites: list[Tensor]) -> np.ndarray:
    """[tokens, k] per site -> int16 [tokens, sites, largest k], filled up with NOT_RECORDED."""
    if not sites:
        return np.zeros((0, 0, 0), np.int16)
    widest = max(site.shape[-1] for site in sites)
    padded = [torch.nn.functional.pad(site, (0, widest - site.shape[-1]), value=NOT_RECORDED) for site in sites]
    return torch.stack(padded, 1).numpy()
