"""What a suite's figures say in words: the first paragraph of a report, and what its tests assume."""

from collections.abc import Sequence

from okr.evidence.figures import Figure
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
_LEVEL = 0.01


def weakness(suites: SuiteResults) -> str:
    """Where OKR is weak, in one paragraph with its figures; empty where the attacks were not run."""
    figures = [f for f in suites.figures("found after attack") if f.level == _LEVEL and f.value is not None]
    own = [f for f in figures if f.method == "okr"]
    before = next((f for f in own if f.condition == "not attacked"), None)
    edits = ("tokens substituted", "tokens deleted", "tokens inserted", "synonyms", "sentences shuffled")
    attacked = [f for f in own if f.condition in edits]
    if before is None or not attacked:
        return ""
    worst = [_mildest(attacked, condition) for condition in edits]
    parts = [f"{f.condition} ({_amount(f)}) {_share(f)}" for f in worst if f is not None]
    others = [f for f in figures if f.method != "okr" and f.condition == worst[0].condition] if worst[0] else []
    beside = [
        f"{_NAMES[f.method]} {_share(f)}" for f in others if worst[0] is not None and f.strength == worst[0].strength
    ]
    compared = f" After the same {worst[0].condition}: {', '.join(beside)}." if beside and worst[0] else ""
    return (
        f"OKR is weak where the text is edited and no trace is at hand. Of {before.samples} texts of {before.tokens} "
        f"tokens it finds {_share(before)} from the untouched text at a false-positive rate of {_LEVEL:g}; after "
        f"edits: "
        f"{'; '.join(parts)}.{compared} Traces are not touched by edits of the text."
    )


_NAMES = {"kgw": "KGW", "synthid": "SynthID"}


def _mildest(figures: Sequence[Figure], condition: str) -> Figure | None:
    own = [f for f in figures if f.condition == condition]
    return min(own, key=lambda f: f.strength or 0.0) if own else None


def _amount(figure: Figure) -> str:
    return f"{100 * (figure.strength or 0):.0f}%"


def _share(figure: Figure) -> str:
    return f"{figure.value or 0:.2f} ({figure.low or 0:.2f} to {figure.high or 0:.2f})"
