"""An independent oracle in NumPy: what a family ranks and pays, and which selections the semantics allow.

Written from the families' own source and from the spec, sharing no code with what it judges. Where scores are closer
than rounding can tell, either outcome is legal: the oracle states the set of legal selections, not one of them.
"""

import math
from dataclasses import dataclass

import numpy as np

TOLERANCE = 2e-5


@dataclass(frozen=True)
class Rule:
    """How a family chooses and weighs.

    choice, weight: the function of the logits that is ranked, and the one that is paid. groups: how groups are scored
    before all but the best are barred. norm: what the weights of the chosen are normalised by. scale: the router's
    attribute that multiplies them. bias: adds to the choice, not to the weight.
    """

    choice: str
    weight: str
    norm: str = ""
    scale: str = ""
    groups: str = ""


def _named(names: str) -> tuple[str, ...]:
    return tuple(names.split())


_LOGITS = Rule("logits", "logits", "softmax")
_SOFTMAX = Rule("softmax", "softmax", "flag")
_DEEPSEEK_V3 = Rule("sigmoid", "sigmoid", "flag", "routed_scaling_factor", "pair")

RULES: dict[str, Rule] = {
    **dict.fromkeys(
        _named(
            "AriaTextMoELayer AriaTextTopKRouter GptOssTopKRouter GraniteMoeTopKRouter GraniteMoeSWATopKRouter "
            "GraniteMoeHybridTopKRouter GraniteMoeSharedTopKRouter JetMoeTopKGating"
        ),
        _LOGITS,
    ),
    "Cohere2MoeTopKRouter": Rule("logits", "logits", "cohere"),
    "OpenAIPrivacyFilterTopKRouter": Rule("logits", "logits", "softmax/k"),
    "PhimoeTopKRouter": Rule("logits", "logits", "sparsemixer"),
    "Llama4Router": Rule("logits", "sigmoid"),
    **dict.fromkeys(
        _named(
            "FlexOlmoTopKRouter MellumTopKRouter OlmoeTopKRouter Qwen2MoeTopKRouter Qwen3MoeTopKRouter "
            "Qwen3NextTopKRouter Qwen3OmniMoeThinkerTextTopKRouter Qwen3OmniMoeTalkerTextTopKRouter "
            "Qwen4ExpTextTopKRouter"
        ),
        _SOFTMAX,
    ),
    **dict.fromkeys(
        _named("HunYuanMoEV1Gate MiniMaxTopKRouter MixtralTopKRouter Qwen3_5MoeTopKRouter Qwen3VLMoeTextTopKRouter"),
        Rule("softmax", "softmax", "sum"),
    ),
    **dict.fromkeys(("JambaTopKRouter", "JambaSparseMoeBlock"), Rule("softmax", "softmax")),
    "SwitchTransformersTop1Router": Rule("softmax", "softmax"),
    "DbrxFFN": Rule("softmax", "softmax", "dbrx"),
    **dict.fromkeys(
        ("DeepseekV2TopkRouter", "DeepseekOcr2TextTopkRouter", "UnlimitedOcrTextTopkRouter"),
        Rule("softmax", "softmax", "", "routed_scaling_factor", "max if group_limited_greedy"),
    ),
    **dict.fromkeys(("Gemma4TextRouter", "DiffusionGemmaTextRouter"), Rule("probabilities", "probabilities", "gemma")),
    **dict.fromkeys(("Mistral4TopkRouter",), Rule("softmax", "softmax", "flag", "routed_scaling_factor", "pair")),
    "MistralLarge4TextTopkRouter": Rule("softmax", "softmax", "sum", "routed_scaling_factor", "pair"),
    **dict.fromkeys(
        _named(
            "AXK1TopkRouter AXK2TopkRouter BailingHybridTopkRouter DeepseekV3TopkRouter DeepseekV32TopkRouter "
            "Dots1TopkRouter Dots3NoteTextTopkRouter ExaoneMoeTopkRouter Glm4MoeTopkRouter "
            "Glm4MoeLiteTopkRouter Glm4vMoeTextTopkRouter Glm5NextTextTopkRouter GlmMoeDsaTopkRouter "
            "HYV4TopkRouter KimiLinearTopkRouter MiMoV2FlashTopkRouter NemotronHTopkRouter "
            "SolarOpenTopkRouter"
        ),
        _DEEPSEEK_V3,
    ),
    "BeamTopKRouter": Rule("sigmoid", "sigmoid", "flag", "", "pair"),
    "AfmoeTokenChoiceRouter": Rule("sigmoid", "sigmoid", "sum", "route_scale"),
    "Dots3NoteVisionTopKRouter": Rule("sigmoid", "sigmoid", "sum", "router_scaling_factor"),
    "HYV3TopKRouter": Rule("sigmoid", "sigmoid", "sum", "router_scaling_factor"),
    "Inkling2TopKRouter": Rule("sigmoid", "sigmoid", "sum", "routed_scaling_factor"),
    "MuseSparkTopkRouter": Rule("sigmoid", "sigmoid", "sum", "routed_scaling_factor"),
    "LagunaTopKRouter": Rule("sigmoid", "sigmoid", "sum"),
    "MiniMaxM2TopKRouter": Rule("sigmoid", "sigmoid", "sum"),
    "MiniMaxM3VLTopKRouter": Rule("sigmoid", "sigmoid", "sum"),
    "Step3p7TopKRouter": Rule("sigmoid", "sigmoid", "sum"),
    "FlintTopKRouter": Rule("sigmoid", "sigmoid", "flag"),
    "Lfm2MoeTopKRouter": Rule("sigmoid", "sigmoid", "flag", "routed_scaling_factor"),
    "InklingTopkRouter": Rule("sigmoid", "sigmoid", "with shared"),
    "Kolibri1TopKRouter": Rule("logits", "sigmoid", "flag"),
    "Ernie4_5_MoeTopKRouter": Rule("softmax", "softmax", "sum"),
    "Ernie4_5_VLMoeMoeTopKRouter": Rule("softmax", "softmax", "sum"),
    "DeepseekV4TopKRouter": Rule("sqrtsoftplus", "sqrtsoftplus", "sum", "routed_scaling_factor"),
    "LongcatFlashTopkRouter": Rule("softmax", "softmax", "", "routed_scaling_factor"),
    "ZayaRouter": Rule("softmax", "softmax", "skip"),
}
"""Class of the router -> its rule."""


def activation(name: str, logits: np.ndarray) -> np.ndarray:
    """What a family makes of its logits [T, E]."""
    if name == "softmax":
        powers = np.exp(logits - logits.max(-1, keepdims=True))
        return powers / powers.sum(-1, keepdims=True)
    if name == "sigmoid":
        return 1 / (1 + np.exp(-logits))
    if name == "sqrtsoftplus":
        return np.sqrt(np.logaddexp(0, logits))
    return logits


def choice_scores(
    rule: Rule, logits: np.ndarray, bias: np.ndarray | None, groups: tuple[int, int] | None
) -> np.ndarray:
    """c [T, E]: logarithms where softmax probabilities are ranked; -inf where groups bar experts."""
    scores = activation(rule.choice, logits)
    probabilities = rule.choice in ("softmax", "probabilities") and bias is None
    if bias is not None:
        scores = scores + bias
    barred = np.zeros(scores.shape, bool)
    if groups is not None and rule.groups:
        count, kept = groups
        members = np.sort(scores.reshape(len(scores), count, -1), -1)
        worth = members[..., -2:].sum(-1) if rule.groups == "pair" else members[..., -1]
        best = np.argsort(-worth, -1, kind="stable")[:, :kept]
        allowed = np.zeros(worth.shape, bool)
        np.put_along_axis(allowed, best, True, -1)
        barred = ~np.repeat(allowed, scores.shape[-1] // count, -1)
    with np.errstate(divide="ignore"):
        return np.where(barred, -np.inf, np.log(scores) if probabilities else scores)


@dataclass(frozen=True)
class Zone:
    """One token's zone: whether it is an opportunity, who competes and who is locked [E]."""

    opportunity: bool
    pool: np.ndarray
    locked: np.ndarray


def zone_of(choice: np.ndarray, top_k: int, epsilon: float, zone: str, slack: float) -> Zone:
    """The zone of one token's choice scores [E], its lower edge moved down and its lock moved up by ``slack``."""
    order = np.sort(choice)[::-1]
    candidate = choice > -np.inf
    locked = np.zeros(choice.shape, bool)
    if zone == "max":
        pool = candidate & (choice >= order[0] - epsilon - slack)
    else:
        out = order[top_k] if top_k < len(choice) else -np.inf
        if not (math.isinf(epsilon) and math.isinf(out)):
            locked = choice > out + epsilon + slack
        pool = candidate & (choice >= order[top_k - 1] - epsilon - slack) & ~locked
    free = top_k - locked.sum()
    sound = np.isfinite(choice[candidate]).all() and candidate.sum() >= top_k
    return Zone(bool(sound and pool.sum() > free > 0), pool, locked)


def is_legal(
    selected: np.ndarray, choice: np.ndarray, keys: np.ndarray, *, epsilon: float, zone: str, strength: float
) -> bool:
    """Whether one token may run the experts ``selected`` [k], given its choice and key scores [E]."""
    top_k = len(selected)
    chosen = np.zeros(choice.shape, bool)
    chosen[selected] = True
    if chosen.sum() != top_k:
        return False
    rank = keys if math.isinf(strength) else choice + strength * keys
    for slack in (0.0, TOLERANCE, -TOLERANCE):
        found = zone_of(choice, top_k, epsilon, zone, slack)
        if not found.opportunity:
            if chosen[choice > -np.inf].sum() == min(top_k, (choice > -np.inf).sum()) and _is_top(chosen, choice):
                return True
            continue
        won, lost = chosen & found.pool, found.pool & ~chosen
        inside = not (chosen & ~found.pool & ~found.locked).any() and (chosen | ~found.locked).all()
        if inside and (not lost.any() or rank[won].min() >= rank[lost].max() - TOLERANCE):
            return True
    return False


def _is_top(chosen: np.ndarray, choice: np.ndarray) -> bool:
    return bool(chosen.all() or choice[chosen].min() >= choice[~chosen].max() - TOLERANCE)


def weights(
    rule: Rule, logits: np.ndarray, selected: np.ndarray, router: object, shared: np.ndarray | None = None
) -> np.ndarray:
    """What the family pays the experts ``selected`` [T, k], given its logits [T, E] and its router's settings.

    ``shared``: the logits [T, n] of shared experts that take part in the normalisation.
    """
    paid = np.take_along_axis(activation(rule.weight, logits), selected, -1)
    settings = vars(router)
    norm = rule.norm
    if norm == "flag":
        norm = "sum" if settings["norm_topk_prob"] else ""
    if norm == "cohere":
        norm, paid = (
            ("softmax", paid) if settings["expert_selection_fn"] == "softmax" else ("sum", activation("sigmoid", paid))
        )
    if norm == "sparsemixer":
        return _sparsemixer(logits, selected, settings["router_jitter_noise"])
    if norm in ("softmax", "softmax/k"):
        paid = activation("softmax", paid) / (paid.shape[-1] if norm.endswith("k") else 1)
    elif norm == "dbrx":
        paid = paid / np.linalg.norm(paid, ord=settings["moe_normalize_expert_weights"], axis=-1, keepdims=True)
    elif norm == "with shared":
        joint = np.concatenate([paid, activation("sigmoid", shared)], -1)
        paid = paid / joint.sum(-1, keepdims=True) * settings["route_scale"]
    elif norm == "skip":
        paid = np.where(selected == logits.shape[-1] - 1, 0.0, paid)
    elif norm in ("sum", "gemma"):
        paid = paid / paid.sum(-1, keepdims=True)
    return paid * settings[rule.scale] if rule.scale else paid


def _sparsemixer(logits: np.ndarray, selected: np.ndarray, jitter: float) -> np.ndarray:
    """Each chosen expert's share of a softmax over the experts that are close to it, those chosen before left out."""
    paid, left = np.zeros(selected.shape), logits.copy()
    for place in range(selected.shape[-1]):
        own = np.take_along_axis(left, selected[:, place, None], -1)
        near = (own - logits) / np.maximum(np.abs(logits), own) <= 2 * jitter
        share = activation("softmax", np.where(near, left, -np.inf))
        paid[:, place] = np.take_along_axis(share, selected[:, place, None], -1)[:, 0]
        np.put_along_axis(left, selected[:, place, None], -np.inf, -1)
    return paid
