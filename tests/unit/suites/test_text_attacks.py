"""Attacks on text: exactly as strong as they say, the same each time, and nested."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from okr.loaders import Loaded, passages
from okr.suites.samples import Bench, Made
from okr.suites.text_attacks import STRENGTHS, Victim, alternatives, dilute, no_prompt, synonyms, wrong_prompt

SHARES = st.sampled_from([0.0, 0.05, 0.1, 0.25, 0.5, 0.9, 1.0])


def victim(loaded: Loaded, length: int = 60, seed: int = 3) -> Victim:
    new = tuple(np.random.default_rng(seed).integers(3, 384, length).tolist())
    other = Made((1, 50, 51, 52), 4)
    return Victim(loaded, Made((1, 40, 41, *new), 3), passages(1)[0].text, other, seed)


def changed(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    return sum(x != y for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", STRENGTHS)
def test_every_attack_repeats_itself_and_leaves_a_text(bench: Bench, name: str) -> None:
    attack, every, few = STRENGTHS[name]
    for strength in {*every, *few}:
        one = attack(victim(bench.loaded), strength)
        assert one == attack(victim(bench.loaded), strength)
        assert len(one.new) >= 1
        assert 1 <= one.prompt_length < len(one.tokens)
        assert all(0 <= token < bench.vocabulary for token in one.tokens)


@given(share=SHARES, length=st.integers(1, 80))
def test_token_attacks_do_what_they_say(bench: Bench, share: float, length: int) -> None:
    target = victim(bench.loaded, length)
    own = target.made.new
    hit = round(share * length)
    substituted = STRENGTHS["tokens substituted"][0](target, share).new
    assert len(substituted) == length
    assert changed(own, substituted) <= hit
    deleted = STRENGTHS["tokens deleted"][0](target, share).new
    assert len(deleted) == max(1, length - hit)
    kept = iter(own)
    assert hit == length or all(token in kept for token in deleted), "in the order they had"
    inserted = STRENGTHS["tokens inserted"][0](target, share).new
    assert len(inserted) == length
    truncated = STRENGTHS["truncated"][0](target, share).new
    assert truncated == own[: max(1, round(length * (1 - share)))]


def test_a_stronger_substitution_hits_what_a_weaker_one_hit(bench: Bench) -> None:
    target = victim(bench.loaded, 100)
    attack, own = STRENGTHS["tokens substituted"][0], target.made.new
    made = [attack(target, share).new for share in (0.1, 0.2, 0.4)]
    places = [{place for place in range(100) if new[place] != own[place]} for new in made]
    for weak, strong in itertools.pairwise(places):
        assert len(weak - strong) <= 1, "a random token may equal the one it replaces"


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_dilution_keeps_the_length_and_one_run_of_the_text(bench: Bench, share: float) -> None:
    target = victim(bench.loaded, 100)
    new = dilute(target, share).new
    kept = target.made.new[: round(100 * (1 - share))]
    assert len(new) == 100
    assert any(new[place : place + len(kept)] == kept for place in range(len(new)))


def test_the_prompt_is_gone_or_another(bench: Bench) -> None:
    target = victim(bench.loaded)
    alone, other = no_prompt(target, 1), wrong_prompt(target, 1)
    assert alone.tokens == (1, *target.made.new)
    assert other.tokens == (1, 50, 51, 52, *target.made.new)
    assert alone.new == other.new == target.made.new
    encoder = dataclasses.replace(target, made=Made((0, 9, 10), 1, (4, 5, 6)), other_prompt=Made((0, 1), 1, (7, 8)))
    assert no_prompt(encoder, 1).source == (2,)
    assert wrong_prompt(encoder, 1).source == (7, 8)


@pytest.mark.parametrize(
    ("word", "synonym"),
    [("ability", "power"), ("abilities", "powers"), ("abhorred", "loathed"), ("abating", "slaking")],
)
def test_synonyms_are_inflected_like_the_word(word: str, synonym: str) -> None:
    assert synonym in alternatives(word)
    assert word not in alternatives(word)


def test_words_without_a_synonym_have_none() -> None:
    assert alternatives("qqq") == ()
    assert alternatives("of") == ()


def test_synonyms_change_words_and_keep_capitals_and_the_rest(bench: Bench) -> None:
    text = "Abilities, 12 abilities! THE ABILITY of it."
    ids = tuple(bench.loaded.tokenizer(text, add_special_tokens=False)["input_ids"])
    target = dataclasses.replace(victim(bench.loaded), made=Made((1, *ids, *ids), 1))
    assert target.text == text + text
    assert synonyms(target, 0.0).new[: len(ids)] == ids
    made = bench.loaded.tokenizer.decode(list(synonyms(target, 1.0).new))
    assert made.startswith("Powers, 12 powers! THE POWER of it.")
