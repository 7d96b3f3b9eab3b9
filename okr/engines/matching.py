"""Checks whether an engine's model made a trace, and finds the sites that the trace recorded."""

from okr.discovery import RouterSite
from okr.engines.protocol import Engine
from okr.errors import InvalidTrace
from okr.traces import Trace

_ANOTHER = {
    "structure": "another model",
    "routers": "another model, of the same structure with other router weights",
    "weights": "another model, of the same structure with other weights (an adapter on or off, or fine-tuning)",
}


def matching_sites(engine: Engine, trace: Trace) -> list[RouterSite]:
    """The sites of ``engine`` that ``trace`` recorded, in the trace's order. Raises InvalidTrace if another model made
    the trace, or if its token ids are out of the model's vocabulary."""
    difference = trace.header.model.difference(engine.identity())
    if difference:
        raise InvalidTrace(
            f"this trace was made by {_ANOTHER[difference]}: {trace.header.model.class_name} with "
            f"{len(trace.header.sites)} sites; verify it with the model that made it"
        )
    by_path = {site.path: site for site in engine.sites}
    for recorded in trace.header.sites:
        site = by_path.get(recorded.path)
        if site is None or (site.num_experts, site.top_k) != (recorded.num_experts, recorded.top_k):
            raise InvalidTrace(f"this model has no router {recorded.path} like the one that the trace records")
    known = engine.vocabulary
    for tokens in (trace.token_ids, trace.encoder_token_ids):
        if tokens is not None and known is not None and (tokens >= known).any():
            raise InvalidTrace(f"token ids reach {int(tokens.max())}, but the model has {known} tokens")
    return [by_path[recorded.path] for recorded in trace.header.sites]
