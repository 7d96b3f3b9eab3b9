"""Routers of vLLM under a key, each broken in one way."""

from typing import Any

from okr.spec.implementations.vllm_router import GivenScores, VllmRouter


class _LateTies(GivenScores):
    """Prefers the later of two equal experts."""

    def among(self, choice: Any, keys: Any, norms: Any, native: Any) -> Any:
        last = choice.shape[1] - 1
        turned = super().among(choice.flip(1).contiguous(), keys.flip(1).contiguous(), norms, lambda: last - native())
        return last - turned


class _NoStrength(GivenScores):
    """Lets the key alone decide, whatever the strength."""

    def __init__(self, site: Any, key: Any, setting: Any, device: Any, dtype: Any) -> None:
        from dataclasses import replace

        super().__init__(site, key, replace(setting, strength=float("inf")), device, dtype)


class _Reversed(GivenScores):
    """Returns the experts in the reverse order."""

    def among(self, choice: Any, keys: Any, norms: Any, native: Any) -> Any:
        return super().among(choice, keys, norms, native).flip(1)


class LateTies(VllmRouter):
    choice_of = _LateTies


class NoStrength(VllmRouter):
    choice_of = _NoStrength


class Reversed(VllmRouter):
    choice_of = _Reversed
