"""Proof that a key was there: verification of traces."""

from okr.detection.verdict import SiteScore, Verdict
from okr.detection.verification import verify

__all__ = ["SiteScore", "Verdict", "verify"]
