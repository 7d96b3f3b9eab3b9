"""What the suite says: one screen for a reader, JSON, JUnit, HTML and a badge for machines."""

from .screen import failure_text, summary_text
from .summary import Report

__all__ = ["Report", "failure_text", "summary_text"]
