"""Weighs chosen experts in memory, compiled by numba: one call in place of several small operations of torch."""

import numpy as np
from jaxtyping import Float32, Int64

from okr.routing.compiled import machine_code


def weigh(
    logits: Float32[np.ndarray, "tokens experts"],
    experts: Int64[np.ndarray, "tokens top_k"],
    *,
    softmax: bool,
    renormalise: bool,
    scaling: float,
) -> Float32[np.ndarray, "tokens top_k"]:
    """The weights of ``experts``: their softmax over all experts, or over the chosen ones if they are renormalised, or
    their sigmoids; times ``scaling``."""
    weights = np.empty(experts.shape, np.float32)
    _weigh(logits, experts, softmax, renormalise, np.float32(scaling), weights)
    return weights


@machine_code
def _weigh(logits, experts, softmax, renormalise, scaling, weights):  # type: ignore[no-untyped-def]
    """Fill ``weights`` [T, k]."""
    top_k = experts.shape[1]
    for token in range(len(logits)):
        row = logits[token]
        if softmax:
            largest = row[0]
            for expert in range(len(row)):
                largest = max(largest, row[expert])
            total = np.float32(0)
            if not renormalise:
                for expert in range(len(row)):
                    total += np.exp(row[expert] - largest)
            for slot in range(top_k):
                weights[token, slot] = np.exp(row[experts[token, slot]] - largest)
        else:
            total = np.float32(0)
            for slot in range(top_k):
                weights[token, slot] = np.float32(1) / (np.float32(1) + np.exp(-row[experts[token, slot]]))
        if renormalise:
            for slot in range(top_k):
                total += weights[token, slot]
        factor = scaling
        if softmax or renormalise:
            factor = scaling / total if total != 0 else np.float32(np.nan)  # logits that are not numbers
        for slot in range(top_k):
            weights[token, slot] *= factor
