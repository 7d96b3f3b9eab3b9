"""The small suites and what they are made on."""

from small_suites import bench, checkpoint, finished_run, loaded, small

__all__ = ["bench", "checkpoint", "finished_run", "loaded", "small"]
