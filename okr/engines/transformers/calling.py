"""Calls a model with tokens. It may be a transformers model, or any module that maps token ids [batch, tokens] to
logits."""

import inspect
from typing import Any

from torch import Tensor, nn

from okr.engines.transformers.rotary import stretched


def vocabulary(model: nn.Module) -> int | None:
    """How many tokens ``model`` embeds, or None if it does not say."""
    weight = getattr(_embedding(model), "weight", None)
    return weight.shape[0] if isinstance(weight, Tensor) else None


def _embedding(model: nn.Module) -> Any:
    return getattr(model, "get_input_embeddings", lambda: None)()


def is_encoder_decoder(model: nn.Module) -> bool:
    """Whether ``model`` has an encoder, which reads a source."""
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


def positions(model: nn.Module) -> int | None:
    """How many positions a decoder-only model has, with those that its rotary scaling adds. None if it does not say or
    has an encoder."""
    config: Any = getattr(model, "config", None)
    room = None if is_encoder_decoder(model) else getattr(config, "max_position_embeddings", None)
    return room if room is None else stretched(config, room)


def arguments_for(model: nn.Module, tokens: Tensor, source: Tensor | None = None, **wishes: Any) -> dict[str, Any]:
    """The arguments of one forward of ``model``: the ``tokens`` [batch, tokens], the encoder's ``source`` if there is
    one, and those ``wishes`` that the forward accepts."""
    given = accepted(model, **wishes)
    if source is not None:
        return given | {"input_ids": source, "decoder_input_ids": tokens}
    return given | {name_of_tokens(model): tokens}


def accepted(model: nn.Module, **wishes: Any) -> dict[str, Any]:
    """Those ``wishes`` that the forward of ``model`` accepts."""
    parameters = inspect.signature(model.forward).parameters
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return {name: value for name, value in wishes.items() if name in parameters or anything}


def name_of_tokens(model: nn.Module) -> str:
    """The name of the argument that takes tokens: the first one of a forward that names arguments but no
    ``input_ids``."""
    parameters = inspect.signature(model.forward).parameters
    named = [name for name, parameter in parameters.items() if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    return "input_ids" if "input_ids" in parameters or not named else named[0]


def logits_of(output: Any) -> Tensor:
    """The logits [batch, tokens, vocabulary] in a forward's ``output``: its ``logits``, its first part, or the output
    itself."""
    if isinstance(output, Tensor):
        return output
    logits: Tensor = output.logits if hasattr(output, "logits") else output[0]
    return logits
