"""Counts how often each expert ran."""

from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Int

from okr.traces.trace import Trace


def expert_load(traces: Iterable[Trace], experts: Mapping[str, int]) -> dict[str, Int[np.ndarray, " experts"]]:
    """How often each expert of every site ran in ``traces``: int64 [experts] by the path of the site.

    ``experts`` is the number of experts of each site, by its path. Raises KeyError if a trace has a site that is not in
    it.
    """
    counts = {path: np.zeros(count, np.int64) for path, count in experts.items()}
    for trace in traces:
        for place, site in enumerate(trace.header.sites):
            ran = trace.site_experts(place)
            counts[site.path] += np.bincount(ran[ran >= 0], minlength=site.num_experts)
    return counts
