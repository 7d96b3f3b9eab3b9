"""The engine for transformers. It changes the routing of a live torch model, records it, and replays traces."""

from okr.engines.transformers.engine import TransformersEngine
from okr.engines.transformers.generation import Generation
from okr.engines.transformers.recording import Recording
from okr.engines.transformers.session import Recorder, Watermark

__all__ = ["Generation", "Recorder", "Recording", "TransformersEngine", "Watermark"]
