"""Runs a model inside vLLM under a key: the plugin, the keyed routers, the traces, and the engine for verification.

Only this room touches vLLM. Importing it imports nothing of vLLM.
"""

from okr.engines.vllm.configuration import Configuration

__all__ = ["Configuration"]
