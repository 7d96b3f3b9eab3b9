"""Runs a model under a key, recorded, or with the routing of a trace. An engine is a prepared model; its protocol is
what all engines share."""

from okr.engines.prepared import prepare, record, watermark
from okr.engines.protocol import Engine, Session, Text

__all__ = ["Engine", "Session", "Text", "prepare", "record", "watermark"]
