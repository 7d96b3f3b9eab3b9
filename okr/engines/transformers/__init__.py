"""Putting keyed routing into a live model and taking it out again; recording; forced replay."""

from okr.engines.transformers.generation import Generation
from okr.engines.transformers.recording import Recording
from okr.engines.transformers.replay import replay
from okr.engines.transformers.routings import Setting
from okr.engines.transformers.session import Recorder, Watermark, record, watermark

__all__ = ["Generation", "Recorder", "Recording", "Setting", "Watermark", "record", "replay", "watermark"]
