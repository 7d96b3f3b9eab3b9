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
    one, and those ``wishes`` that the forward accepts. Tokens are the first argument of a forward that has no
    ``input_ids``."""
    parameters = inspect.signature(model.forward).parameters
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    given = {name: value for name, value in wishes.items() if name in parameters or anything}
    if source is not None:
        return given | {"input_ids": source, "decoder_input_ids": tokens}
    name = "input_ids" if anything or "input_ids" in parameters else next(iter(parameters), "input_ids")
    return given | {name: tokens}


def logits_of(output: Any) -> Tensor:
    """The logits [batch, tokens, vocabulary] in a forward's ``output``: its ``logits``, its first part, or the output
    itself."""
    if isinstance(output, Tensor):
        return output
    logits: Tensor = output.logits if hasattr(output, "logits") else output[0]
    return logits
