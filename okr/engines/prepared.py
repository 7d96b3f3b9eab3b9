"""A model prepared once, and the two ways to run it: under a key, and natively with its routing recorded."""

import math
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, overload

from torch import nn

from okr.engines.protocol import Engine, Session
from okr.routing import Key, Setting
from okr.routing.keys import check_key
from okr.routing.settings import ZoneName

if TYPE_CHECKING:
    from okr.engines.transformers import Recorder, TransformersEngine, Watermark


@overload
def prepare(model: nn.Module) -> "TransformersEngine": ...  # type: ignore[overload-overlap]
@overload
def prepare(model: nn.Module | Engine) -> Engine: ...
def prepare(model: nn.Module | Engine) -> Engine:
    """The engine that runs ``model``: its routers found now, and proven when they first run.

    ``watermark``, ``record``, ``verify``, ``verify_each``, ``detect`` and ``attribute`` accept an engine in place of
    the model, and make one themselves of a model: prepare a model that several calls use. An engine is returned as it
    is. Raises RouterNotFound where no router of the model can be keyed.
    """
    if not isinstance(model, nn.Module) and isinstance(model, Engine):
        return model
    from okr.engines.transformers import TransformersEngine

    return TransformersEngine(model)


@overload
def watermark(
    model: "nn.Module | TransformersEngine",
    key: Key,
    *,
    epsilon: float,
    zone: ZoneName = "max",
    strength: float = math.inf,
) -> "AbstractContextManager[Watermark]": ...
@overload
def watermark(
    model: Engine, key: Key, *, epsilon: float, zone: ZoneName = "max", strength: float = math.inf
) -> AbstractContextManager[Session]: ...
def watermark(
    model: Any, key: Key, *, epsilon: float, zone: ZoneName = "max", strength: float = math.inf
) -> AbstractContextManager[Any]:
    """Key every router of ``model`` that can be keyed, for the length of a ``with`` block.

    Inside it ``model.generate(...)`` and ``model(...)`` are watermarked; ``Watermark.generate`` also returns traces.
    After it, also after an exception, the model is exactly as before.

    Arguments: ``model`` a model, or what :func:`prepare` made of it; ``epsilon`` in the unit of each site (logits, or
    scores), 0 to inf; ``zone`` is ``max`` or ``boundary``; ``strength`` above 0, inf for the key alone to decide.
    Raises InvalidKey, InvalidSetting or RouterNotFound at once, UnsupportedRouter or AlreadyAttached where the block
    begins.
    """
    check_key(key)
    engine: Engine = prepare(model)
    return engine.keyed(key, Setting.checked(epsilon, zone, strength))


@overload
def record(model: "nn.Module | TransformersEngine") -> "AbstractContextManager[Recorder]": ...
@overload
def record(model: Engine) -> AbstractContextManager[Session]: ...
def record(model: Any) -> AbstractContextManager[Any]:
    """Record ``model``'s native routing for the length of a ``with`` block; nothing it computes changes.

    ``model`` may be what :func:`prepare` made of it. Raises RouterNotFound at once, UnsupportedRouter or
    AlreadyAttached where the block begins.
    """
    engine: Engine = prepare(model)
    return engine.recorded()
