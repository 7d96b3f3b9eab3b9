"""The parts of a text that its tokens are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import okr
from okr.loaders.pieces import pieces


@pytest.fixture(scope="module", params=["tiny-deepseek-moe", "tiny-switch"])
def tokenizer(request):
    return okr.load(request.param).tokenizer


@given(text=st.text(max_size=40))
def test_the_pieces_are_the_text(tokenizer, text):
    """Whatever is written, characters of several tokens too: nothing is lost or doubled."""
    ids = tokenizer(text)["input_ids"]
    found = pieces(tokenizer, ids)
    assert len(found) == len(ids)
    assert "".join(found) == tokenizer.decode(ids, skip_special_tokens=True)


def test_a_word_is_its_own_piece(tokenizer):
    ids = tokenizer(" the river")["input_ids"]
    parts = [part.strip() for part in pieces(tokenizer, ids)]
    assert "".join(parts) == "theriver"
    assert len([part for part in parts if part]) > 1


def test_a_character_of_several_tokens_belongs_to_the_last():
    class Bytes:
        """One token a byte."""

        def decode(self, ids, skip_special_tokens):
            return bytes(ids).decode("utf-8", "replace")

    assert pieces(Bytes(), list("aé€b".encode())) == ["a", "", "é", "", "", "€", "b"]
    assert pieces(Bytes(), []) == []
