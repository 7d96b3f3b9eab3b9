"""Runs a model inside vLLM under a key: the plugin, the keyed routers, the traces, and the engine for verification.

Only this room touches vLLM. Importing it imports nothing of vLLM.
"""

from typing import TYPE_CHECKING, Any

from okr.engines.vllm.configuration import Configuration

if TYPE_CHECKING:
    from okr.engines.vllm.engine import VllmEngine

__all__ = ["Configuration", "load_engine"]


def load_engine(model: str, **options: Any) -> "VllmEngine":
    """Load ``model`` into vLLM, natively routed, to verify traces and judge texts there.

    ``model`` is a folder, a hub id or an embedded model's name, and ``options`` are those of ``vllm.LLM``. Raises
    InvalidConfig if vLLM is not installed or cannot load the model.
    """
    from okr.engines.vllm.engine import VllmEngine

    return VllmEngine.load(model, **options)
