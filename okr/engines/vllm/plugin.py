"""The plugin that vLLM loads in each of its processes. It does nothing unless the configuration has a section for it,
but for teaching vLLM the configuration of DeepSeek-MoE."""

import sys
from functools import cache, wraps
from typing import Any

from okr.engines.vllm.configuration import Configuration


@cache
def register() -> None:
    """What the entry point ``vllm.general_plugins`` names. vLLM may call it several times; once is enough."""
    from okr.engines.vllm.journal import keep_journal
    from okr.engines.vllm.requests import keep_apart
    from okr.loaders import deepseek

    deepseek.register()
    _spare_llvmlite()
    _allow_records()
    _attach_after_loading()
    keep_apart()
    keep_journal()


def _spare_llvmlite() -> None:
    """Let vLLM not look for its kernels in a module of llvmlite, numba's compiler. It takes what it finds there for
    objects with attributes and fails."""
    from vllm.triton_utils import dispatcher

    rebind = dispatcher._rebind_kernels

    @wraps(rebind)
    def rebound(*arguments: Any) -> None:
        hidden = sys.modules.pop("llvmlite.binding.ffi", None)
        try:
            rebind(*arguments)
        finally:
            if hidden is not None:
                sys.modules["llvmlite.binding.ffi"] = hidden

    dispatcher._rebind_kernels = rebound


def _attach_after_loading() -> None:
    """Attach the key to a worker's model when it is loaded, before vLLM compiles or measures it."""
    from vllm.v1.worker.worker_base import WorkerWrapperBase

    def load_model(wrapper: Any, *arguments: Any, **named: Any) -> Any:
        loaded = wrapper.worker.load_model(*arguments, **named)
        configuration = Configuration.of(wrapper.vllm_config.additional_config)
        if configuration is not None:
            from okr.engines.vllm.worker import Attached

            wrapper.worker.okr = Attached(wrapper.worker, configuration)
        return loaded

    WorkerWrapperBase.load_model = load_model


def _allow_records() -> None:
    """Let vLLM return routed experts on a CPU, where this package records them."""
    from vllm.config import VllmConfig

    verify = VllmConfig._verify_aux_output_compatibility

    @wraps(verify)
    def verified(config: Any) -> None:
        ours = records_itself(config)
        if ours:
            config.aux_output_config.enable_return_routed_experts = False
        verify(config)
        if ours:
            _check(config)
            config.aux_output_config.enable_return_routed_experts = True

    VllmConfig._verify_aux_output_compatibility = verified


def records_itself(config: Any) -> bool:
    """Whether this package records what runs, because vLLM's model runner cannot."""
    from vllm.platforms import current_platform

    configuration = Configuration.of(config.additional_config)
    wanted = configuration is not None and configuration.record
    return wanted and current_platform.is_cpu() and not config.use_v2_model_runner


def _check(config: Any) -> None:
    """Raise ValueError where routed experts could not be told apart or collected."""
    if config.parallel_config.pipeline_parallel_size > 1:
        raise ValueError(
            "okr: routed experts cannot be returned with pipeline parallelism: serve with "
            "--no-routed-experts (record: false)"
        )
    if config.parallel_config.data_parallel_size > 1 and config.parallel_config.enable_expert_parallel:
        raise ValueError("okr: routed experts cannot be told apart with data and expert parallelism on a CPU")
