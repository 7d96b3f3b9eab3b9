"""Defines traces and their files: the experts that ran, as small integers in a safetensors file with a header (spec
chapter TRACE).

A trace file may come from an attacker. Whatever a file holds, loading it gives a consistent trace or raises
InvalidTrace.
"""

import hashlib
import json
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Int, Int16, Int32
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save
from torch import nn

from okr import files
from okr.discovery import RouterSite, discover
from okr.errors import InvalidTrace
from okr.traces import responses
from okr.traces.header import TraceHeader
from okr.traces.passes import check_passes
from okr.traces.routed_experts import arrange, depth_of, whole_array
from okr.traces.unrouted import NOT_RECORDED
from okr.validation import first_problem

NOTHING_RAN = -2  # in place of an expert index: a capacity dropped the token
MAX_FILE_BYTES = 2**30
MAX_HEADER_BYTES = 2**21


@dataclass(frozen=True, eq=False, repr=False)
class Trace:
    """One sequence and the experts that ran for it.

    Attributes:
        header: the model, its sites, the key id and the setting.
        token_ids: int32 [n], the decoder's tokens, prompt first.
        experts: int16 [n - 1, decoder sites, k]. There is no row for the last token, which was never an input.
            NOT_RECORDED (-1) means that nothing is known, NOTHING_RAN (-2) that a capacity dropped the token. Sites
            with fewer than the largest k are filled up with -1.
        prompt_length: how many decoder tokens were given, not generated.
        encoder_token_ids: int32 [m], the encoder's tokens; None without encoder sites.
        encoder_experts: int16 [m, encoder sites, k]; None without encoder sites.
        passes: int32 [runs, 3], the forward passes in which the model saw the routed tokens (:mod:`okr.traces.passes`).
            None unless the model's rotary scaling changes with the length.
        ignored: how many rows and columns of a serving engine's array were ignored, by reason. It is not saved.

    Raises InvalidTrace if the parts do not fit together.
    """

    header: TraceHeader
    token_ids: Int32[np.ndarray, " tokens"]
    experts: Int16[np.ndarray, "routed sites top_k"]
    prompt_length: int
    encoder_token_ids: Int32[np.ndarray, " source"] | None = None
    encoder_experts: Int16[np.ndarray, "source encoder_sites top_k"] | None = None
    passes: Int32[np.ndarray, "runs 3"] | None = None
    ignored: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(self)

    def __repr__(self) -> str:
        sites, key = len(self.header.sites), self.header.key_id
        tokens = f"{len(self.token_ids)} tokens, {self.new_tokens} of them new"
        return f"Trace({self.header.model.class_name}, {tokens}, {sites} sites, key_id={key})"

    @classmethod
    def from_routed_experts(
        cls,
        token_ids: Sequence[int] | np.ndarray,
        array: Any,
        *,
        model: nn.Module,
        sites: Sequence[RouterSite] | None = None,
        prompt_length: int = 0,
        first: int | None = None,
        layers: Sequence[int] | None = None,
        **header: Any,
    ) -> "Trace":
        """The trace of one sequence, made from the ``routed_experts`` that a serving engine returned (docs/traces.md).

        Arguments:
            token_ids: whole numbers [n], prompt and generated tokens.
            array: whole numbers [rows, columns, k]. Row r holds the experts that ran for token ``first`` + r. A row for
                the last token, which was only an output, is dropped. A token without a row counts as not recorded.
            model: the same model in transformers.
            sites: the sites to record; by default the model's keyable ones.
            prompt_length: how many tokens were given, not generated.
            first: the token of the first row. It may be left out if there is a row for every token, or for all but the
                last.
            layers: the transformer layer of each column. Every site's layer must be among them; other columns (dense
                layers, multi-token prediction) are ignored. It may be left out if there is one column for each site, in
                their order, or one for each layer of the model. In the latter case the columns of layers without a
                router must be constant.
            **header: ``key_id``, ``zone``, ``epsilon`` and ``strength``, as far as they are known.

        What no router made counts as not recorded:

        - slots that were never filled: they hold -1, one value k times (k > 1), or one value that is no expert;
        - slots that are filled only in part;
        - dummies: rows of the same experts in every column, or of 0 to k - 1 in every column;
        - stale buffers: equal rows for different tokens.

        Routers of small k may make rows like the last two by chance. These two are therefore left alone unless the
        probability of that is below 2^-20. ``Trace.ignored`` counts the rows by reason, and the logger ``okr`` gives a
        warning. The rules depend on the routing and the tokens and never on a key, so p-values stay valid.

        Raises InvalidTrace for any other array.
        """
        routers = discover(model) if sites is None else sites
        if sites is None:
            sites = [site for site in routers if site.keyable]
        if not sites or any(site.stack.startswith("encoder") for site in sites):
            raise InvalidTrace("routed experts need at least one router site, and decoder sites only")
        tokens = whole_array(token_ids, "token_ids")
        if tokens.ndim != 1 or len(tokens) < 2 or tokens.dtype.kind not in "iu":
            raise InvalidTrace("token_ids must be at least two token ids in one dimension")
        if tokens.min() < 0 or tokens.max() >= 2**31:
            raise InvalidTrace("token_ids must lie between 0 and 2^31 - 1")
        tokens = tokens.astype(np.int32)
        experts, ignored = arrange(
            array, sites, tokens, first, layers=layers, depth=depth_of(model), routed={r.layer for r in routers}
        )
        try:
            described = TraceHeader.describe(model, sites, **header)
        except ValidationError as error:
            raise InvalidTrace(_first(error)) from None
        return cls(
            header=described,
            token_ids=tokens,
            experts=experts,
            prompt_length=prompt_length,
            ignored=ignored,
        )

    @classmethod
    def from_response(
        cls,
        response: Any,
        *,
        model: nn.Module,
        choice: int = 0,
        layers: Sequence[int] | None = None,
        first: int | None = None,
        **header: Any,
    ) -> "Trace":
        """The trace of one answer in a serving engine's response (docs/how-to/serve.md).

        Arguments:
            response: the OpenAI-compatible JSON of vLLM or SGLang as a dictionary, an object of the ``openai``
                package, or vLLM's ``RequestOutput``. It needs token ids and routed experts.
            model: the same model in transformers.
            choice: the number of the answer, if there are several.
            layers: as for :meth:`from_routed_experts`, which also says what counts as not recorded.
            first: as there.
            **header: ``key_id``, ``zone``, ``epsilon`` and ``strength``, where the response does not name them
                (``okr serve`` does).

        Raises InvalidTrace for a response without these parts, or whose parts do not fit together.
        """
        answer = responses.read(response, choice)
        experts = answer.experts
        if experts.ndim == 1:
            top_k = max((site.top_k for site in discover(model) if site.keyable), default=1)
            columns = depth_of(model) or 1 if layers is None else np.size(layers)
            experts = responses.shaped(experts, len(answer.token_ids), columns, top_k)
        return cls.from_routed_experts(
            answer.token_ids,
            experts,
            model=model,
            prompt_length=answer.prompt_length,
            first=first,
            layers=layers,
            **{**answer.header, **header},
        )

    @property
    def new_tokens(self) -> int:
        """How many tokens were generated."""
        return len(self.token_ids) - self.prompt_length

    def site_experts(self, index: int) -> Int[np.ndarray, "tokens top_k"]:
        """The experts at site ``index`` of the header, int16 [tokens of its stack, k of the site]."""
        site = self.header.sites[index]
        column = sum(other.in_encoder == site.in_encoder for other in self.header.sites[:index])
        array = self.encoder_experts if site.in_encoder else self.experts
        assert array is not None  # checked
        return array[:, column, : site.top_k]

    def digest(self) -> bytes:
        """SHA-256 over everything in the trace that a verification depends on."""
        content = hashlib.sha256(self.header.model_dump_json().encode())
        for array in self._arrays().values():
            content.update(str(array.shape).encode() + array.tobytes())
        return content.digest()

    def _arrays(self) -> dict[str, np.ndarray]:
        arrays = {
            "token_ids": self.token_ids,
            "experts": self.experts,
            "prompt_length": np.array([self.prompt_length], np.int32),
            "encoder_token_ids": self.encoder_token_ids,
            "encoder_experts": self.encoder_experts,
            "passes": self.passes,
        }
        return {name: np.ascontiguousarray(array) for name, array in arrays.items() if array is not None}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the trace to ``path``. The file appears whole or not at all. Raises InvalidTrace if it cannot be
        written, or would be too large to be loaded."""
        described = self.header.model_dump(mode="json") | {"sha256": self.digest().hex()}
        content = save(self._arrays(), metadata={"okr": json.dumps(described)})  # several entries have no fixed order
        path = Path(path)
        if len(content) > MAX_FILE_BYTES or int.from_bytes(content[:8], "little") > MAX_HEADER_BYTES:
            raise InvalidTrace(f"cannot write trace {path}: it would be too large to be loaded")
        try:
            files.replace(path, content)
        except (OSError, ValueError) as error:
            raise InvalidTrace(f"cannot write trace {path}: {getattr(error, 'strerror', error)}") from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Trace":
        """Read a trace from ``path``. Raises InvalidTrace if the file cannot be read or is not a consistent trace."""
        path = Path(path)
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise InvalidTrace(f"{path}: larger than {MAX_FILE_BYTES} bytes")
            content = path.read_bytes()
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            raise InvalidTrace(f"cannot read trace {path}: {getattr(error, 'strerror', error)}") from None
        try:
            return cls._parse(content)
        except InvalidTrace as error:
            raise InvalidTrace(f"{path}: {error}") from None

    @classmethod
    def _parse(cls, content: bytes) -> "Trace":
        size = struct.unpack("<Q", content[:8])[0] if len(content) >= 8 else 0
        if not 2 <= size <= min(MAX_HEADER_BYTES, len(content) - 8):
            raise InvalidTrace("not a safetensors file, or its header is damaged or too large")
        try:
            arrays = load(content)
            described, checksum = _metadata(content[8 : 8 + size])
            header = TraceHeader.model_validate_json(described)
        except ValidationError as error:
            raise InvalidTrace(_first(error)) from None
        except (SafetensorError, ValueError, KeyError, TypeError, RecursionError):
            raise InvalidTrace("not a safetensors file with an OKR header") from None
        names = {"token_ids", "experts", "prompt_length", "encoder_token_ids", "encoder_experts", "passes"}
        if not names >= set(arrays) >= {"token_ids", "experts", "prompt_length"}:
            raise InvalidTrace(f"holds the arrays {sorted(arrays)[:8]} instead of those of a trace")
        prompt = arrays.pop("prompt_length")
        if prompt.dtype != np.int32 or prompt.shape != (1,):
            raise InvalidTrace("prompt_length must be one int32")
        trace = cls(header=header, prompt_length=int(prompt[0]), **cast(dict[str, Any], arrays))
        if trace.digest().hex() != checksum:
            raise InvalidTrace("its checksum does not match: the file was damaged or changed")
        return trace


def _first(error: ValidationError) -> str:
    """The first problem of a header, in one line."""
    problem = first_problem(error)
    return f"header field {problem.place}: {problem.message}"


def _metadata(raw: bytes) -> tuple[str, str]:
    """The header as JSON without its checksum, and the checksum. ``raw`` is the header of the safetensors file."""
    document = json.loads(json.loads(raw)["__metadata__"]["okr"])
    checksum = document["sha256"]
    del document["sha256"]
    return json.dumps(document), checksum


def _check(trace: Trace) -> None:
    """Raise InvalidTrace if the parts of ``trace`` do not fit together."""
    _check_stack(trace, "token_ids", trace.token_ids, trace.experts, encoder=False)
    if not 0 <= trace.prompt_length <= len(trace.token_ids):
        raise InvalidTrace(f"prompt_length {trace.prompt_length} is not within the {len(trace.token_ids)} tokens")
    given = [part is not None for part in (trace.encoder_token_ids, trace.encoder_experts)]
    needed = any(site.in_encoder for site in trace.header.sites)
    if given != [needed, needed]:
        raise InvalidTrace("a trace must have encoder sites, encoder tokens and encoder experts, or none of these")
    if needed:
        _check_stack(trace, "encoder_token_ids", trace.encoder_token_ids, trace.encoder_experts, encoder=True)
    if trace.passes is not None:
        if needed:
            raise InvalidTrace("a trace with encoder sites must have no passes")
        check_passes(trace.passes, len(trace.token_ids) - 1)


def _check_stack(trace: Trace, name: str, tokens: Any, experts: Any, *, encoder: bool) -> None:
    """Raise InvalidTrace if the shape, dtype or range of one stack's tokens or experts is wrong. A token needs k
    distinct experts or none."""
    sites = [site for site in trace.header.sites if site.in_encoder == encoder]
    if tokens.dtype != np.int32 or tokens.ndim != 1 or (tokens < 0).any():
        raise InvalidTrace(f"{name} must be int32, one-dimensional and not negative")
    if len(tokens) < (1 if encoder else 2):
        raise InvalidTrace(f"{name} holds {len(tokens)} tokens; nothing was routed")
    shape = (len(tokens) if encoder else len(tokens) - 1, len(sites), max((site.top_k for site in sites), default=0))
    if experts.dtype != np.int16 or experts.shape != shape:
        raise InvalidTrace(f"experts must be int16 of shape {shape}, got {experts.dtype} of shape {experts.shape}")
    for column, site in enumerate(sites):
        used = np.sort(experts[:, column, : site.top_k].astype(np.int32), axis=-1)
        whole = (used >= 0).all(-1) & (used < site.num_experts).all(-1) & (np.diff(used, axis=-1) > 0).all(-1)
        absent = (used == NOT_RECORDED).all(-1) | (used == NOTHING_RAN).all(-1)
        if not (whole | absent).all() or (experts[:, column, site.top_k :] != NOT_RECORDED).any():
            raise InvalidTrace(
                f"{site.path}: every token needs {site.top_k} distinct experts below {site.num_experts}, or none"
            )
