"""Generating with traces: one trace a returned sequence, under batching, padding, caching and early ends."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from okr.attach.routings import Report
from okr.errors import UnsupportedGeneration, UnsupportedRouter
from okr.traces import NOT_RECORDED, Trace, TraceHeader

_FORBIDDEN = {
    "assistant_model": "assisted decoding",
    "prompt_lookup_num_tokens": "prompt lookup decoding",
    "inputs_embeds": "inputs_embeds",
    "penalty_alpha": "contrastive search",
    "dola_layers": "DoLa decoding",
    "custom_generate": "custom generation code",
    "adapter_names": "a batch of several adapters",
}


@dataclass(frozen=True, repr=False)
class Generation:
    """``sequences`` as ``model.generate`` returns them, int64 [B, L]; ``traces[i]`` belongs to ``sequences[i]``."""

    sequences: Tensor
    traces: list[Trace]

    def __repr__(self) -> str:
        return f"Generation(sequences={list(self.sequences.shape)}, {len(self.traces)} traces)"


class Journal:
    """What ran at every site since ``start``, on the device, as int16 [rows of the call, k] per call."""

    def __init__(self, sites: int) -> None:
        self.calls: list[list[Tensor]] = [[] for _ in range(sites)]
        self.open = False

    def reporter(self, site: int) -> Report:
        """What site ``site`` reports the experts of each call to."""

        def report(ran: Callable[[], Tensor]) -> None:
            if self.open:
                self.calls[site].append(ran().to(torch.int16))

        return report

    def start(self) -> None:
        self.stop()
        self.open = True

    def stop(self) -> None:
        self.open = False
        for calls in self.calls:
            calls.clear()


def generate(model: nn.Module, journal: Journal, header: TraceHeader, arguments: dict[str, Any]) -> Generation:
    """``model.generate(**arguments)`` while ``journal`` listens, cut into one trace a sequence."""
    config: Any = arguments.get("generation_config") or model.generation_config
    _refuse(config, arguments)
    prompt = arguments.get("input_ids", arguments.get("inputs"))
    if not isinstance(prompt, Tensor) or prompt.dim() != 2 or not prompt.numel() or prompt.is_floating_point():
        raise UnsupportedGeneration("generate needs input_ids, an integer tensor [batch, tokens] that is not empty")
    if arguments.get("attention_mask") is None:
        pad = arguments.get("pad_token_id", config.pad_token_id)
        arguments = arguments | {"attention_mask": _mask(prompt, pad)}
    journal.start()
    try:
        output = model.generate(**arguments)  # type: ignore[operator]
        sequences: Tensor = output if isinstance(output, Tensor) else output.sequences
        recorded = [list(calls) for calls in journal.calls]
    finally:
        journal.stop()
    mask = arguments["attention_mask"].to("cpu").bool()
    eos = arguments.get("eos_token_id", config.eos_token_id)
    other_stop = arguments.get("stop_strings") or config.stop_strings or arguments.get("stopping_criteria")
    padded = other_stop and eos is not None  # transformers pads no finished row where there is no such token
    ends = _Ends(eos, arguments.get("pad_token_id", config.pad_token_id) if padded else None)
    return Generation(sequences, _traces(model, header, recorded, sequences.cpu(), prompt.cpu(), mask, ends, arguments))


def _refuse(config: Any, arguments: dict[str, Any]) -> None:
    for name, what in _FORBIDDEN.items():
        if arguments.get(name) is not None:
            raise UnsupportedGeneration(f"{what} cannot be traced; generate greedily or by sampling")
    if (arguments.get("num_beams") or config.num_beams or 1) > 1:
        raise UnsupportedGeneration("beam search cannot be traced; set num_beams=1")


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


def _traces(
    model: nn.Module,
    header: TraceHeader,
    recorded: list[list[Tensor]],
    sequences: Tensor,
    prompt: Tensor,
    mask: Tensor,
    ends: _Ends,
    arguments: dict[str, Any],
) -> list[Trace]:
    batch, length = sequences.shape
    repeats = batch // len(prompt)
    mask, prompt = (part.repeat_interleave(repeats, 0) for part in (mask, prompt))
    encoder_decoder = bool(getattr(model.config, "is_encoder_decoder", False))
    given = arguments.get("decoder_input_ids")
    prompt_length = (1 if given is None else given.shape[1]) if encoder_decoder else prompt.shape[1]
    inner = [_columns(calls, batch, length - 1) for calls, site in _pairs(recorded, header) if not site.in_encoder]
    outer = [
        _columns(calls, batch // repeats, prompt.shape[1]).repeat_interleave(repeats, 0)
        for calls, site in _pairs(recorded, header)
        if site.in_encoder
    ]
    traces = []
    for row in range(batch):
        keep = torch.zeros(length, dtype=torch.bool)
        keep[:prompt_length] = True if encoder_decoder else mask[row]
        keep[prompt_length : ends.length(sequences[row], prompt_length)] = True
        tokens = sequences[row, keep]
        source = {}
        if outer:
            source = {
                "encoder_token_ids": prompt[row, mask[row]].numpy().astype(np.int32),
                "encoder_experts": _stack([site[row, mask[row]] for site in outer]),
            }
        traces.append(
            Trace(
                header=header,
                token_ids=tokens.numpy().astype(np.int32),
                experts=_stack([site[row, keep[:-1]][: len(tokens) - 1] for site in inner]),
                prompt_length=int(keep[:prompt_length].sum()),
                **source,
            )
        )
    return traces


def _pairs(recorded: list[list[Tensor]], header: TraceHeader) -> Any:
    return zip(recorded, header.sites, strict=True)


def _columns(calls: list[Tensor], batch: int, length: int) -> Tensor:
    """The experts of one site over ``length`` positions, int16 [batch, length, k] on the CPU.

    With a cache the calls follow each other; without one the last call saw everything.
    """
    parts = [call.view(batch, -1, call.shape[-1]) for call in calls if len(call) % batch == 0]
    if len(parts) == len(calls):
        if sum(part.shape[1] for part in parts) == length:
            return torch.cat(parts, 1).cpu()
        if parts and parts[-1].shape[1] == length:
            return parts[-1].cpu()
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
