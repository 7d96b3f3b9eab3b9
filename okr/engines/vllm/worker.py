"""What the plugin does in a worker, and what a worker can be asked."""

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from okr.engines.vllm.attaching import attach
from okr.engines.vllm.configuration import Configuration
from okr.engines.vllm.plugin import records_itself
from okr.engines.vllm.recording import Steps
from okr.engines.vllm.routed import Decision, KeyedChoice, RoutedSite
from okr.routing import Key, Setting


class Attached:
    """A worker whose model's routers are routed by this package. ``places`` are those routers."""

    def __init__(self, worker: Any, configuration: Configuration) -> None:
        self.worker = worker
        config, runner = worker.vllm_config, worker.model_runner
        self.places = attach(runner.get_model(), config.model_config.hf_config, configuration)
        self.steps = Steps(runner, self.places)
        if not records_itself(config):
            return
        initialise = runner.initialize_kv_cache

        def initialize_kv_cache(kv_cache_config: Any, *arguments: Any, **named: Any) -> Any:
            made = initialise(kv_cache_config, *arguments, **named)
            if not named.get("is_profiling"):
                self.steps.record(kv_cache_config)
            return made

        runner.initialize_kv_cache = initialize_kv_cache

    def key(self, key: Key | None, setting: Setting) -> None:
        """Route by ``key`` from now on, or natively."""
        for place in self.places:
            device, dtype = place.device, place.dtype
            place.key = None if key is None else KeyedChoice(place.site, key, setting, device, dtype)

    def decide(self, decisions: dict[str, Decision] | None) -> None:
        """Let ``decisions``, by the paths of the sites, choose the experts from now on; with None the key does."""
        for place in self.places:
            place.decide = None if decisions is None else decisions[place.site.path]


class Forced:
    """Routes one request at a site as ``experts`` [T, k] says, natively where it is negative, and keeps what the site
    saw."""

    def __init__(self, steps: Steps, experts: Int[Tensor, "tokens top_k"]) -> None:
        self.steps, self.experts = steps, experts
        self.choice: list[Tensor] = []
        self.hidden: list[Tensor] = []

    def __call__(self, choice: Tensor, hidden: Tensor, own: Tensor) -> Tensor:
        if len(self.steps.layout) != 1:
            return own  # a step that measures memory
        start, count = self.steps.layout[0]
        self.choice.append(choice[:count].cpu())
        self.hidden.append(hidden[:count].float().cpu())
        experts = own.clone()
        asked = self.experts[start : start + count].to(own.device)
        experts[: len(asked)] = torch.where(asked < 0, own[: len(asked)], asked)
        return experts


class WorkerMethods:
    """What vLLM's workers can be asked beside their own methods (``collective_rpc``)."""

    okr: "Attached"

    def okr_sites(self) -> list[str]:
        """The paths of the routers that are attached here."""
        return [place.site.path for place in self.okr.places]

    def okr_gates(self) -> dict[str, dict[str, Tensor]]:
        """The weights of the gates by the paths of the sites and by their names in transformers, bfloat16. A gate
        without a path of its own, or one that is not linear, is left out."""
        modules = dict(self.model_runner.get_model().named_modules())  # type: ignore[attr-defined]
        found = {}
        for place in self.okr.places:
            block = place.name.rpartition(".")[0]
            gate = modules.get(f"{block}.gate", modules.get(f"{block}.router"))
            weights = None if gate is None else _linear(gate, place)
            if weights is not None:
                bias = place.scheme.bias
                found[place.site.path] = weights | ({} if bias is None else {"e_score_correction_bias": _plain(bias)})
        return found

    def okr_force(self, experts: dict[str, Any]) -> None:
        """Replay one request: route as ``experts`` [T, k] says, by the path of each site."""
        steps = self.okr.steps
        steps.layout = []
        self.okr.decide(
            {
                place.site.path: Forced(steps, torch.as_tensor(experts[place.site.path]).long())
                for place in self.okr.places
            }
        )

    def okr_seen(self, path: str) -> tuple[Tensor, Tensor] | None:
        """What the site ``path`` saw in the replay: choice scores [T, E] and router inputs [T, d], float32. None if
        another process has the site. They are forgotten then."""
        for place in self.okr.places:
            if place.site.path == path and isinstance(place.decide, Forced):
                forced = place.decide
                seen = torch.cat(forced.choice), torch.cat(forced.hidden)
                forced.choice, forced.hidden = [], []
                return seen
        return None

    def okr_release(self) -> None:
        """End a replay."""
        self.okr.decide(None)


@torch.no_grad()
def _linear(gate: Any, place: RoutedSite) -> dict[str, Tensor] | None:
    """The weight [E, d] and bias [E] of a gate, read off its answers to unit vectors, since a kernel may have packed
    them. None if it is not linear."""
    units = torch.eye(place.site.hidden_size, device=place.device, dtype=place.dtype)

    def answer(states: Tensor) -> Any:
        found = gate(states)
        return found[0] if isinstance(found, tuple) else found

    try:
        constant, rows, twice = answer(torch.zeros_like(units[:1])), answer(units), answer(2 * units[:1])
    except (RuntimeError, TypeError, ValueError):
        return None
    weight = (rows - constant).t()
    if not torch.allclose(2 * weight[:, 0], twice[0] - constant[0], rtol=1e-2, atol=1e-6):
        return None
    return {"weight": _plain(weight), "bias": _plain(constant[0])}


def _plain(value: Tensor) -> Tensor:
    return value.detach().to("cpu", torch.bfloat16).contiguous()
