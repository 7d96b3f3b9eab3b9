"""Holds traces, in memory and in files: for one sequence, its tokens and the experts that ran for each of them."""

from okr.traces.header import ModelIdentity, TraceHeader, TraceSite
from okr.traces.passes import folded, unfolded
from okr.traces.trace import NOTHING_RAN, Trace
from okr.traces.unrouted import NOT_RECORDED

__all__ = ["NOTHING_RAN", "NOT_RECORDED", "ModelIdentity", "Trace", "TraceHeader", "TraceSite", "folded", "unfolded"]
