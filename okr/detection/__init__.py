"""Proof that a key was there: from traces, from text alone, and which of many keys it was."""

from okr.detection.attribution import Attribution, Candidate, attribute
from okr.detection.text import detect
from okr.detection.verdict import LEAST_TOKENS, SiteScore, TextVerdict, TokenScore, TraceVerdict, Verdict, Verdicts
from okr.detection.verification import verify, verify_each

__all__ = [
    "LEAST_TOKENS",
    "Attribution",
    "Candidate",
    "SiteScore",
    "TextVerdict",
    "TokenScore",
    "TraceVerdict",
    "Verdict",
    "Verdicts",
    "attribute",
    "detect",
    "verify",
    "verify_each",
]
