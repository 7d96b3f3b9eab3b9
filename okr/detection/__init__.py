"""Tests whether a key made something: from traces, from text alone, which of many keys it was,
or where in a trace a key acted.

The parts of the tests are public too: evidence, decoys, likelihoods and the statistic.
"""

from okr.detection.attribution import Attribution, Candidate, attribute
from okr.detection.combination import combined_p, site_ranks_p
from okr.detection.decoys import Decoys, draw_decoys
from okr.detection.evidence import SiteEvidence, gather_evidence
from okr.detection.likelihood import Likelihoods, Sharing, likelihoods
from okr.detection.many_keys import Swaps, p_values
from okr.detection.spans import Span, Spans, locate, spans_of
from okr.detection.swaps import LEAST_P, SwapTally, distance, sign_sum_p, swap_weights
from okr.detection.text import detect, statistic, text_seed
from okr.detection.verdict import LEAST_TOKENS, SiteScore, TextVerdict, TokenScore, TraceVerdict, Verdict, Verdicts
from okr.detection.verification import prefix_p_values, verify, verify_each, verify_keys, z_score
from okr.detection.windows import TokenSwaps, Windows

__all__ = [
    "LEAST_P",
    "LEAST_TOKENS",
    "Attribution",
    "Candidate",
    "Decoys",
    "Likelihoods",
    "Sharing",
    "SiteEvidence",
    "SiteScore",
    "Span",
    "Spans",
    "SwapTally",
    "Swaps",
    "TextVerdict",
    "TokenScore",
    "TokenSwaps",
    "TraceVerdict",
    "Verdict",
    "Verdicts",
    "Windows",
    "attribute",
    "combined_p",
    "detect",
    "distance",
    "draw_decoys",
    "gather_evidence",
    "likelihoods",
    "locate",
    "p_values",
    "prefix_p_values",
    "sign_sum_p",
    "site_ranks_p",
    "spans_of",
    "statistic",
    "swap_weights",
    "text_seed",
    "verify",
    "verify_each",
    "verify_keys",
    "z_score",
]
