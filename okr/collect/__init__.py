"""Reads which experts ran in engines that do not return them. No key and none of this package's routing is involved.

There is one module for each engine. transformers' own models are read by :func:`okr.record`; vLLM and SGLang return the
experts themselves (:meth:`okr.Trace.from_response`).
"""

from okr.collect.routing import Routing

__all__ = ["Routing"]
