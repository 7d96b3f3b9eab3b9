"""What a suite's figures say in words: the first paragraph of a report, and what its tests assume."""

from collections.abc import Sequence

from okr.pages.numbers import between
from okr.suites.figures import Figure
from okr.suites.runner import SuiteResults

NULLS = (
    "OKR, from text and from traces: the null hypothesis is that the evidence was made without knowledge of the key. "
    "The p-value is the key's rank among decoy keys, exact whatever the dependence between tokens. Text is tested in "
    "stages (9, 19, 49 and so on up to all decoys): at each the key must be ahead of all decoys, or the text is given "
    "up; this can only lower the share that is found.",
    "KGW: the same null hypothesis, over its key. The p-value is an exact binomial tail over distinct (token before, "
    "token) pairs; half of the vocabulary is green. SynthID: the same null hypothesis; the mean g-value over distinct "
    "contexts is ranked among 999 decoy keys.",
    "Keys of the suites are derived from the seed and protect nothing. Each batch of texts has a key of its own; texts "
    "under one key depend on each other a little, which the intervals, made for independent texts, do not count.",
)
_LEVEL = 0.01
OWN = "okr louder"
_NAMES = {"kgw louder": "KGW at the same cost", "synthid": "SynthID"}


def weakness(suites: SuiteResults) -> str:
    """Where OKR is weak, in one paragraph with its figures; empty where the attacks were not run."""
    figures = [f for f in suites.figures("found after attack") if f.level == _LEVEL and f.value is not None]
    own = [f for f in figures if f.method == OWN]
    before = next((f for f in own if f.condition == "not attacked"), None)
    edits = ("tokens substituted", "tokens deleted", "tokens inserted", "synonyms", "sentences shuffled")
    attacked = [f for f in own if f.condition in edits]
    if before is None or not attacked:
        return ""
    mild = [f for condition in edits if (f := _mildest(attacked, condition)) is not None]
    parts = "; ".join(f"{f.condition} ({_amount(f)}) {_share(f)}" for f in mild)
    same = (mild[0].condition, mild[0].strength)
    others = [f for f in figures if f.method != OWN and (f.condition, f.strength) == same]
    beside = ", ".join(f"{_NAMES[f.method]} {_share(f)}" for f in others)
    compared = f" After the first of these others find: {beside}." if beside else ""
    return (
        f"OKR is weak where the text is edited and no trace is at hand. Of {before.samples} texts of {before.tokens} "
        f"tokens, made with the louder setting, it finds {_share(before)} untouched, at a false-positive rate of "
        f"{_LEVEL:g} from the text alone; after edits: {parts}.{compared} Traces are not touched by edits of the text."
    )


def text_test(suites: SuiteResults) -> list[str]:
    """What the test of texts without traces found; nothing where it was not made."""
    figures = [f for f in suites.figures("found", "baselines") if f.level == _LEVEL and f.value is not None]
    own = {"okr": "this run's setting", OWN: "the louder setting"}
    texts = [f for f in figures if f.method in own]
    if not texts:
        return []
    longest = max(f.tokens or 0 for f in texts)
    shares = "; ".join(f"{own[f.method]} {_share(f)}" for f in texts if f.tokens == longest)
    return [
        "All of the above needs traces. The test of the text alone asks whether the key predicts the text better than "
        f"other keys do. Of {texts[0].samples} texts of {longest} new tokens it found, at a false-positive rate of "
        f"{_LEVEL:g}, with 95% intervals: {shares}. The tables below have other lengths and other watermarks."
    ]


def _mildest(figures: Sequence[Figure], condition: str) -> Figure | None:
    own = [f for f in figures if f.condition == condition]
    return min(own, key=lambda f: f.strength or 0.0) if own else None


def _amount(figure: Figure) -> str:
    return "all" if figure.strength == 1 else f"{100 * (figure.strength or 0):.0f}%"


def _share(figure: Figure) -> str:
    return between(figure.value or 0.0, figure.low or 0.0, figure.high or 0.0, 2)
