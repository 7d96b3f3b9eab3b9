"""Attacks on a text: pure functions of its tokens, a strength and a random generator.

Token attacks work on tokens, word attacks on the decoded text, which is then encoded again. ``share`` attacks change
that share of the tokens (or words, of those that have a synonym).
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from okr.jobs.tasks import NotAvailable
from okr.loaders import Loaded
from okr.suites.samples import Made

_UNIVERSAL = {"n": "NOUN", "v": "VERB", "a": "ADJ", "r": "ADV"}


@dataclass(frozen=True)
class Victim:
    """One text under attack: as it was made, with the prompt's text and human text to hide it in."""

    loaded: Loaded
    made: Made
    human: str
    other_prompt: Made
    seed: int

    @property
    def random(self) -> np.random.Generator:
        """A generator of the text's own, the same for every attack and strength."""
        return np.random.default_rng(self.seed)

    @property
    def text(self) -> str:
        """The generated part, decoded."""
        return str(self.loaded.tokenizer.decode(list(self.made.new), skip_special_tokens=True))

    def with_new(self, new: Sequence[int]) -> Made:
        """The text with other new tokens; at least one is left."""
        kept = tuple(int(token) for token in new) or self.made.new[:1]
        return replace(self.made, tokens=self.made.tokens[: self.made.prompt_length] + kept)

    def with_text(self, text: str) -> Made:
        """The text encoded again, as long as it was at most, so that it fits the model."""
        ids = self.loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
        return self.with_new(ids[: max(len(self.made.new), 1)])


def substitute(victim: Victim, share: float) -> Made:
    """That share of the tokens replaced by random ones."""
    new, hit = _chosen(victim, share)
    new[hit] = _random_tokens(victim, int(hit.sum()))
    return victim.with_new(new.tolist())


def delete(victim: Victim, share: float) -> Made:
    """That share of the tokens left out."""
    new, hit = _chosen(victim, share)
    return victim.with_new(new[~hit].tolist())


def insert(victim: Victim, share: float) -> Made:
    """That many random tokens, as a share of the text, put in; the end is cut so that the length stays."""
    new, hit = _chosen(victim, share)
    places = np.flatnonzero(hit)
    longer = np.insert(new, places, _random_tokens(victim, len(places)))
    return victim.with_new(longer[: len(new)].tolist())


def truncate(victim: Victim, share: float) -> Made:
    """That share of the text cut off at its end."""
    return victim.with_new(victim.made.new[: round(len(victim.made.new) * (1 - share))])


def dilute(victim: Victim, share: float) -> Made:
    """That share of the tokens is human text put before and after what is left of the text; the length stays."""
    length = len(victim.made.new)
    kept = max(1, round(length * (1 - share)))
    human = victim.loaded.tokenizer(victim.human, add_special_tokens=False)["input_ids"]
    before = (length - kept) // 2
    after = length - kept - before
    tail = human[before : before + after]
    return victim.with_new([*human[:before], *victim.made.new[:kept], *tail])


def re_encode(victim: Victim, share: float) -> Made:
    """Decoded and encoded again: what any attack on words begins with."""
    return victim.with_text(victim.text)


def shuffle(victim: Victim, share: float) -> Made:
    """The sentences (or lines) in random order."""
    parts = [part for part in re.split(r"(?<=[.!?;:])\s+|\n+", victim.text) if part]
    order = victim.random.permutation(len(parts))
    return victim.with_text(" ".join(parts[place] for place in order))


def synonyms(victim: Victim, share: float) -> Made:
    """That share of the words that have one replaced by a synonym, inflected like the word (lemminflect)."""
    pieces = re.split(r"([A-Za-z]+)", victim.text)
    options = {place: found for place in range(1, len(pieces), 2) if (found := alternatives(pieces[place]))}
    random = victim.random
    for place, found in options.items():
        drawn, which = random.random(), int(random.integers(len(found)))
        if drawn < share:
            pieces[place] = _like(pieces[place], found[which])
    return victim.with_text("".join(pieces))


def no_prompt(victim: Victim, share: float) -> Made:
    """The prompt is not known to whoever tests: the text stands alone."""
    if victim.made.source is not None:
        end = victim.loaded.tokenizer.eos_token_id
        return replace(victim.made, source=(0 if end is None else int(end),))
    bos = victim.loaded.tokenizer.bos_token_id
    head = () if bos is None else (int(bos),)
    return Made(head + victim.made.new, max(1, len(head)))


def wrong_prompt(victim: Victim, share: float) -> Made:
    """Tested with another text's prompt."""
    other = victim.other_prompt
    if victim.made.source is not None:
        return replace(victim.made, source=other.source)
    return Made(other.tokens[: other.prompt_length] + victim.made.new, other.prompt_length)


Attack = Callable[[Victim, float], Made]
STRENGTHS: dict[str, tuple[Attack, tuple[float, ...], tuple[float, ...]]] = {
    # the attack, all strengths, those of --quick; 1 where there is only one
    "re-encoded": (re_encode, (1.0,), (1.0,)),
    "tokens substituted": (substitute, (0.05, 0.1, 0.2, 0.4), (0.1, 0.3)),
    "tokens deleted": (delete, (0.1, 0.3), (0.1,)),
    "tokens inserted": (insert, (0.1, 0.3), (0.1,)),
    "synonyms": (synonyms, (0.25, 0.5, 1.0), (0.5,)),
    "sentences shuffled": (shuffle, (1.0,), (1.0,)),
    "truncated": (truncate, (0.25, 0.5, 0.75), (0.5,)),
    "pasted into human text": (dilute, (0.1, 0.25, 0.5, 0.75, 0.9), (0.5,)),
    "prompt unknown": (no_prompt, (1.0,), (1.0,)),
    "wrong prompt": (wrong_prompt, (1.0,), (1.0,)),
}


def _chosen(victim: Victim, share: float) -> tuple[np.ndarray, np.ndarray]:
    """The new tokens, and which of them are hit: ``share`` of them, those of a smaller share always among them."""
    new = np.array(victim.made.new)
    order = victim.random.permutation(len(new))
    hit = np.zeros(len(new), bool)
    hit[order[: round(share * len(new))]] = True
    return new, hit


def _random_tokens(victim: Victim, count: int) -> np.ndarray:
    special = set(victim.loaded.tokenizer.all_special_ids)
    ordinary = np.array([token for token in range(len(victim.loaded.tokenizer)) if token not in special])
    return np.random.default_rng([victim.seed, 1]).choice(ordinary, count)


@cache
def _table() -> dict[str, list[str]]:
    found: dict[str, list[str]] = json.loads(
        files("okr.suites").joinpath("data/synonyms.json").read_text(encoding="utf-8")
    )
    return found


@cache
def alternatives(word: str) -> tuple[str, ...]:
    """Synonyms of ``word`` in its own inflection; none for words without. NotAvailable without lemminflect.

    Without a tagger the first part of speech that has synonyms counts, nouns before verbs.
    """
    inflect = _lemminflect()
    low = word.lower()
    if len(low) < 3:
        return ()
    lemmas = inflect.getAllLemmas(low)
    for short, universal in _UNIVERSAL.items():
        for lemma in lemmas.get(universal, ()):
            words = _table().get(f"{lemma}|{short}")
            if words:
                tag = _tag(lemma, low, universal)
                forms = [inflect.getInflection(other, tag) if tag else (other,) for other in words]
                return tuple(form[0] for form in forms if form and form[0] != low)
    return ()


def _tag(lemma: str, form: str, universal: str) -> str | None:
    """The Penn tag of ``form`` among the inflections of ``lemma``; of several that whose usual form it is."""
    inflections = _lemminflect().getAllInflections(lemma, upos=universal)
    fitting = [tag for tag, forms in inflections.items() if form in forms]
    return next((str(tag) for tag in fitting if inflections[tag][0] == form), str(fitting[0]) if fitting else None)


def _lemminflect() -> Any:
    try:
        import lemminflect
    except ImportError:
        raise NotAvailable("install lemminflect for synonyms: pip install 'okr-watermark[evidence]'") from None
    return lemminflect


def _like(word: str, other: str) -> str:
    """``other`` written with the capitals of ``word``."""
    if word.isupper() and len(word) > 1:
        return other.upper()
    return other.capitalize() if word[0].isupper() else other
