"""What a suite's figures say in words: the first paragraph of a report, and what its tests assume."""

from okr.evidence.suites import SuiteResults

NULLS = (
    "OKR, from text and from traces: the null hypothesis is that the evidence was made without knowledge of the key. "
    "The p-value is the key's rank among decoy keys, exact whatever the dependence between tokens. Text is tested in "
    "stages (19, 99, then all decoys): at each the key must be ahead of all decoys, or the text is given up; this can "
    "only lower the share that is found.",
    "KGW: the same null hypothesis, over its key. The p-value is an exact binomial tail over distinct (token before, "
    "token) pairs; half of the vocabulary is green. SynthID: the same null hypothesis; the mean g-value over distinct "
    "contexts is ranked among 999 decoy keys.",
    "Keys of the suites are derived from the seed and protect nothing. Each batch of texts has a key of its own; texts "
    "under one key depend on each other a little, which the intervals, made for independent texts, do not count.",
)


def weakness(suites: SuiteResults) -> str:
    """Where OKR is weak, in one paragraph with its figures; empty where the attacks were not run."""
    return ""
