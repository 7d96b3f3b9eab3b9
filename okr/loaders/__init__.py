"""Loads models and tokenizers (embedded, from a folder or from a hub), and has the DeepSeek-MoE port and the passages
for experiments."""

from okr.loaders.expert_counts import ExpertCounts, check_declared, expert_counts, generation_defaults
from okr.loaders.failures import is_out_of_memory, memory_guard, out_of_memory
from okr.loaders.loading import Loaded, architecture, config_alone, load, load_tokenizer
from okr.loaders.passages import Passage, passages
from okr.loaders.sources import EMBEDDED, PRESETS

__all__ = [
    "EMBEDDED",
    "PRESETS",
    "ExpertCounts",
    "Loaded",
    "Passage",
    "architecture",
    "check_declared",
    "config_alone",
    "expert_counts",
    "generation_defaults",
    "is_out_of_memory",
    "load",
    "load_tokenizer",
    "memory_guard",
    "out_of_memory",
    "passages",
]
