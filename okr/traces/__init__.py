"""Traces: what ran, in memory and on disk."""

from okr.traces.engines import NOT_RECORDED
from okr.traces.header import ModelIdentity, TraceHeader, TraceSite
from okr.traces.passes import folded, unfolded
from okr.traces.trace import NOTHING_RAN, Trace

__all__ = ["NOTHING_RAN", "NOT_RECORDED", "ModelIdentity", "Trace", "TraceHeader", "TraceSite", "folded", "unfolded"]
