"""The small suites, and the run that they are made on."""

from small_suites import checkpoint, finished_run, small

__all__ = ["checkpoint", "finished_run", "small"]
