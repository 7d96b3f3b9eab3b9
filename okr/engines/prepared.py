"""Prepares a model once, and runs it in two ways: under a key, or natively with its routing recorded."""

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
    """The engine that runs ``model``. The model's routers are found now and proven when they first run.

    ``watermark``, ``record``, ``verify``, ``verify_each``, ``detect`` and ``attribute`` accept an engine or a model.
    They prepare a model anew at each call, so prepare a model that several calls use. An engine is returned unchanged.
    Raises RouterNotFound if no router of the model can be keyed.
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
    """Key every keyable router of ``model`` within a ``with`` block.

    Within the block ``model.generate(...)`` and ``model(...)`` are watermarked, and ``Watermark.generate`` also returns
    traces. After the block, even after an exception, the model is exactly as before.

    Arguments:
        model: a model, or its engine (:func:`prepare`).
        key: the key that decides.
        epsilon: how much choice score a selection may give up, from 0 to inf, in the unit of each site (logits or
            scores).
        zone: ``max`` or ``boundary``.
        strength: how much a key score weighs against a choice score, above 0. With inf the key alone decides.

    Raises InvalidKey, InvalidSetting or RouterNotFound at the call, and UnsupportedRouter or AlreadyAttached where the
    block begins.
    """
    check_key(key)
    engine: Engine = prepare(model)
    return engine.keyed(key, Setting.checked(epsilon, zone, strength))


@overload
def record(model: "nn.Module | TransformersEngine") -> "AbstractContextManager[Recorder]": ...
@overload
def record(model: Engine) -> AbstractContextManager[Session]: ...
def record(model: Any) -> AbstractContextManager[Any]:
    """Record the native routing of ``model`` within a ``with`` block. What the model computes does not change.

    ``model`` may be an engine (:func:`prepare`). Raises RouterNotFound at the call, and UnsupportedRouter or
    AlreadyAttached where the block begins.
    """
    engine: Engine = prepare(model)
    return engine.recorded()
