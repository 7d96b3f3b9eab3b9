"""Putting keyed routing into a live model and taking it out again; recording; forced replay."""

from okr.attach.generation import Generation
from okr.attach.recording import Recording
from okr.attach.replay import replay
from okr.attach.routings import Setting
from okr.attach.session import Recorder, Watermark, record, watermark

__all__ = ["Generation", "Recorder", "Recording", "Setting", "Watermark", "record", "replay", "watermark"]
