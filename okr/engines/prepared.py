"""Prepares a model once, and runs it in two ways: under a key, or natively with its routing recorded."""

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, overload

from torch import nn

from okr.engines.protocol import Engine, Session
from okr.routing import Key
from okr.routing.keys import check_key
from okr.routing.named import SettingName, asked_setting
from okr.routing.settings import ZoneName

if TYPE_CHECKING:
    from okr.engines.transformers import Recorder, TransformersEngine, Watermark


@overload
def prepare(model: nn.Module) -> "TransformersEngine": ...  # type: ignore[overload-overlap]
@overload
def prepare(model: nn.Module | Engine) -> Engine: ...
def prepare(model: nn.Module | Engine) -> Engine:
    """The engine that runs ``model``. The model's routers are found now and proven when they first run.

    ``watermark``, ``record``, ``verify``, ``verify_each``, ``detect``, ``attribute`` and ``locate`` accept an engine or
    a model. They prepare a model anew at each call, so prepare a model that several calls use. An engine is returned
    unchanged. Raises RouterNotFound if no router of the model can be keyed.
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
    setting: SettingName | None = None,
    epsilon: float | None = None,
    zone: ZoneName | None = None,
    strength: float | None = None,
) -> "AbstractContextManager[Watermark]": ...
@overload
def watermark(
    model: Engine,
    key: Key,
    *,
    setting: SettingName | None = None,
    epsilon: float | None = None,
    zone: ZoneName | None = None,
    strength: float | None = None,
) -> AbstractContextManager[Session]: ...
def watermark(
    model: Any,
    key: Key,
    *,
    setting: SettingName | None = None,
    epsilon: float | None = None,
    zone: ZoneName | None = None,
    strength: float | None = None,
) -> AbstractContextManager[Any]:
    """Key every keyable router of ``model`` within a ``with`` block.

    Within the block ``model.generate(...)`` and ``model(...)`` are watermarked, and ``Watermark.generate`` also returns
    traces. After the block, even after an exception, the model is exactly as before.

    Arguments:
        model: a model, or its engine (:func:`prepare`).
        key: the key that decides.
        setting: ``quiet``, for proof from traces, or ``loud``, for proof from text as well. Each is a zone, an epsilon
            and a strength. Their values suit models whose routers rank experts by logits; ``okr calibrate`` measures
            what a model needs.
        epsilon: how much choice score a selection may give up, from 0 to inf, in the unit of each site (logits or
            scores).
        zone: ``max`` or ``boundary``.
        strength: how much a key score weighs against a choice score, above 0. With inf the key alone decides.

    ``epsilon``, ``zone`` and ``strength`` take the place of the setting's own values. With ``epsilon`` and no
    ``setting``, the zone is ``max`` and the strength inf unless they are given. With neither, the setting is ``quiet``.

    Raises InvalidKey, InvalidSetting or RouterNotFound at the call, and UnsupportedRouter or AlreadyAttached where the
    block begins.
    """
    check_key(key)
    chosen = asked_setting(setting, epsilon=epsilon, zone=zone, strength=strength)
    engine: Engine = prepare(model)
    return engine.keyed(key, chosen)


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
