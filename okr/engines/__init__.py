"""What runs a model under a key, recorded, or with a trace's routing: engines, and what they have in common."""

from okr.engines.prepared import prepare, record, watermark
from okr.engines.protocol import Engine, Session, Text

__all__ = ["Engine", "Session", "Text", "prepare", "record", "watermark"]
