"""Attaches a key to the routers of a model that a vLLM worker has loaded."""

import logging
from typing import Any

import torch
from torch import nn

from okr.discovery import RouterSite, discover_config
from okr.engines.vllm import routed
from okr.engines.vllm.configuration import Configuration
from okr.engines.vllm.routed import KeyedChoice, RoutedSite
from okr.engines.vllm.schemes import proven_scheme
from okr.errors import RouterNotFound, UnsupportedRouter
from okr.loaders.deepseek import register
from okr.routing import Key

log = logging.getLogger("okr")


def described_sites(hf_config: Any) -> list[RouterSite]:
    """The routers of the model that ``hf_config`` describes, keyable or not, as transformers' model has them."""
    register()
    return discover_config(hf_config)


def attach(model: nn.Module, hf_config: Any, configuration: Configuration) -> list[RoutedSite]:
    """Route every MoE layer of ``model`` by the key of ``configuration``, or natively if it has none.

    Raises RouterNotFound if the model has no MoE layer, and UnsupportedRouter for a router that is not proven. Nothing
    is changed if it raises.
    """
    runners = _runners(model)
    if not runners:
        raise RouterNotFound("this model has no mixture-of-experts layer that vLLM routes: a key can decide nothing")
    found = {site.layer: site for site in described_sites(hf_config) if site.stack == "decoder"}
    key = None if configuration.key_file is None else Key.load(configuration.key_file)
    made: list[tuple[Any, RoutedSite]] = []
    for runner in runners:
        site = _checked_site(runner, found)
        parameter = next(iter(runner.parameters()), None)
        device = torch.device("cpu") if parameter is None else parameter.device
        dtype = runner.moe_config.in_dtype
        native = _native(runner.router)
        scheme = proven_scheme(runner.router, native, site, device, dtype)
        place = RoutedSite(runner.layer_name, site, native, scheme, device, dtype)
        if key is not None:
            place.key = KeyedChoice(site, key, configuration.setting, device, dtype)
        made.append((runner, place))
    for runner, place in made:
        routed.sites[place.site.layer] = place
        swap(runner.router, place)
    log.info("%d routers %s", len(made), "native" if key is None else f"under the key {key.id}")
    return [place for _, place in made]


def _runners(model: nn.Module) -> list[Any]:
    """The MoE layers of ``model`` in their order."""
    from vllm.model_executor.layers.fused_moe.runner.moe_runner import MoERunner

    return [module for module in model.modules() if isinstance(module, MoERunner)]


def _native(router: Any) -> Any:
    compute = type(router)._compute_routing

    def native(hidden: torch.Tensor, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        weights, experts = compute(router, hidden, logits, None)
        return weights, experts

    return native


def _checked_site(runner: Any, found: dict[int, RouterSite]) -> RouterSite:
    """The site of ``runner``. Raises UnsupportedRouter if what it routes by is not what the site's gate saw."""
    from vllm.model_executor.layers.fused_moe.router.base_router import BaseRouter

    router, layer, name = runner.router, runner.layer_id, runner.layer_name
    if not isinstance(router, BaseRouter):
        raise UnsupportedRouter(f"{name}: vLLM's {type(router).__name__} computes its routing elsewhere")
    if type(router).__name__ in ("RoutingSimulatorRouter", "ZeroExpertRouter", "AiterSharedRoutedFusedMoERouter"):
        raise UnsupportedRouter(f"{name}: a key cannot stand in for vLLM's {type(router).__name__}")
    if getattr(router, "_hash_indices_table", None) is not None:
        raise UnsupportedRouter(f"{name}: its experts follow from the token ids, so a key can decide nothing")
    if runner.routed_experts.quant_method.is_monolithic:
        raise UnsupportedRouter(
            f"{name}: its kernel routes and computes in one ({type(runner.routed_experts.quant_method).__name__}); "
            "choose another MoE backend"
        )
    if runner.routed_input_transform is not None:
        raise UnsupportedRouter(f"{name}: its experts get a transformed input, not the one that the gate sees")
    site = found.get(layer)
    if site is None or not site.keyable:
        reason = "transformers' model has no router there" if site is None else site.reason
        raise UnsupportedRouter(f"{name} (layer {layer}): {reason}")
    held = (router.global_num_experts, router.top_k)
    if held != (site.num_experts, site.top_k):
        raise UnsupportedRouter(
            f"{name}: vLLM keeps {held[1]} of {held[0]} experts, transformers {site.top_k} of {site.num_experts}"
        )
    return site


def swap(router: Any, place: RoutedSite) -> None:
    """Let ``router`` route by ``place``."""
    layer, top_k, size = place.site.layer, place.site.top_k, place.site.hidden_size

    def compute(
        hidden_states: torch.Tensor,
        router_logits: torch.Tensor,
        indices_type: torch.dtype | None,
        *,
        input_ids: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        # a kernel may have padded the input
        weights, experts = torch.ops.okr.route(hidden_states[:, :size], router_logits, layer, top_k)
        return weights, experts if indices_type is None else experts.to(indices_type)

    router._compute_routing = compute
