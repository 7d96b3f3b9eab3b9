"""Proof that a key was there: from traces, from text alone, and which of many keys it was."""

from okr.detection.attribution import Attribution, Candidate, attribute
from okr.detection.text import detect
from okr.detection.verdict import SiteScore, TextVerdict, TokenScore, TraceVerdict, Verdict
from okr.detection.verification import verify

__all__ = [
    "Attribution",
    "Candidate",
    "SiteScore",
    "TextVerdict",
    "TokenScore",
    "TraceVerdict",
    "Verdict",
    "attribute",
    "detect",
    "verify",
]
