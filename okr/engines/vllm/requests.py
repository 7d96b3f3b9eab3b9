"""A request may ask to be routed natively. This module reads that wish and keeps such requests apart."""

from functools import wraps
from typing import Any

OPT_OUT = "okr"
"""The extra argument (``vllm_xargs``) by which a request opts out of the key: ``{"okr": false}``."""

_SALT = "okr: native"


def opts_out(extra_args: Any) -> bool:
    """Whether a request with these extra arguments opts out."""
    return isinstance(extra_args, dict) and extra_args.get(OPT_OUT) in (False, "false", "off")


def keep_apart() -> None:
    """Let requests that opt out share no cached prefix with keyed ones, whose keys and values are others."""
    from vllm.v1.engine.input_processor import InputProcessor

    process = InputProcessor.process_inputs

    @wraps(process)
    def process_inputs(processor: Any, *arguments: Any, **named: Any) -> Any:
        request = process(processor, *arguments, **named)
        if opts_out(getattr(request.sampling_params, "extra_args", None)):
            request.cache_salt = (request.cache_salt or "") + _SALT
        return request

    InputProcessor.process_inputs = process_inputs
