"""Chapter TRACE: arrays and answers at the limits of what is read; models of which not everything is known."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..subject import Subject
from ..verdicts import require
from . import check
from .trace_answers import PROMPT, a_completion, a_generation, ids_of, int32_text, trace_of, what_ran
from .trace_arrays import ROUTERS, TOKENS, rows_of, traced


def _rows(count: int = TOKENS, columns: int = 2) -> Any:
    return rows_of(np.random.default_rng(0), count, columns)


@check("OKR-TRACE-008")
def token_ids_of_any_type_are_read(subject: Subject) -> None:
    """Of any type of whole numbers; none that another type would make of a larger number."""
    from .. import system
    from ..system import okr

    ids = [*range(30, 30 + TOKENS)]
    for kind in ("uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64", ">i8"):
        with system.accepted(f"token ids of {kind}"):
            trace = traced(_rows(), np.array(ids, kind))
        require(trace.token_ids.tolist() == ids, f"token ids of {kind}", expected=ids, got=trace.token_ids)
        require(trace.token_ids.dtype == np.int32, "type of the token ids", got=trace.token_ids.dtype)
        require(trace.prompt_length == 0, "the prompt's length where none is given", expected=0)
    for token in (2**32 + 5, 2**40, 2**63 - 1, -(2**32) + 5):
        with system.refused(okr.InvalidTrace, f"token {token}"):
            traced(_rows(), [*ids[:-1], token])
    with system.refused(okr.InvalidTrace, "token 2^32 + 5 of uint64"):
        traced(_rows(), np.array([*ids[:-1], 2**32 + 5], np.uint64))


@check("OKR-TRACE-008")
def models_may_say_little_of_themselves(subject: Subject) -> None:
    """A model without weights, one that does not say how many layers it has, one with two routers in a layer."""
    from .. import system
    from ..system import okr

    empty = system.copied(system.mixed_model()).to("meta")
    with system.accepted("a model without weights"):
        made, plain = traced(_rows(), model=empty), traced(_rows())
    require(made.experts.tolist() == plain.experts.tolist(), "experts of a model without weights", got=made.experts)
    require(made.header.sites == plain.header.sites, "sites of a model without weights", got=made.header.sites)
    known = made.header.model.routers, made.header.model.weights
    require(known == (None, None), "what is known of weights that are not there", expected="nothing", got=known)
    silent = _silent(system.copied(system.mixed_model()))
    with system.accepted("a model of unknown depth"):
        both, named = traced(_rows(), model=silent), traced(_rows(), model=silent, layers=ROUTERS)
    for one in (both, named):
        require(one.experts.tolist() == plain.experts.tolist(), "experts of a model of unknown depth", got=one.experts)
    five = np.zeros((TOKENS, 5, 2), np.int64)
    five[:, ROUTERS] = _rows()
    with system.refused(okr.InvalidTrace, "a column for each of an unknown number of layers"):
        traced(five, model=silent)
    own = [site for site in okr.discover(system.mixed_model()) if site.keyable]
    twins = [own[0], replace(own[1], layer=own[0].layer)]
    for layers in ((1, 3), (1, 1), (1, 2)):
        with system.refused(okr.InvalidTrace, "columns of layers that have two routers"):
            traced(_rows(), sites=twins, layers=layers)
    with system.accepted("a column for each of two routers in a layer"):
        pair = traced(_rows(), sites=twins)
    require(pair.experts.tolist() == plain.experts.tolist(), "experts of two routers in a layer", got=pair.experts)


@check("OKR-TRACE-010")
def flat_answers_are_read_by_what_the_model_says(subject: Subject) -> None:
    """One column where the model does not say how many layers it has; nothing of a model with an encoder, or with
    routers in which no key can decide."""
    from .. import system
    from ..system import okr

    alone = _one_router()
    flat = a_generation()
    flat["meta_info"]["routed_experts"] = int32_text(what_ran()[:, :1])
    with system.accepted("a flat array of a model of unknown depth"):
        trace = okr.Trace.from_response(flat, model=alone)
    expected = what_ran()[:, :1].tolist()
    require(trace.experts.tolist() == expected, "experts of a flat array", expected=expected, got=trace.experts)
    replaced = system.copied(system.mixed_model())
    for _, router in system.routers(replaced):
        router.forward = router.forward  # by a kernel, it might be
    for model, what in ((system.capacity_model(), "an encoder"), (replaced, "routers that no key can decide in")):
        for answer in (a_generation(), a_completion(), flat):
            with system.refused(okr.InvalidTrace, f"an answer for a model with {what}"):
                okr.Trace.from_response(answer, model=model)


def _one_router() -> Any:
    """The mixed model cut to its first two layers, of which the second has a router, without a number of layers."""
    from .. import system

    model = system.copied(system.mixed_model())
    del model.model.layers[2:]
    return _silent(model)


def _silent(model: Any) -> Any:
    """The model with a configuration that says nothing."""
    model.config = SimpleNamespace()
    return model


@check("OKR-TRACE-010")
def answers_say_how_many_tokens_are_new(subject: Subject) -> None:
    """And settings are numbers, however near to one a text or a truth comes."""
    from .. import system
    from ..system import okr

    for response in (a_completion(), a_generation()):
        with system.accepted("an answer"):
            trace = trace_of(response)
        new = len(ids_of()) - PROMPT
        require(trace.new_tokens == new, "how many tokens are new", expected=new, got=trace.new_tokens)
    for name in ("epsilon", "strength"):
        for value in ("0.5", True, False, "1", "Infinity", b"1", [0.5], {"value": 0.5}, float("nan"), -0.5, "-inf"):
            with system.refused(okr.InvalidTrace, f"an answer with the {name} {value!r}"):
                trace_of({**a_completion(), "okr_setting": {name: value}})
        for value in (0, 0.0, 1, 0.5, 1e300, "inf", float("inf")):
            with system.accepted(f"an answer with the {name} {value!r}"):
                trace = trace_of({**a_completion(), "okr_setting": {name: value}})
            got = getattr(trace.header, name)
            require(got == float(value), f"the {name} {value!r}", expected=value, got=got)
    for key_id in (b"0123456789abcdef", 123456789012345, ["0123456789abcdef"], "0123456789ABCDEF"):
        with system.refused(okr.InvalidTrace, f"an answer with the key id {key_id!r}"):
            trace_of({**a_completion(), "okr_key_id": key_id})


def wrapped(model: Any, kind: str, prompts: Any = None, **state: Any) -> Any:
    """``model`` as peft wraps it for an adapter of ``kind`` that puts virtual tokens before every prompt; ``prompts``
    are their weights."""
    from torch import nn

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base_model = model
            self.config = model.config
            self.peft_config = {"default": None}
            self.active_peft_config = SimpleNamespace(
                is_prompt_learning=True, peft_type=f"PeftType.{kind}", **{"is_adaption_prompt": False}
            )
            if prompts is not None:
                self.prompt_encoder = nn.ParameterDict({"default": nn.Parameter(prompts.clone())})
            for name, value in state.items():
                setattr(self, name, value)

    return Wrapped().eval()


@check("OKR-TRACE-001")
def virtual_tokens_are_seen_or_refused(subject: Subject) -> None:
    """Adapters that put virtual tokens into the cache alone leave routers nothing to choose for them; those that put
    them before the prompt make choices for tokens that no trace can hold."""
    from .. import system
    from ..system import okr

    model = system.mixed_model()
    for kind in ("PREFIX_TUNING", "CARTRIDGE"):
        with system.accepted(f"a model with {kind}"):
            made = traced(_rows(), model=wrapped(model, kind))
        require(made.experts.tolist() == _rows()[:-1].tolist(), f"experts with {kind}", got=made.experts)
    for kind in ("PROMPT_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING", "PREFIX", "TUNING", ""):
        if kind:
            with system.refused(okr.UnsupportedGeneration, f"a model with {kind}"):
                traced(_rows(), model=wrapped(model, kind))
    with system.accepted("a model with an adapter that is switched off"):
        traced(_rows(), model=wrapped(model, "PROMPT_TUNING", _adapters_disabled=True))
