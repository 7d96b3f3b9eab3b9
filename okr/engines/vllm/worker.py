"""What the plugin does in a worker."""

from typing import Any

from okr.engines.vllm.attaching import attach
from okr.engines.vllm.configuration import Configuration
from okr.engines.vllm.plugin import records_itself
from okr.engines.vllm.recording import Steps


class Attached:
    """A worker whose model is under a key."""

    def __init__(self, worker: Any, configuration: Configuration) -> None:
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


class WorkerMethods:
    """What vLLM's workers can be asked beside their own methods (``collective_rpc``)."""

    okr: "Attached"

    def okr_sites(self) -> list[str]:
        """The paths of the routers that are attached here."""
        return [place.site.path for place in self.okr.places]
