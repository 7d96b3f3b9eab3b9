"""The shipped passages: enough of them, long enough, from several registers, each with its source and licence."""

import dataclasses
import re

import pytest

from okr.loaders import Passage, passages

REGISTERS = ["speech", "drama", "bible", "novel", "sea-story", "technical", "king-james"]


def test_there_are_200_of_at_least_200_words() -> None:
    assert len(passages()) == 200
    assert all(200 <= len(p.text.split()) <= 260 for p in passages())


def test_every_field_is_filled_and_ids_are_unique() -> None:
    for passage in passages():
        assert all(isinstance(v, str) and v.strip() for v in dataclasses.asdict(passage).values())
    assert len({p.id for p in passages()}) == 200


def test_the_first_twenty_are_mixed_and_registers_take_turns() -> None:
    assert [p.register for p in passages()] == [REGISTERS[i % 7] for i in range(200)]


def test_each_register_has_one_source_with_package_and_licence() -> None:
    origins = {(p.register, p.source, p.licence) for p in passages()}
    assert len(origins) == len(REGISTERS)
    for _, source, licence in origins:
        assert re.fullmatch(r"\w+ \((npm|PyPI|Debian) .+\)", source)
        assert licence.startswith(("public domain", "PSF-2.0"))


def test_altered_text_does_not_carry_its_translation_s_name() -> None:
    everything = "".join(p.source + p.text for p in passages())
    assert "World English Bible" not in everything


def test_passages_begin_and_end_with_whole_sentences() -> None:
    for passage in passages():
        assert re.match(r"[\"'(*\[]*[A-Z0-9]", passage.text), passage.id
        assert re.search(r"[.!?][\"')\]]*\Z", passage.text), passage.id
        assert passage.text == passage.text.strip()


def test_passages_share_no_text() -> None:
    seen: dict[tuple[str, ...], str] = {}
    for passage in passages():
        words = passage.text.split()
        for i in range(len(words) - 24):
            window = tuple(words[i : i + 25])
            assert seen.setdefault(window, passage.id) == passage.id, (passage.id, seen[window])


@pytest.mark.parametrize("limit", [0, 1, 20, 200])
def test_a_limit_takes_the_first_ones(limit: int) -> None:
    assert passages(limit) == passages()[:limit]
    assert len(passages(limit)) == limit


def test_a_limit_above_the_count_takes_all_and_a_negative_one_is_refused() -> None:
    assert passages(1000) == passages()
    with pytest.raises(ValueError, match="negative"):
        passages(-1)


def test_the_list_is_the_caller_s_own_and_passages_are_frozen() -> None:
    passages().clear()
    assert len(passages()) == 200
    with pytest.raises(dataclasses.FrozenInstanceError):
        passages(1)[0].text = ""  # type: ignore[misc]
    assert isinstance(passages(1)[0], Passage)
