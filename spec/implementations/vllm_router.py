"""A router of vLLM under a key, as ``okr serve`` attaches it: vLLM's own router object, its choice made by ours."""

from typing import Any

import numpy as np
import torch

from okr.discovery import RouterSite
from okr.engines.vllm import attaching, routed
from okr.engines.vllm.routed import KeyedChoice, RoutedSite
from okr.engines.vllm.schemes import Scheme
from okr.engines.vllm.serving import check_installed
from okr.routing import Key, Setting, check_setting

from .torch_router import Array, TorchRouter


class GivenScores(KeyedChoice):
    """Chooses by key scores that are given in place of the router's input."""

    def __call__(self, choice: Any, hidden: Any, native: Any) -> Any:
        return self.among(choice, hidden, None, native)


class VllmRouter(TorchRouter):
    """Asks vLLM's router for the processor, through the operation that replaces its routing."""

    name = "vllm"
    choice_of: type[KeyedChoice] = GivenScores

    def __init__(self) -> None:
        """vLLM is imported now, which takes long and is no part of an answer."""
        check_installed()
        from vllm.model_executor.layers.fused_moe.router.cpu_router import CPURouter

        self.router = CPURouter

    def select(
        self, choice: Array, key_scores: Array, *, top_k: int, epsilon: float, zone: str, strength: float
    ) -> Any:
        """The experts of :meth:`vllm.model_executor.layers.fused_moe.router.base_router.BaseRouter.select_experts`."""
        experts = choice.shape[1]
        check_setting(top_k, experts, epsilon, zone, strength)
        site = RouterSite(
            path="", stack="decoder", layer=0, router_class="", num_experts=experts, top_k=top_k, hidden_size=experts,
            unit="logit", ranks="logits", calls=(), flat=True, keyable=True,
        )  # fmt: skip
        router = self.router(top_k=top_k, global_num_experts=experts)
        native = torch.from_numpy(np.argsort(-choice, axis=1, kind="stable")[:, :top_k].copy())
        scheme, cpu = Scheme("softmax", False, True, 1.0), torch.device("cpu")
        place = RoutedSite("", site, lambda hidden, logits: (native.float(), native), scheme, cpu, torch.float32)
        setting = Setting(epsilon, zone, strength)  # type: ignore[arg-type]  # checked
        place.key = self.choice_of(site, Key.public("any"), setting, cpu, torch.float32)
        routed.sites[site.layer] = place
        attaching.swap(router, place)
        states, logits = (torch.from_numpy(np.array(part, np.float32, order="C")) for part in (key_scores, choice))
        return router._select_experts(states, logits)[1].numpy()
