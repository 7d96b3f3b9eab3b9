"""Reads from a model's configuration how many experts it has and how it generates."""

from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from okr.errors import ModelLoadError

_EXPERTS = ("n_routed_experts", "num_local_experts", "num_experts", "moe_num_experts")
_TOP_K = ("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk", "top_k_experts", "experts_per_token")
_FIXED_TOP_K = {"switch_transformers": 1, "nllb-moe": 2}  # families whose code fixes the top-k


@dataclass(frozen=True)
class ExpertCounts:
    """The number of experts in a routed layer, of experts that run for a token (k), and of shared experts.
    ``num_experts`` and ``top_k`` are None if the configuration does not give them."""

    num_experts: int | None
    top_k: int | None
    shared: int


def expert_counts(config: PreTrainedConfig) -> ExpertCounts:
    """The expert counts in ``config``. They are those of its text part if it has several parts."""
    text = config.get_text_config()
    top_k = _first(text, _TOP_K)
    if top_k is None:
        top_k = _FIXED_TOP_K.get(text.model_type)
    return ExpertCounts(_first(text, _EXPERTS), top_k, _first(text, ("n_shared_experts",)) or 0)


def _first(config: Any, names: tuple[str, ...]) -> int | None:
    """The first of the attributes ``names`` that is a whole number, or None."""
    values = (getattr(config, name, None) for name in names)
    return next((v for v in values if isinstance(v, int) and not isinstance(v, bool)), None)


def check_declared(config: PreTrainedConfig, *, num_experts: int | None = None, top_k: int | None = None) -> list[str]:
    """One line for each declared count that differs from the configuration's. The line says that the configuration's
    count is used."""
    counts, lines = expert_counts(config), []
    if None not in (num_experts, counts.num_experts) and num_experts != counts.num_experts:
        lines.append(
            f"declared {num_experts} routed experts, the model's configuration has {counts.num_experts}: "
            f"{counts.num_experts} is used"
        )
    if None not in (top_k, counts.top_k) and top_k != counts.top_k:
        shared = f" + {counts.shared} shared" if counts.shared else ""
        sums = counts.shared and top_k == (counts.top_k or 0) + counts.shared
        lines.append(
            f"declared top-{top_k}, the model's configuration runs {counts.top_k} routed{shared} experts per token"
            f"{' (the declared number counts the shared ones)' if sums else ''}: top-{counts.top_k} is used"
        )
    return lines


def generation_defaults(model: PreTrainedModel) -> dict[str, Any]:
    """The arguments of ``generate`` that the model's own configuration gives: ``eos_token_id``, ``pad_token_id`` and,
    for an encoder-decoder, ``decoder_start_token_id``. A missing pad token is replaced by the end token.

    Raises ModelLoadError if an encoder-decoder does not name the token from which its decoder starts.
    """
    own = [c for c in (getattr(model, "generation_config", None), model.config) if c is not None]

    def ask(name: str) -> Any:
        return next((v for c in own if (v := getattr(c, name, None)) is not None), None)

    eos = ask("eos_token_id")
    pad = ask("pad_token_id")
    if pad is None:
        pad = eos[0] if isinstance(eos, list) else eos
    wanted = {"eos_token_id": eos, "pad_token_id": pad}
    if model.config.is_encoder_decoder:
        start = ask("decoder_start_token_id")
        wanted["decoder_start_token_id"] = ask("bos_token_id") if start is None else start
        if wanted["decoder_start_token_id"] is None:
            raise ModelLoadError("the model's configuration names no decoder_start_token_id: add it to config.json")
    return {name: value for name, value in wanted.items() if value is not None}
